"""Getting a plugin's code: import it, find the plugin in it, check its hooks, and let go of its modules again.

Imports run in a thread of their own, so that one that hangs costs its deadline and nothing else. The thread is a
daemon: nobody can end it, but it does not keep the process alive.

In a drop-in module the plugin is, in this order: what ``__roost_plugin__`` names (a class, an object, or the name of
one); the one class defined there that implements ``plugin_meta``; the module itself with its ``@hookimpl`` functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from roost.errors import PluginError
from roost.errortext import repr_of
from roost.hooks import INFO, PROJECT, Meta, RoostSpec, defined_at, unknown_hook
from roost.i18n import Texts
from roost.plugins.declared import API_VERSION, IncompatibleError, refuse_other_interface
from roost.plugins.records import Origin, PluginRecord
from roost.strays import tamed

DROP_INS = "roost_dropins"
"""The package that drop-in plugins are imported into, so that none can shadow another module."""

_MARK = f"{PROJECT}_impl"
_RECENT_S = 2.0
_begun: dict[str, int] = {}
"""Package to how often its import was begun."""


class Code:
    """A plugin's code as imported: makes instances, and knows what it says about itself."""

    def __init__(self, factory: Callable[[], Any], instance: Any, meta: Meta) -> None:
        self.factory = factory
        self.instance = instance
        self.meta = meta

    def again(self) -> Code:
        """The same code with a new instance."""
        return Code(self.factory, self.factory(), self.meta)


async def import_code(record: PluginRecord, limit_s: float) -> Code:
    """Import a plugin in a thread and make one instance.

    Raises:
        PluginError: It took too long, or what was found is no plugin.
        Exception: Whatever the plugin's code raises; ``SystemExit`` too.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Code] = loop.create_future()
    abandoned = threading.Event()
    _begun[record.origin.prefix] = mine = _begun.get(record.origin.prefix, 0) + 1

    def finish(code: Code | None, error: BaseException | None) -> None:
        if done.done():
            return
        if code is not None:
            done.set_result(code)
        else:
            assert error is not None
            done.set_exception(_Raised(error))

    def work() -> None:
        code, error = None, None
        try:
            code = import_now(record)
        except BaseException as caught:  # noqa: BLE001 - handed to the waiting task
            error = tamed(caught)
        if abandoned.is_set():
            if _begun[record.origin.prefix] == mine:  # else those modules are a later import's, which may have worked
                forget_modules(record.origin.prefix)
            return
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(finish, code, error)

    thread = threading.Thread(target=work, name=f"roost import {record.name}", daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(limit_s):
            return await asyncio.shield(done)
    except _Raised as raised:
        raise raised.error from None
    except TimeoutError:
        raise _hangs(record, thread, limit_s) from None
    finally:
        if not done.done():
            abandoned.set()
            done.cancel()


def import_waiting(record: PluginRecord, limit_s: float) -> Code:
    """`import_code` for callers without an event loop."""
    results: list[Code | BaseException] = []

    def work() -> None:
        try:
            results.append(import_now(record))
        except BaseException as caught:  # noqa: BLE001 - raised in the waiting thread
            results.append(tamed(caught))

    thread = threading.Thread(target=work, name=f"roost import {record.name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not results:
        raise _hangs(record, thread, limit_s)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def _hangs(record: PluginRecord, thread: threading.Thread, limit_s: float) -> PluginError:
    place = _place(thread, record.origin.prefix)
    return PluginError(f"its import took longer than {limit_s:g} s and hangs at {place}", plugin=record.name)


class _Raised(Exception):
    """Carries what an import raised: a future cannot hold every exception."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("an import failed")
        self.error = error


def _place(thread: threading.Thread, prefix: str) -> str:
    """``file:line`` where a thread is, in the plugin's own code if it can be seen."""
    frame = sys._current_frames().get(thread.ident or 0)
    innermost = frame
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name == prefix or name.startswith(prefix + "."):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{innermost.f_code.co_filename}:{innermost.f_lineno}" if innermost is not None else "an unknown place"


def import_now(record: PluginRecord) -> Code:
    """Import in the calling thread; see `import_code`.

    Raises:
        IncompatibleError: It is for another hook interface; it was not imported if its source says so.
    """
    importlib.invalidate_caches()
    refuse_other_interface(record.name, record.origin)
    found = _find(record.origin)
    factory: Callable[[], Any] = found if inspect.isclass(found) else functools.partial(_same, found)
    instance = factory()
    ask = getattr(instance, "plugin_meta", None)
    if ask is None:
        raise PluginError("it has no plugin_meta", plugin=record.name)
    meta = ask()
    if not isinstance(meta, Meta):
        raise PluginError(f"plugin_meta gave {repr_of(meta)}, not a roost.Meta", plugin=record.name)
    _check_meta(meta, record.name)
    if meta.name != record.name:
        raise PluginError(f"it calls itself {meta.name!r} but is installed as {record.name!r}", plugin=record.name)
    if meta.roost_api != API_VERSION:
        raise IncompatibleError(record.name, meta.roost_api, meta.version)
    return Code(factory, instance, meta)


def _check_meta(meta: Meta, plugin: str) -> None:
    """Refuse a Meta whose fields are not what they are annotated to be: sorting and showing plugins relies on them."""
    for field, kind in (
        ("name", str),
        ("version", str),
        ("description", str),
        ("roost_api", int),
        ("data_version", int),
    ):
        value = getattr(meta, field)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise PluginError(f"Meta.{field} must be {kind.__name__}, and is {repr_of(value)}", plugin=plugin)
    for field in ("requires", "stop_commands", "errors_of"):
        value = getattr(meta, field)
        if not isinstance(value, tuple | list) or not all(isinstance(name, str) for name in value):
            raise PluginError(
                f"Meta.{field} must be a tuple of names such as ('voice',), and is {repr_of(value)}", plugin=plugin
            )


