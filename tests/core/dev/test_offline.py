"""From nothing to a plugin that answers: two commands, no prompt, no token."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("ROOST_")}


def roost(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "roost", *arguments],
        cwd=folder,
        env=environ(),
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_two_commands_and_hello_answers(tmp_path: Path) -> None:
    began = time.monotonic()
    made = roost(tmp_path, "new-plugin", "hello")
    assert (made.returncode, made.stderr) == (0, "")
    ran = roost(tmp_path, "run", "--offline", typed="/hello\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Hello, Ada!\n", "")
    assert time.monotonic() - began < 30
    assert len((tmp_path / "plugins-dir" / "hello.py").read_text().splitlines()) <= 10


def test_the_generated_test_passes(tmp_path: Path) -> None:
    roost(tmp_path, "new-plugin", "hello")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "plugins-dir"],
        cwd=tmp_path,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_new_plugin_has_no_installed_plugins_name(tmp_path: Path) -> None:
    """Of two plugins of one name neither is loaded: ``new-plugin voice`` took the bot's voice away."""
    from roost.dev.scaffold import new_plugin
    from roost.errors import UsageError

    with pytest.raises(UsageError, match="voice is a plugin of the installed package roost"):
        new_plugin("voice", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["plugins", "bot", "privacy", "config", "core", "discord"])
