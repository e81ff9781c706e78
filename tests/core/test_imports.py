"""No package has an import circle, but for those that are listed here and are to go."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

CHECKOUT = Path(__file__).parents[2]
PACKAGES = [
    CHECKOUT / "core/roost",
    CHECKOUT / "plugins/voice/roost_voice",
    CHECKOUT / "plugins/stt/roost_stt",
    CHECKOUT / "plugins/songbird/python/roost_songbird",
    CHECKOUT / "plugins/songbird/python/songbird",
]

Graph = dict[str, set[str]]
Circle = frozenset[str]

CIRCLES_LEFT = {
    frozenset(
        f"roost.plugins.{name}"
        for name in (
            "declared",
            "discovery",
            "forgetting",
            "guards",
            "guild_config",
            "host",
            "importing",
            "pauses",
            "plugin_context",
            "records",
            "residue",
            "switches",
        )
    ),
    frozenset(f"roost_stt.{name}" for name in ("commands", "gpu_commands", "plugin", "transcript_commands")),
}
"""This list only shrinks. All of these circles are for type checkers alone: none exists at run time."""


@pytest.fixture(scope="module")
def graphs() -> tuple[Graph, Graph]:
    return import_graphs(PACKAGES)


def test_import_circles_are_those_that_are_listed(graphs: tuple[Graph, Graph]) -> None:
    found = circles(graphs[0])
    assert found - CIRCLES_LEFT == set(), "new circles, or listed ones that have changed"
    assert CIRCLES_LEFT - found == set(), "these circles are gone or have changed: take them off the list"


def test_no_import_circle_exists_at_run_time(graphs: tuple[Graph, Graph]) -> None:
    assert circles(graphs[1]) == set()


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a": "from p import b", "b": "import p.c", "c": "from .a import x"}, [{"a", "b", "c"}]),
        ({"a": "from p import b", "b": "from p import c", "c": ""}, []),
        ({"a": "def f():\n    from p import b", "b": "from p.a import f"}, [{"a", "b"}]),
        (
            {"a": "from p import b", "b": "from p import a", "c": "from . import d", "d": "import p.c"},
            [{"a", "b"}, {"c", "d"}],
        ),
        ({"a": "if TYPE_CHECKING:\n    from p import b\nelse:\n    b = 1", "b": "from p import a"}, []),
        (
            {"a": "if typing.TYPE_CHECKING:\n    x = 1\nelse:\n    from p import b", "b": "from p import a"},
            [{"a", "b"}],
        ),
        ({"__init__": "from p import a", "a": "from p import name"}, [{"", "a"}]),
    ],
)
def test_circles_are_found(tmp_path: Path, sources: dict[str, str], expected: list[set[str]]) -> None:
    package = tmp_path / "p"
    package.mkdir()
    for name, text in {"__init__": "", **sources}.items():
        (package / f"{name}.py").write_text(text)
    named = {frozenset(f"p.{name}" if name else "p" for name in circle) for circle in expected}
    assert circles(import_graphs([package])[1]) == named


def import_graphs(packages: list[Path]) -> tuple[Graph, Graph]:
    """Read which modules of some packages import which others, without importing any.

    A module's parent packages do not count as imported with it.

    Args:
        packages: Their folders.

    Returns:
        The graph of all imports, and the graph without those below ``if TYPE_CHECKING:``.
    """
    files = {_name(file, package): file for package in packages for file in package.rglob("*.py*") if _is_source(file)}
    every: Graph = {}
    run_time: Graph = {}
    for module, file in files.items():
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        imported = list(_imports(ast.parse(file.read_text()), package.split("."), for_types=False))
        every[module] = _modules({name for name, _ in imported}, files.keys()) - {module}
        run_time[module] = _modules({name for name, for_types in imported if not for_types}, files.keys()) - {module}
    return every, run_time


def _is_source(file: Path) -> bool:
    return file.suffix in (".py", ".pyi")


def _name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules(names: set[str], known: Set[str]) -> set[str]:
    """Find the modules: ``from a import b`` names the module a.b, or something that is defined in the module a."""
    return {name if name in known else name.rpartition(".")[0] for name in names} & known


def _imports(node: ast.AST, package: list[str], for_types: bool) -> Iterator[tuple[str, bool]]:
    """Yield the dotted names that a statement and those inside it import, and whether only for type checkers."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, for_types) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parents = package[: len(package) + 1 - node.level] if node.level else []
        source = ".".join([*parents, *([node.module] if node.module else [])])
        yield from ((f"{source}.{alias.name}", for_types) for alias in node.names)
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _imports(child, package, for_types=True)
        for child in node.orelse:
            yield from _imports(child, package, for_types)
    else:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                yield from _imports(child, package, for_types)


def circles(graph: Graph) -> set[Circle]:
    """Group the modules that import each other, directly or through others: Tarjan's strongly connected components."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: set[Circle] = set()

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        path.append(module)
        for other in graph[module]:
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            start = path.index(module)
            if len(path) - start > 1:
                found.add(frozenset(path[start:]))
            del path[start:]

    for module in graph:
        if module not in order:
            visit(module)
    return found
