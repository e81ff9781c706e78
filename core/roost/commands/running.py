"""The plugins' slash commands that are at work: a plugin that goes lets them finish, then they are ended and answered.

Ending is a cancellation of what the plugin's code awaits; code that ignores it is reported, its member answered all
the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import hikari

from roost.errors import RoostError
from roost.errortext import error_line

if TYPE_CHECKING:
    import lightbulb

_log = logging.getLogger("roost.commands")

CANCEL_S = 0.5
"""How long a command may take to end once it is cancelled."""
ANSWER_S = 2.0
"""How long telling the members of ended commands may take."""

_NO_RESPONSE = 10015
"""Discord's code for what belongs to an interaction that nobody has responded to."""
GOING = {"reload": "The plugin {name} is being reloaded. Try again in a moment.", "shutdown": "I am going down."}
UNLOADED = "The plugin {name} is being unloaded."
STOPPED = "This was stopped before it was done. {why}"


class DeniedError(RoostError):
    """A command was refused; the message is for the member who ran it."""


class EndedError(RoostError):
    """A command was ended because its plugin goes; whoever ended it tells the member."""


class _Run:
    """One run of a command."""

    def __init__(self, ctx: lightbulb.Context) -> None:
        self.ctx = ctx
        self.path = ctx.command._command_data.qualified_name
        self.timer = asyncio.timeout(None)
        self.over = asyncio.Event()
        self.ending = False
        self.finished = False
        """Its handler came to its end by itself."""


class RunningCommands:
    """Knows every plugin's commands that are at work, and which plugins take none any more."""

    def __init__(self) -> None:
        self._runs: dict[str, set[_Run]] = {}
        self._going: dict[str, str] = {}
        """Plugins that are on their way out, and what is said about that."""
        self._loads: Counter[str] = Counter()

    @property
    def going(self) -> frozenset[str]:
        """Plugins whose commands are refused because they go or have gone."""
        return frozenset(self._going)

    def open(self, plugin: str) -> None:
        """A plugin was loaded: its commands are taken."""
        self._going.pop(plugin, None)
        self._loads[plugin] += 1

    def close(self, plugin: str, reason: str) -> None:
        """A plugin goes: from now on its commands are refused."""
        self._going[plugin] = GOING.get(reason, UNLOADED).format(name=plugin)

    def why_not(self, plugin: str) -> str | None:
        """Why a plugin takes no command, for members; None when it does."""
        return self._going.get(plugin)

    def admit(self, plugin: str) -> int:
        """Take a command that is yet to be checked; gives what `run` wants.

        Raises:
            DeniedError: The plugin is on its way out.
        """
        if plugin in self._going:
            raise DeniedError(self._going[plugin])
        return self._loads[plugin]

    @asynccontextmanager
    async def run(self, plugin: str, admitted: int, ctx: lightbulb.Context) -> AsyncIterator[None]:
        """What is awaited in this block is the command's work.

        Raises:
            DeniedError: The plugin went, or was loaded anew, since the command was admitted.
            EndedError: It was ended.
        """
        if self.admit(plugin) != admitted:
            raise DeniedError(GOING["reload"].format(name=plugin))
        run = _Run(ctx)
        mine = self._runs.setdefault(plugin, set())
        mine.add(run)
        try:
            async with run.timer:
                yield
            run.finished = True
        except Exception as error:
            if not run.ending:
                raise
            if not isinstance(error, TimeoutError):
                _log.info("plugin %s: /%s failed while it was ended: %s", plugin, run.path, error_line(error))
            raise EndedError(f"/{run.path} was ended") from None
        finally:
            mine.discard(run)
            run.over.set()

    async def finish(self, plugin: str, deadline: float, *, answer_s: float = ANSWER_S) -> list[str]:
        """Let the commands of a closed plugin finish until `deadline` (event loop time); end and answer the rest.

        Args:
            answer_s: How long the answers may take; what is cancelled has no longer to end either.

        Returns:
            What ignored its end.
        """
        loop = asyncio.get_running_loop()
        runs = set(self._runs.get(plugin, ()))
        await _over((run for run in runs if not run.ending), deadline - loop.time())
        late = {run for run in runs if not run.over.is_set() and not run.ending}
        for run in late:
            run.ending = True
            run.timer.reschedule(loop.time())
        await _over(late, min(CANCEL_S, answer_s))
        words = STOPPED.format(why=self._going.get(plugin, UNLOADED.format(name=plugin)))
        untold = [run for run in late if not run.finished]
        if untold:
            _log.info("plugin %s: ended %s", plugin, ", ".join(sorted(f"/{run.path}" for run in untold)))
            try:
                async with asyncio.timeout(answer_s):
                    await asyncio.gather(*(answer(run.ctx, words) for run in untold))
            except TimeoutError:
                _log.warning("plugin %s: Discord did not take the answers to its ended commands in time", plugin)
        return sorted(f"its command /{run.path} ignored its cancellation" for run in runs if not run.over.is_set())


async def _over(runs: Iterable[_Run], within_s: float) -> None:
    """Wait until all of them are over, or not longer."""
    try:
        async with asyncio.timeout(max(within_s, 0.0)):
            for run in tuple(runs):
                await run.over.wait()
    except TimeoutError:
        pass


async def is_answered(ctx: lightbulb.Context, *, unsaid: bool = True) -> bool:
    """Whether the member who ran a command has an answer, by Discord's word; a deferral alone is none.

    lightbulb does not know what a plugin answered through the interaction itself.

    Args:
        unsaid: What to return where Discord does not say.
    """
    try:
        first = await ctx.interaction.fetch_initial_response()
        return not first.flags & hikari.MessageFlag.LOADING
    except hikari.NotFoundError as error:
        return error.code != _NO_RESPONSE
    except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything
        _log.debug("Discord does not say whether a failed command was answered: %s", error_line(error))
        return unsaid


async def answer(ctx: lightbulb.Context, text: str) -> None:
    """Tell the member who ran a command, and nobody else, whatever it has answered before."""
    try:
        try:
            await ctx.respond(text, ephemeral=True, mentions_everyone=False, user_mentions=False, role_mentions=False)
        except hikari.BadRequestError:
            # What was cut short may have answered without lightbulb's having noted it.
            await ctx.interaction.execute(
                text,
                flags=hikari.MessageFlag.EPHEMERAL,
                mentions_everyone=False,
                user_mentions=False,
                role_mentions=False,
            )
    except Exception as error:  # noqa: BLE001 - an answer of another shape raises anything
        _log.debug("a failed command could not be answered: %s", error_line(error))