def test_a_name_of_the_core_is_refused(tmp_path: Path, name: str) -> None:
    from roost.dev.scaffold import new_plugin
    from roost.errors import UsageError

    with pytest.raises(UsageError, match="a name of Roost's own"):
        new_plugin(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Hello", "9lives", "class", "a-b", "../x", "", "x" * 33])
def test_a_bad_name_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    from roost.dev.scaffold import new_plugin
    from roost.errors import UsageError

    with pytest.raises(UsageError, match="cannot be a plugin's name") as caught:
        new_plugin(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["hello.py", "tests/test_hello.py", "hello/__init__.py"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    mine = tmp_path / "plugins-dir" / taken
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    made = roost(tmp_path, "new-plugin", "hello")
    assert made.returncode == 2
    assert made.stderr.startswith("roost: ")
    assert "exists already" in made.stderr
    assert mine.read_text() == "mine"
    assert [each for each in (tmp_path / "plugins-dir").rglob("*") if each.is_file()] == [mine]


def test_a_session_at_the_prompt(tmp_path: Path) -> None:
    """Mistakes are one line each and end nothing; the exit status tells of them."""
    roost(tmp_path, "new-plugin", "hello", "--dir", "mine")
    (tmp_path / "mine" / "bad.py").write_text("x = = 1\n")
    (tmp_path / "mine" / "bad.py").chmod(0o644)
    typed = '/hello\n/nope\n/hello "\nonly talking\n\n/privacy status\n/hello'
    ran = roost(tmp_path, "run", "--offline", "--trace-hooks", "--plugins-dir", "mine", typed=typed)
    lines = ran.stdout.splitlines()
    assert ran.returncode == 1
    assert "bad failed" in lines[0]
    assert "bad.py:1" in lines[0]
    assert lines[1] == lines[-1] == "Hello, Ada!"
    assert "there is no command /nope" in lines[2]
    assert "no closing quotation" in lines[3]
    assert lines[4].endswith("(only you see this)")
    assert len(lines) == 6
    assert "hook register_loaders of hello: done in" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_edit_is_live_within_two_seconds(tmp_path: Path) -> None:
    roost(tmp_path, "new-plugin", "hello")
    file = tmp_path / "plugins-dir" / "hello.py"
    process = subprocess.Popen(
        [sys.executable, "-m", "roost", "run", "--offline", "--watch"],
        cwd=tmp_path,
        env=environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:

        def ask(command: str = "/hello") -> str:
            process.stdin.write(f"{command}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return process.stdout.readline().strip()  # type: ignore[union-attr]

        assert ask() == "Hello, Ada!"
        good = file.read_text()
        edited = time.monotonic()
        file.write_text(good.replace("Hello, ", "Good day, "))
        assert process.stdout.readline().startswith("plugin hello reloaded in ")
        assert ask() == "Good day, Ada!"
        assert time.monotonic() - edited < 2.0
        file.write_text(good.replace("await", "awiat"))
        assert process.stdout.readline().startswith("plugin hello was not reloaded: ")
        assert ask() == "Good day, Ada!"
        second = tmp_path / "plugins-dir" / "second.py"
        second.write_text(good.replace('"hello"', '"second"').replace("await", "awiat"))
        assert process.stdout.readline().startswith("plugin second was not loaded: ")
        second.write_text(good.replace('"hello"', '"second"'))
        assert process.stdout.readline().startswith("plugin second loaded in ")
        assert ask("/second") == "Hello, Ada!"
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    import signal

    roost(tmp_path, "new-plugin", "hello")
    process = subprocess.Popen(
        [sys.executable, "-m", "roost", "run", "--offline"],
        cwd=tmp_path,
        env=environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("/hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == "Hello, Ada!\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()


SHOWS = """
import lightbulb
from roost import Meta, hookimpl

NAMES = ("member", "user", "guild", "author", "locale", "guild-locale", "guild_locale", "command", "options", "self",
         "wait_s", "bot", "named", "body", "class", "import")

class Show(lightbulb.SlashCommand, name="show", description="Shows its options"):
    channel = lightbulb.channel("channel", "A channel", default=None)
    mate = lightbulb.user("mate", "A member", default=None)
    number = lightbulb.integer("number", "A number", default=0)
    given = [lightbulb.string(name, name, default="") for name in NAMES]
    text_0, text_1, text_2, text_3, text_4, text_5, text_6, text_7 = given[:8]
    text_8, text_9, text_10, text_11, text_12, text_13, text_14, text_15 = given[8:]
    del given

    @lightbulb.invoke
    async def invoke(self, ctx: lightbulb.Context) -> None:
        said = [f"{name}={getattr(self, f'text_{n}')}" for n, name in enumerate(NAMES) if getattr(self, f"text_{n}")]
        place = self.channel and self.channel.name
        await ctx.respond(f"« {place} {self.mate and self.mate.username} {' '.join(said)} » ✓ चीज़ें")

@hookimpl
def plugin_meta(): return Meta("show")

@hookimpl
def register_loaders():
    loader = lightbulb.Loader()
    loader.command(Show)
    return [loader]
"""
OPTION_NAMES = (
    "member", "user", "guild", "author", "locale", "guild-locale", "guild_locale", "command", "options", "self",
    "wait_s", "bot", "named", "body", "class", "import",
)  # fmt: skip


def shows(folder: Path, typed: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "plugins-dir").mkdir(mode=0o700)
    (folder / "plugins-dir" / "show.py").write_text(SHOWS)
    (folder / "plugins-dir" / "show.py").chmod(0o600)
    return subprocess.run(
        [sys.executable, "-m", "roost", "run", "--offline"],
        cwd=folder,
        env={**environ(), **extra},
        input=typed.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_options_of_any_name_reach_the_command(tmp_path: Path) -> None:
    typed = "".join(f"/show {name}:value\n" for name in OPTION_NAMES)
    typed += "/show channel:perch mate:Ben member:#notachannel\n/show channel:#loft mate:@Cleo user:@nobody\n"
    ran = shows(tmp_path, typed + "/show number:seven\n/show channel:nowhere\n/show\n")
    lines = ran.stdout.decode().splitlines()
    expected = [f"« None None {name}=value » ✓ चीज़ें" for name in OPTION_NAMES]
    expected += ["« perch ben member=#notachannel » ✓ चीज़ें", "« loft cleo user=@nobody » ✓ चीज़ें"]
    assert lines[: len(expected)] == expected
    wrong = lines[len(expected) : -1]
    assert len(wrong) == 2
    assert all(line.startswith("roost: ") for line in wrong)
    assert lines[-1] == "« None None  » ✓ चीज़ें"
    assert b"Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "terminal",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_terminal_that_knows_few_characters(tmp_path: Path, terminal: dict[str, str]) -> None:
    ran = shows(tmp_path, "/show user:चीज़ें\n/show user:plain\n", **terminal)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    assert b"user=plain" in lines[1]
    assert b"\\u2713" in lines[1]
    assert b"Traceback" not in ran.stderr
