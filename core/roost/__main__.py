"""``python -m roost`` is the ``roost`` command."""

from roost.cli import main

raise SystemExit(main())
