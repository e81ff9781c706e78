"""The pytest plugin of Roost: a fixture with a real bot at a simulated Discord. Loaded by pytest wherever Roost is.

::

    @pytest.mark.roost("plugins-dir/hello.py")
    @pytest.mark.asyncio
    async def test_hello(roost_bot: RoostBot) -> None:
        assert "Hello" in (await roost_bot.slash("/hello")).content

Nothing happens to a test that does not ask for one of the fixtures, and nothing heavy is imported before.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from roost.testing.clock import VirtualTime
    from roost.testing.kit import RoostBot

_MARK = (
    "roost(*plugins, installed=(), settings={}, guilds=2, leaks=True): what `roost_bot` runs: files of drop-in plugins "
    "(relative to the test's file or the root) or plugin objects; names of installed plugins; settings, "
    "section.key to value; leaks=False turns the leak check off"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)


def _async_fixture(function: Callable[..., Any]) -> Any:
    """A fixture of pytest-asyncio, or where that is missing one that says so."""
    try:
        import pytest_asyncio
    except ImportError:

        @pytest.fixture(name=function.__name__)
        def missing() -> None:
            raise pytest.UsageError("this fixture needs pytest-asyncio; run: pip install 'roost[testing]'")

        return missing
    return pytest_asyncio.fixture(function)


@_async_fixture
async def roost_bot(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RoostBot]:
    """A running `roost.testing.RoostBot` with the plugins that ``@pytest.mark.roost`` names.

    At the end the bot is stopped, and the test fails if a task, thread, child process, descriptor or listener is left.
    """
    from roost.testing.kit import running_bot
    from roost.testing.leftovers import leak_check

    mark = request.node.get_closest_marker("roost")
    arguments = dict(mark.kwargs) if mark else {}
    plugins = [_located(each, request.node) for each in (mark.args if mark else ())]
    checked = arguments.pop("leaks", True)
    async with AsyncExitStack() as stack:
        if checked:
            await stack.enter_async_context(leak_check())
        yield await stack.enter_async_context(running_bot(*plugins, data_dir=tmp_path / "roost-data", **arguments))


@pytest.fixture
def virtual_time() -> Iterator[Callable[..., VirtualTime]]:
    """`roost.testing.virtual_time`: runs a coroutine on a loop whose clock jumps instead of waiting."""
    from roost.testing.clock import VirtualTime

    made: list[VirtualTime] = []

    def make(start_s: float = 0.0) -> VirtualTime:
        made.append(VirtualTime(start_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _located(plugin: Any, item: pytest.Item) -> Any:
    if not isinstance(plugin, str | Path):
        return plugin() if inspect.isclass(plugin) else plugin
    path = Path(plugin)
    if path.is_absolute():
        return path
    for base in (item.path.parent, item.config.rootpath, Path.cwd()):
        if (base / path).exists():
            return base / path
    raise pytest.UsageError(f"there is no plugin {plugin} beside {item.path.name} or in {item.config.rootpath}")