def _same(found: Any) -> Any:
    return found


def _find(origin: Origin) -> Any:
    if origin.file is None:
        module = importlib.import_module(origin.module)
        found: Any = module
        for part in (origin.attribute or "").split(".") if origin.attribute else ():
            found = getattr(found, part)
        return found
    return _plugin_in(_import_file(origin))


def _import_file(origin: Origin) -> types.ModuleType:
    forget_modules(origin.module)  # another bot of this process may have had a plugin of that name
    if DROP_INS not in sys.modules:
        sys.modules[DROP_INS] = types.ModuleType(DROP_INS, "Drop-in plugins are imported below this name.")
        sys.modules[DROP_INS].__path__ = []
    assert origin.file is not None
    file = Path(origin.file)
    folder = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(origin.module, file, submodule_search_locations=folder)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[origin.module] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(origin.module) is module:
            del sys.modules[origin.module]
        raise
    return module


def _plugin_in(module: types.ModuleType) -> Any:
    named = getattr(module, "__roost_plugin__", None)
    if named is not None:
        return getattr(module, named) if isinstance(named, str) else named
    classes = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__ and _is_hook(getattr(each, "plugin_meta", None))
    ]
    if len(classes) > 1:
        names = ", ".join(each.__name__ for each in classes)
        raise PluginError(
            f"it has several plugin classes ({names}); name one in __roost_plugin__", plugin=module.__name__
        )
    return classes[0] if classes else module


def _is_hook(function: Any) -> bool:
    return hasattr(function, _MARK)


def implementations(instance: Any) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """(hook name, function, options) of everything an instance marks with ``@hookimpl``."""
    for name in dir(instance):
        function = getattr(type(instance), name, None) if not isinstance(instance, types.ModuleType) else None
        if isinstance(function, property):
            continue
        found = getattr(instance, name, None)
        options = getattr(found, _MARK, None)
        if isinstance(options, dict) and inspect.isroutine(found):
            yield options.get("specname") or name, found, options


def check_hooks(record: PluginRecord, instance: Any) -> None:
    """Refuse misspelt hooks and wrong signatures of this plugin; other plugins' mistakes are theirs.

    Raises:
        PluginError: With file and line.
    """
    for name, function, options in implementations(instance):
        place = defined_at(function)
        info = INFO.get(name)
        if info is None:
            if options.get("optionalhook"):
                continue
            raise PluginError(unknown_hook(name, function), plugin=record.name)
        known = list(inspect.signature(getattr(RoostSpec, name)).parameters)[1:]
        for argument in inspect.signature(function).parameters.values():
            if (
                argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
                or argument.default is not argument.empty
            ):
                continue
            if argument.name not in known:
                takes = ", ".join(known) or "nothing"
                raise PluginError(
                    f"{name} has no argument {argument.name}, it has {takes} ({place})", plugin=record.name
                )
        if info.sync and inspect.iscoroutinefunction(function):
            raise PluginError(f"{name} must be a plain def ({place})", plugin=record.name)
        if options.get("hookwrapper") or options.get("wrapper"):
            raise PluginError(
                f"{name} is a wrapper; Roost calls hooks itself and has none ({place})", plugin=record.name
            )


def own_modules(prefix: str) -> dict[str, types.ModuleType]:
    """What is imported of a plugin's own package."""
    return {name: module for name, module in list(sys.modules.items()) if is_below(name, prefix)}


def is_below(name: str, prefix: str) -> bool:
    """Whether a module is a package, or in it."""
    return name == prefix or name.startswith(prefix + ".")


def forget_modules(prefix: str) -> dict[str, types.ModuleType]:
    """Take a plugin's own modules out of ``sys.modules``, so that the next import is a fresh one; gives them."""
    taken = own_modules(prefix)
    for name, module in taken.items():
        sys.modules.pop(name, None)
        _drop_stale_bytecode(module)
    return taken


def restore_modules(prefix: str, modules: dict[str, types.ModuleType]) -> None:
    """Put back what `forget_modules` took, in place of what was imported since."""
    for name in own_modules(prefix):
        sys.modules.pop(name, None)
    sys.modules.update(modules)


def _drop_stale_bytecode(module: types.ModuleType) -> None:
    """Python trusts bytecode by the source's second and size: of a file just edited twice that may be the old one."""
    source, cached = getattr(module, "__file__", None), getattr(module, "__cached__", None)
    if not source or not cached:
        return
    with contextlib.suppress(OSError):
        if Path(cached).stat().st_mtime - Path(source).stat().st_mtime < _RECENT_S:
            Path(cached).unlink()


def texts_of(record: PluginRecord) -> Texts:
    """The catalogues beside a plugin's module."""
    module = sys.modules.get(record.origin.module)
    return Texts.beside(record.origin.file or getattr(module, "__file__", None))


def prefix_of(record: PluginRecord, others: Collection[PluginRecord]) -> str:
    """The modules that are this plugin's alone: its top-level package, or less if another plugin lives in there."""
    prefix = record.origin.prefix
    if prefix == "roost" or any(other is not record and other.origin.prefix == prefix for other in others):
        return record.origin.module
    return prefix
