"""What a person sees of the demo: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from roost.demo.ledger import Ledger

ACTS = ("Join and transcribe", "One session per guild", "Crash", "Stop", "Ledger")
CAPTIONS_KEPT = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """Someone in a voice channel."""

    name: str
    speaking: bool = False
    note: str = ""


@dataclasses.dataclass
class Scene:
    """All that the picture shows. The acts write it, the face reads it."""

    act: int = 0
    step: str = "Starting the simulated Discord"
    done: float = 0.0
    """Share of the whole play, 0 to 1."""
    channels: dict[str, list[Seat]] = dataclasses.field(default_factory=dict)
    captions: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    sessions: int = 0
    max_sessions: int = 0
    bot: str = "not running"
    workers: int = 0
    facts: list[str] = dataclasses.field(default_factory=list)
    """What has been shown so far, one line each."""


class Face:
    """Shows a `Scene`. One per demo, used as a context manager by `open_face`.

    Args:
        plain: Print a line per event instead of drawing.
        quiet: Print nothing but to standard error (the ledger goes to standard output as JSON).
    """

    def __init__(self, scene: Scene, *, plain: bool, quiet: bool) -> None:
        self.scene = scene
        self._plain = plain
        self._console = Console(file=sys.stderr if quiet else sys.stdout, highlight=False, soft_wrap=plain)
        self._started = time.monotonic()
        self._live: Live | None = None
        self._snapshot: Layout | None = None

    def act(self, number: int) -> None:
        self.scene.act = number
        self.step(ACTS[number - 1], heading=True)

    def step(self, text: str, *, heading: bool = False) -> None:
        """Say what happens next."""
        self.scene.step = text
        if self._plain:
            mark = f"== Act {self.scene.act}: " if heading else "   "
            self._line(f"{mark}{text}")

    def fact(self, text: str) -> None:
        """Say what was just shown to be true."""
        self.scene.facts.append(text)
        if self._plain:
            self._line(f"   * {text}")

    def caption(self, name: str, text: str) -> None:
        self.scene.captions.append((name, text))
        if self._plain:
            self._line(f'   [{name}] "{text}"')

    def picture_now(self) -> None:
        """Keep this moment for the saved picture."""
        self._snapshot = _draw(self.scene, time.monotonic() - self._started)

    def ledger(self, ledger: Ledger) -> None:
        """Show the final account."""
        self._console.print(_ledger_table(ledger))
        for text in ledger.failures():
            self._console.print(Text(f"FAILED: {text}", style="bold red"))
        verdict = "Nothing leaked." if not ledger.failures() else "The promise was not kept."
        self._console.print(Text(verdict, style="bold green" if not ledger.failures() else "bold red"))

    def save_svg(self, file: Path, ledger: Ledger) -> None:
        """Save the kept moment and the ledger as one SVG."""
        console = Console(record=True, width=112, height=30, file=io.StringIO(), highlight=False, force_terminal=True)
        if self._snapshot is not None:
            console.print(self._snapshot, height=26)
        console.print(_ledger_table(ledger))
        # The fonts that rich would load from elsewhere are left out: the picture stands alone.
        drawn = console.export_svg(title="make demo", unique_id="roost-demo")
        file.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL), encoding="utf-8")

    def _line(self, text: str) -> None:
        self._console.print(Text(f"{time.monotonic() - self._started:6.1f} s  {text}"))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw until the end of the block."""
        if self._plain:
            yield
            return
        with Live(
            get_renderable=lambda: _draw(self.scene, time.monotonic() - self._started),
            console=self._console,
            refresh_per_second=8,
            screen=True,
        ) as self._live:
            yield
        self._live = None


def open_face(scene: Scene, *, as_json: bool) -> Face:
    """A drawn face on a terminal, plain lines elsewhere; as JSON, the lines go to standard error."""
    return Face(scene, plain=as_json or not sys.stdout.isatty(), quiet=as_json)


def _draw(scene: Scene, elapsed_s: float) -> Layout:
    layout = Layout()
    layout.split_column(Layout(name="top", size=5), Layout(name="middle"), Layout(name="bottom", size=10))
    layout["middle"].split_row(Layout(name="channels", ratio=2), Layout(name="captions", ratio=3))
    title = f"Act {scene.act} of 5: {ACTS[scene.act - 1]}" if scene.act else "Roost"
    layout["top"].update(
        Panel(
            Group(Text(scene.step), ProgressBar(total=1.0, completed=scene.done)),
            title=f"{title}   {elapsed_s:.0f} s",
            border_style="cyan",
        )
    )
    layout["channels"].update(Panel(_channels(scene), title="Voice channels of the simulated Discord"))
    layout["captions"].update(Panel(_captions(scene), title="#general"))
    layout["bottom"].split_row(Layout(name="processes", ratio=2), Layout(name="facts", ratio=3))
    layout["processes"].update(
        Panel(
            Text(
                f"bot process      {scene.bot}\n"
                f"speech workers   {scene.workers}\n"
                f"voice sessions   {scene.sessions}\n"
                f"most at once     {scene.max_sessions}"
            ),
            title="Alive",
        )
    )
    layout["facts"].update(Panel(Text("\n".join(scene.facts[-8:])), title="Shown so far"))
    return layout


def _channels(scene: Scene) -> Group:
    lines = []
    for channel, seats in scene.channels.items():
        lines.append(Text(f"#{channel}", style="bold"))
        for seat in seats:
            style = "bold green" if seat.speaking else ""
            mark = ">" if seat.speaking else "\N{MIDDLE DOT}"
            lines.append(Text(f"  {mark} {seat.name}{f'  ({seat.note})' if seat.note else ''}", style=style))
        if not seats:
            lines.append(Text("     empty", style="dim"))
    return Group(*lines)


def _captions(scene: Scene) -> Group:
    return Group(*(Text.assemble((f"{name}: ", "bold"), text) for name, text in scene.captions[-CAPTIONS_KEPT:]))


def _ledger_table(ledger: Ledger) -> Table:
    table = Table(title="Ledger", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for what, figure, good in ledger.rows():
        table.add_row(what, figure, Text("ok", style="green") if good else Text("FAILED", style="bold red"))
    return table
