"""The ``roost`` command.

Exit status: 0 done, 1 the work failed (a leak, wrong words), 2 bad usage or configuration, 3 Discord unreachable.
Whatever goes wrong is one line on standard error that says what to do.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from roost import config as configuration
from roost.errors import ResourceError, RoostError
from roost.hooks import INFO, RoostSpec
from roost.logs import set_up_logging

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except RoostError as error:
        print(f"roost: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE if isinstance(error, ResourceError) else EXIT_USAGE
    except BrokenPipeError:
        # The reader (a pager, `head`) had enough; keep the interpreter from complaining about it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("roost: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="roost", description="A Discord bot framework with voice that never leaks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the bot")
    _add_config_options(run)
    run.add_argument("--token-file", type=Path, metavar="FILE", help="private file that holds the bot token")
    run.set_defaults(command=_run)

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
    sim.add_argument("--exit-with-parent", action="store_true", help="end when standard input closes")
    sim.set_defaults(command=_sim)

    plugins = commands.add_parser("plugins", help="list the plugins")
    _add_config_options(plugins)
    plugins.add_argument("--json", action="store_true", help="as a JSON list")
    plugins.set_defaults(command=_plugins)

    hooks = commands.add_parser("hooks", help="list the hooks a plugin may implement")
    hooks.set_defaults(command=_hooks)

    check = commands.add_parser("config", help="check the configuration").add_subparsers(required=True, metavar="WHAT")
    checker = check.add_parser("check", help="validate without connecting")
    _add_config_options(checker)
    checker.set_defaults(command=_config_check)
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
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where settings and locks are kept")


def _load(arguments: argparse.Namespace) -> configuration.Config:
    sets = [*arguments.sets, *([f"plugins.dir={arguments.plugins_dir}"] if arguments.plugins_dir else [])]
    return configuration.load(path=arguments.config, sets=sets, data_dir=arguments.data_dir)


def _run(arguments: argparse.Namespace) -> int:
    from roost.app import App

    config = _load(arguments)
    token = configuration.read_token(token_file=arguments.token_file)
    set_up_logging(config.core.log.level, config.core.log.format)

    async def run() -> None:
        await App(config, token).run()

    asyncio.run(run())
    return 0


def _sim(arguments: argparse.Namespace) -> int:
    from roost.sim import SimSettings, run

    set_up_logging("WARNING", "text")
    settings = SimSettings(ghost_null=arguments.ghosts)
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


def _hooks(_arguments: argparse.Namespace) -> int:
    for name, info in INFO.items():
        spec = getattr(RoostSpec, name)
        signature = str(inspect.signature(spec)).replace("(self, ", "(").replace("(self)", "()")
        sync = ", sync" if info.sync else ""
        summary = (inspect.getdoc(spec) or "").splitlines()[0]
        print(f"{name}{signature}\n    [{info.kind.value}{sync}] {summary}")
    return 0


def _config_check(arguments: argparse.Namespace) -> int:
    from roost.plugins import State, inspect_plugins

    config = _load(arguments)
    failed = [row for row in inspect_plugins(config, validate=True) if row["state"] == State.FAILED.value]
    for row in failed:
        print(f"roost: {row['detail']}", file=sys.stderr)
    if failed:
        return EXIT_USAGE
    print(f"the configuration is valid ({config.source or 'no file'})")
    return 0
