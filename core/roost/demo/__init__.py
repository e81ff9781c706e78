"""The whole product doing its job, with no Discord account and no network: ``make demo``."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from roost.demo.face import Scene, open_face
from roost.demo.ledger import Ledger
from roost.demo.stage import play_acts
from roost.errors import ResourceError, UsageError


def play(*, as_json: bool, svg: Path | None, driver: str) -> int:
    """Play the demo; 0 if nothing leaked, the words are right and every reply is the expected one, else 1."""
    return asyncio.run(_play(as_json, svg, driver))


async def _play(as_json: bool, svg: Path | None, driver: str) -> int:
    if svg is not None and not svg.parent.is_dir():
        raise UsageError(f"the picture cannot be saved: there is no folder {svg.parent}")
    scene, ledger = Scene(), Ledger()
    face = open_face(scene, as_json=as_json)
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    failure: ResourceError | None = None
    try:
        with face.shown():
            await play_acts(face, scene, ledger, driver)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except ResourceError as error:
        failure = error
    except BaseExceptionGroup as group:
        failure = _only(group)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    if failure is not None:
        print(f"roost demo: {failure}", file=sys.stderr)
    face.ledger(ledger)
    good = not ledger.failures() and failure is None
    if svg is not None and good:
        face.save_svg(svg, ledger)
    elif svg is not None:
        print("roost demo: no picture is saved of a run that failed", file=sys.stderr)
    if as_json:
        print(ledger.as_json(), flush=True)
    return 0 if good else 1


def _only(group: BaseExceptionGroup) -> ResourceError:
    """The first failed step among those that ran at once; anything else is a bug and goes on."""
    failed, others = group.split(ResourceError)
    if others is not None or failed is None:
        raise group
    leaf: BaseException = failed
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, ResourceError)
    return leaf
