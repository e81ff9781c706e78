"""The ``roost`` command.

Exit status: 0 done, 1 the work failed (a leak, wrong words), 2 bad usage or configuration, 3 Discord or the database
unreachable, or the data in use by another process or lost.
Whatever goes wrong is one line on standard error that says what to do.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import importlib.metadata
import io
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from roost.entrypoints import spare_pydantic

spare_pydantic()  # before anything imports pydantic

from roost import config as configuration  # noqa: E402
from roost.backstop import Backstop  # noqa: E402
from roost.errors import ConfigError, ResourceError, RoostError, UsageError  # noqa: E402
from roost.logs import set_up_logging  # noqa: E402

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
EXIT_FAILED = 1
EXIT_GRACE_S = 2.0
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
DROP_IN_DIR = Path("plugins-dir")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    _print_anywhere()
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except RoostError as error:
        print(f"roost: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE if isinstance(error, ResourceError) else EXIT_USAGE
    except BrokenPipeError:
        # The reader (a pager, `head`) had enough.
        _discard_output()
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        _discard_output()
        print(f"roost: {error.strerror}; free some space where this command writes to", file=sys.stderr)
        return EXIT_FAILED
    except asyncio.CancelledError:
        print("roost: something, perhaps a plugin, cancelled the bot before it had started", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("roost: interrupted", file=sys.stderr)
        return 130
    return status


def _discard_output() -> None:
    """Keep the interpreter from complaining, when it ends, about output that nobody takes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_anywhere() -> None:
    """Print characters that the terminal does not know as ``\\u2026``, in place of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="roost", description="A Discord bot framework with voice that never leaks.")
    parser.add_argument("--version", action="version", version=f"roost {importlib.metadata.version('roost')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the bot")
    _add_config_options(run)
    run.add_argument("--token-file", type=Path, metavar="FILE", help="private file that holds the bot token")
    run.add_argument("--trace-hooks", action="store_true", help="log every call of a hook with its duration")
    run.add_argument("--offline", action="store_true", help="at a simulated Discord, with a prompt; needs no token")
    run.add_argument("--watch", action="store_true", help="with --offline: reload drop-in plugins whose files change")
    run.set_defaults(command=_run)

    new = commands.add_parser("new-plugin", help="write a drop-in plugin and its test")
    new.add_argument("name", help="of the plugin, its file and its command")
    new.add_argument("--dir", type=Path, default=DROP_IN_DIR, metavar="DIR", help=f"default: {DROP_IN_DIR}")
    new.set_defaults(command=_new_plugin)

    demo = commands.add_parser("demo", help="play the whole product against a simulated Discord")
    demo.add_argument("--json", action="store_true", help="print the ledger as one JSON object on the last line")
    demo.add_argument("--svg", type=Path, metavar="FILE", help="save a picture of the run")
    demo.add_argument("--driver", default="native", metavar="NAME", help="the voice driver (default: native)")
    demo.set_defaults(command=_demo)

    sim = commands.add_parser("sim", help="run the simulated Discord alone, for any client in any language")
    sim.add_argument("--port", type=int, default=None, metavar="P", help="port of REST, gateway and control API")
    sim.add_argument(
        "--ghosts",
        choices=("honoured", "ignored"),
        default="honoured",
        help="whether a new session's leave ends an old session's voice state",
    )
    sim.add_argument("--guilds", type=int, default=2, metavar="N", help="servers (default: 2)")
    sim.add_argument("--members", type=int, default=0, metavar="N", help="members of each beside the four with names")
    sim.add_argument("--shards", type=int, default=1, metavar="N", help="shards recommended to bots (default: 1)")
    sim.add_argument(
        "--max-concurrency", type=int, default=None, metavar="N", help="sessions in 5 s, held to (default: any number)"
    )
    sim.add_argument("--exit-with-parent", action="store_true", help="end when standard input closes")
    sim.set_defaults(command=_sim)

    plugins = commands.add_parser("plugins", help="list the plugins")
    _add_config_options(plugins)
    plugins.add_argument("--json", action="store_true", help="as a JSON list")
    plugins.set_defaults(command=_plugins)

    hooks = commands.add_parser("hooks", help="list the hooks a plugin may implement")
    _add_config_options(hooks)
    hooks.add_argument("--json", action="store_true", help="as a JSON list")
    hooks.set_defaults(command=_hooks)

    doctor = commands.add_parser("doctor", help="check what a bot needs: token, intents, libraries, disk")
    _add_config_options(doctor)
    doctor.add_argument("--token-file", type=Path, metavar="FILE", help="private file that holds the bot token")
    doctor.add_argument("--json", action="store_true", help="as a JSON list")
    doctor.set_defaults(command=_doctor)

    check = commands.add_parser("config", help="check or describe the configuration").add_subparsers(
        required=True, metavar="WHAT"
    )
    checker = check.add_parser("check", help="validate without connecting")
    _add_config_options(checker)
    checker.set_defaults(command=_config_check)
    schema = check.add_parser("schema", help="print the JSON schema of every setting, or of one plugin's")
    _add_config_options(schema)
    schema.add_argument("plugin", nargs="?", help="a plugin, or a table of the core such as store")
    schema.set_defaults(command=_config_schema)
    return parser


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: roost.toml if there is one)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="sets",
        help="override one setting; may be repeated",
    )
    parser.add_argument("--plugins-dir", type=Path, metavar="DIR", help="folder of drop-in plugins (x.py, x/)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder of all that the bot keeps",
    )


def _load(arguments: argparse.Namespace) -> configuration.Config:
    return configuration.load(path=arguments.config, sets=_sets(arguments), data_dir=arguments.data_dir)


def _sets(arguments: argparse.Namespace) -> list[str]:
    return [*arguments.sets, *([f"plugins.dir={arguments.plugins_dir}"] if arguments.plugins_dir else [])]


def _run(arguments: argparse.Namespace) -> int:
    if arguments.watch and not arguments.offline:
        raise UsageError("--watch goes with --offline; a live bot reloads by /bot plugins reload")
    if arguments.offline:
        return _run_offline(arguments)
    from roost.app import App
    from roost.mainloop import run_whole
    from roost.processes import leave_no_core

    leave_no_core()
    config = _load(arguments)
    token = configuration.read_token(token_file=arguments.token_file)
    set_up_logging(config.core.log.level, config.core.log.format)
    _trace_hooks(arguments)

    app = App(config, token)
    ended = False

    async def run() -> None:
        nonlocal ended
        status = EXIT_FAILED
        try:
            await app.run()
            status = 0
            ended = True
        finally:
            _exit_in_any_case(status)

    try:
        run_whole(run(), app.plugin_of)
    except RuntimeError as error:
        # asyncio waits for its idle threads in one thread more, which a full machine does not allow.
        if not ended:
            raise
        logging.getLogger("roost").warning("the bot has ended, but not its idle threads: %s", error)
    return 0


def _exit_in_any_case(status: int) -> None:
    """End the process soon, even if a thread that somebody left behind would keep it for ever."""

    def leave() -> None:
        main = threading.main_thread()
        left = [each.name for each in threading.enumerate() if each is not main and not each.daemon]
        logging.getLogger("roost").error("these threads did not end, so the process ends them: %s", ", ".join(left))
        os._exit(status)

    Backstop(EXIT_GRACE_S, leave).start()


def _run_offline(arguments: argparse.Namespace) -> int:
    try:
        from roost.dev.offline import run_offline
    except ModuleNotFoundError as error:
        raise UsageError(f"--offline needs {error.name}; run: pip install 'roost[sim]'") from None

    settings = dict(item.partition("=")[::2] for item in arguments.sets)
    set_up_logging(settings.get("log.level", "WARNING"), settings.get("log.format", "text"))
    _trace_hooks(arguments)
    folder = arguments.plugins_dir or (DROP_IN_DIR if DROP_IN_DIR.is_dir() else None)
    return run_offline(folder, settings=settings, data_dir=arguments.data_dir, watched=arguments.watch)


def _trace_hooks(arguments: argparse.Namespace) -> None:
    if arguments.trace_hooks:
        logging.getLogger("roost.hooks.trace").setLevel(logging.DEBUG)


def _sim(arguments: argparse.Namespace) -> int:
    from roost.sim import SimSettings, run

    set_up_logging("WARNING", "text")
    try:
        settings = SimSettings(
            ghost_null=arguments.ghosts,
            guilds=arguments.guilds,
            members=arguments.members,
            shards=arguments.shards,
            max_concurrency=arguments.max_concurrency,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    asyncio.run(run(arguments.port, settings, exit_with_parent=arguments.exit_with_parent))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from roost.demo import play

    return play(as_json=arguments.json, svg=arguments.svg, driver=arguments.driver)


def _plugins(arguments: argparse.Namespace) -> int:
    from roost.plugins import inspect_plugins

    rows = inspect_plugins(_load(arguments))
    if arguments.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['name']:<16} {row['version']:<8} {row['state']:<12} {row['source']:<16} {row['detail']}".rstrip())
    return 0


def _hooks(arguments: argparse.Namespace) -> int:
    from roost.dev.hooks_page import listing, rows

    config = _load(arguments)
    print(json.dumps(rows(config)) if arguments.json else listing(config))
    return 0


def _new_plugin(arguments: argparse.Namespace) -> int:
    from roost.dev.scaffold import new_plugin

    plugin, test = new_plugin(arguments.name, arguments.dir)
    where = "" if arguments.dir == DROP_IN_DIR else f" --plugins-dir {arguments.dir}"
    print(f"wrote {plugin} and {test}\ntry it: roost run --offline{where}, then type /{arguments.name}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from roost.dev.doctor import examine

    def load() -> tuple[configuration.Config, list[ConfigError]]:
        return configuration.examine(path=arguments.config, sets=_sets(arguments), data_dir=arguments.data_dir)

    findings = examine(load, arguments.token_file)
    if arguments.json:
        print(json.dumps([finding.row() for finding in findings]))
    else:
        for finding in findings:
            print(finding.line())
    return EXIT_FAILED if any(not finding.ok for finding in findings) else 0


def _config_check(arguments: argparse.Namespace) -> int:
    from roost.dev.settings_page import problems

    config, errors = configuration.examine(path=arguments.config, sets=_sets(arguments), data_dir=arguments.data_dir)
    found = problems(config, errors)
    for line in found:
        print(f"roost: {line}", file=sys.stderr)
    if found:
        return EXIT_USAGE
    print(f"the configuration is valid ({config.source or 'no file'})")
    return 0


def _config_schema(arguments: argparse.Namespace) -> int:
    from roost.dev.settings_page import schema

    print(json.dumps(schema(_load(arguments), arguments.plugin), indent=2))
    return 0
