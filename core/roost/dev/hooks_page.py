"""What ``roost hooks`` prints, and the page ``docs/hooks.md``, both made from the hook specifications.

``python -m roost.dev.hooks_page docs/hooks.md`` writes the page.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roost.hooks import INFO, Kind, RoostSpec

if TYPE_CHECKING:
    from roost.config import Config

WIDTH = 100
"""Characters of a line of the page, code aside."""
KINDS = {
    Kind.OWN: "own",
    Kind.ALL: "all",
    Kind.PAR: "par",
    Kind.FIRST: "first",
}

GROUPS: Sequence[tuple[str, str]] = (
    ("Being a plugin", r"plugin_meta|register_.*|on_load|on_unload|handover"),
    ("The bot's life", r"on_started|on_stopping|plugin_.*|guild_.*|.*config.*"),
    ("Commands and errors", r"command_check|handle_error"),
    ("Health and people's data", r"health|diagnostics|user_data_.*|migrate.*"),
    ("Voice", r"voice_.*|call_status"),
    ("Speech", r"stt_.*|transcript_.*"),
    ("More", r".*"),
)

HEAD = """\
# Hooks

Made from the hook specifications by `make docs`; do not edit. `roost hooks` prints the same, with the plugins that are
installed where you run it.

A hook is a method (or, in a drop-in module, a function) marked with `@hookimpl`. Take the arguments you need, by name.
`def` and `async def` both work, except where a hook is *sync*: that must be a plain `def`. Derive the class from
`roost.Hooks` and the editor completes every hook, and the type checker refuses a wrong signature. A misspelt hook or
argument fails the load of its plugin, with file and line, and of no other.

| Kind | How it is called |
|---|---|
| own | Only the plugin concerned. |
| all | Every plugin in turn. One that raises or runs out of time is left out of the answers. |
| par | Every plugin at the same time, else like *all*. |
| first | In turn until one answers something other than `None`. |

Plugins are called in the reverse of the order in which they were loaded, so a plugin comes before those it needs;
`@hookimpl(tryfirst=True)` and `trylast=True` move one to either end. *Dependents first* means that not even these do.
A plugin that is switched off in a guild is not called about that guild.
"""


def signature(name: str) -> str:
    """``voice_idle(seconds: float) -> None``."""
    text = str(inspect.signature(getattr(RoostSpec, name)))
    return name + re.sub(r"\(self(, )?", "(", text, count=1).replace("'", "")


def description(name: str) -> str:
    """The documentation of a hook in one paragraph; empty if there is none."""
    return " ".join((inspect.getdoc(getattr(RoostSpec, name)) or "").split())


def rules(name: str) -> list[str]:
    """How the host calls a hook, in words."""
    info = INFO[name]
    found = [KINDS[info.kind]]
    if info.sync:
        found.append("sync")
    if info.deadline_s is not None:
        found.append(f"{info.deadline_s:g} s")
    if info.always:
        found.append("also called in quarantine")
    if info.guard:
        found.append("refuses while it does not work")
    if info.graph_order:
        found.append("dependents first")
    return found


def page() -> str:
    """The whole of ``docs/hooks.md``."""
    parts = [HEAD]
    left = list(INFO)
    for title, pattern in GROUPS:
        names = [name for name in left if re.fullmatch(pattern, name)]
        left = [name for name in left if name not in names]
        if not names:
            continue
        parts.append(f"\n## {title}\n")
        for name in names:
            spec = getattr(RoostSpec, name)
            keyword = "async def" if inspect.iscoroutinefunction(spec) else "def"
            parts.append(
                f"\n### {name}\n\n```python\n{keyword} {signature(name)}\n```\n\n*{', '.join(rules(name))}*\n\n"
                f"{_in_lines(description(name))}\n"
            )
    return "".join(parts)


def _in_lines(paragraph: str) -> str:
    """The same paragraph, each sentence on lines of its own."""
    sentences = re.split(r"(?<=\.) ", paragraph)
    return "\n".join(textwrap.fill(each, WIDTH, break_long_words=False, break_on_hyphens=False) for each in sentences)


def implementers(config: Config | None) -> dict[str, list[str]]:
    """Hook to the plugins that implement it, in call order, as they would be loaded. None asks nobody.

    Raises:
        ConfigError: The drop-in folder cannot be used, or a table of the configuration belongs to nobody.
    """
    if config is None:
        return {name: [] for name in INFO}
    from roost.plugins import inspect_plugins

    order = [row for row in _in_load_order(inspect_plugins(config)) if row["state"] == "found"]
    return {name: [str(row["name"]) for row in reversed(order) if name in row["hooks"]] for name in INFO}


def _in_load_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Dependencies first; among equals by name, as the host loads them."""
    left = {str(row["name"]): row for row in sorted(rows, key=lambda each: str(each["name"]))}
    order: list[Mapping[str, Any]] = []
    while left:
        ready = [name for name in left if not set(left[name].get("requires") or ()) & set(left)] or [next(iter(left))]
        order += [left.pop(name) for name in ready]
    return order


def rows(config: Config | None) -> list[dict[str, Any]]:
    """One row per hook, for programs."""
    calls = implementers(config)
    return [
        {
            "name": name,
            "signature": signature(name),
            "kind": KINDS[info.kind],
            "sync": info.sync,
            "deadline_s": info.deadline_s,
            "dependents_first": info.graph_order,
            "description": description(name),
            "implementers": calls[name],
        }
        for name, info in INFO.items()
    ]


def listing(config: Config | None) -> str:
    """For people at a terminal."""
    lines = []
    for row in rows(config):
        lines.append(row["signature"])
        lines.append(f"    [{', '.join(rules(row['name']))}] {row['description']}")
        if row["implementers"]:
            lines.append(f"    called: {' -> '.join(row['implementers'])}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file named; gives the exit status."""
    if len(arguments) != 1:
        print("usage: python -m roost.dev.hooks_page FILE", file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
