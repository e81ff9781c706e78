"""The targets are modules beside the tests, so that they run without pytest too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
