"""The two ways to write a plugin.

`Hooks` is the base of a plugin class whose hooks the editor completes and the type checker checks::

    class Greeter(Hooks):
        @hookimpl
        def plugin_meta(self) -> Meta:
            return Meta("greeter")

        @hookimpl
        async def voice_member_joined(self, session: VoiceSession, user_id: int) -> None: ...

`Plugin` is the short way for a few commands and hooks in a drop-in file::

    from roost import CommandContext, Plugin

    __roost_plugin__ = plugin = Plugin("hello")


    @plugin.command("hello", "Say hello")
    async def hello(ctx: CommandContext, name: str = "you") -> None:
        await ctx.respond(f"Hello, {name}!")
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from roost.errors import PluginError
from roost.hooks import INFO, Meta, RoostSpec, hookimpl, unknown_hook

if TYPE_CHECKING:
    import lightbulb

    Hooks = RoostSpec
else:

    class Hooks:
        """A base for plugin classes, empty at run time; to type checkers and editors it holds every hook.

        A hook that is written with another signature than its specification is a type error. The specification's
        ``async def`` stays one and every argument is taken; a class without this base may leave arguments out and
        write ``def`` instead, and is then checked when it is loaded.
        """


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
CommandT = TypeVar("CommandT", bound=Callable[..., Awaitable[Any]])


class Plugin:
    """A plugin that grows by decorators. Opens nothing.

    Args:
        name: Lower-case letters, digits, ``-`` and ``_``; for a drop-in file the file's name.
        description: One line for people.
        version: Of the plugin.
        requires: Names of plugins that must be loaded first.
        stop_commands: See `roost.hooks.Meta`.
        errors_of: See `roost.hooks.Meta`.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        *,
        version: str = "0",
        requires: tuple[str, ...] = (),
        stop_commands: tuple[str, ...] = (),
        errors_of: tuple[str, ...] = (),
    ) -> None:
        self._meta = Meta(name, version, requires, description, stop_commands=stop_commands, errors_of=errors_of)
        self._commands: list[tuple[str, str, Callable[..., Awaitable[Any]], dict[str, Any]]] = []

    @hookimpl
    def plugin_meta(self) -> Meta:
        return self._meta

    @hookimpl
    def register_loaders(self) -> list[lightbulb.Loader]:
        import lightbulb

        loader = lightbulb.Loader()
        for name, description, function, options in self._commands:
            loader.command(slash_command(name, description, function, **options))
        return [loader]

    def command(self, name: str, description: str, **options: Any) -> Callable[[CommandT], CommandT]:
        """Make a coroutine function a slash command.

        Its first parameter is the `lightbulb.Context`. Each further one becomes an option of that name, required
        unless it has a default; it is annotated ``str``, ``int``, ``float`` or ``bool``.

        Args:
            name: Of the command.
            description: What people read beside it, 1 to 100 characters.
            options: Of `lightbulb.SlashCommand`, ``default_member_permissions`` say.
        """

        def add(function: CommandT) -> CommandT:
            self._commands.append((name, description, function, options))
            return function

        return add

    def hook(self, function: FunctionT) -> FunctionT:
        """Implement the hook of the function's name.

        Raises:
            PluginError: There is no such hook.
        """
        name = function.__name__
        if name not in INFO:
            raise PluginError(unknown_hook(name, function), plugin=self._meta.name)
        setattr(self, name, hookimpl(function))
        return function


def slash_command(
    name: str, description: str, function: Callable[..., Awaitable[Any]], **options: Any
) -> type[lightbulb.SlashCommand]:
    """A lightbulb command that calls a coroutine function with the context and the options by name.

    Raises:
        PluginError: A parameter has an annotation that no option has.
    """
    import lightbulb

    makers: dict[Any, Callable[..., Any]] = {
        str: lightbulb.string,
        int: lightbulb.integer,
        float: lightbulb.number,
        bool: lightbulb.boolean,
    }
    hints = _hints(function)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    members: dict[str, Any] = {}
    for parameter in sorted(parameters, key=lambda each: each.default is not each.empty):
        kind = hints.get(parameter.name, str)
        if kind not in makers:
            known = ", ".join(each.__name__ for each in makers)
            what = f"the option {parameter.name} of /{name} is annotated {kind}, not one of {known}"
            raise PluginError(what, plugin=name)
        default = {} if parameter.default is parameter.empty else {"default": parameter.default}
        members[parameter.name] = makers[kind](parameter.name.replace("_", "-"), parameter.name, **default)

    async def invoke(self: Any, ctx: lightbulb.Context) -> None:
        await function(ctx, **{each.name: getattr(self, each.name) for each in parameters})

    # lightbulb's injector looks the annotations up itself.
    invoke.__annotations__ = {"ctx": lightbulb.Context, "return": None}
    members["invoke"] = lightbulb.invoke(invoke)
    made = types.new_class(
        f"Command_{name.replace('-', '_')}",
        (lightbulb.SlashCommand,),
        {"name": name, "description": description, **options},
        lambda namespace: namespace.update(members),
    )
    return typing.cast("type[lightbulb.SlashCommand]", made)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations of the options; what stands behind ``TYPE_CHECKING`` is not needed for them."""
    simple = {"str": str, "int": int, "float": float, "bool": bool}
    return {
        name: simple.get(hint, hint) if isinstance(hint, str) else hint
        for name, hint in inspect.get_annotations(function).items()
    }
