"""Words in the language of whoever reads them: the user's locale, then the guild's, then the English in the code.

A plugin keeps one catalogue per language in a folder ``locales`` beside its module: ``locales/de.toml`` for all of
German, ``locales/en-GB.toml`` for one locale. Two tables are known::

    [commands."hello"]                 # the path of the command: "group command" for one in a group
    name = "hallo"
    description = "Sag hallo"
    options.name.name = "wer"
    options.name.description = "Wen soll ich grüßen?"

    [replies]
    greeting = "Hallo, {name}!"

The command texts go to Discord, which shows each member their own. Replies are looked up when they are sent::

    texts = Texts.beside(__file__)
    await ctx.respond(texts(ctx, "greeting", "Hello, {name}!", name=name))

The English stays in the code, so a missing language, key or file falls back to it; a plugin without catalogues needs
nothing from here.
"""

from __future__ import annotations

import logging
import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hikari

_log = logging.getLogger("roost.i18n")

FOLDER = "locales"
LOCALES = tuple(str(locale.value) for locale in hikari.Locale)

Catalogue = Mapping[str, Any]


class Texts:
    """The catalogues of one plugin, read once, on first use. A broken catalogue is logged and left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._catalogues: dict[str, Catalogue] | None = None

    @classmethod
    def beside(cls, file: str | None) -> Texts:
        """The catalogues in ``locales`` beside a module, given its ``__file__``."""
        return cls(Path(file).parent / FOLDER if file else Path())

    @property
    def languages(self) -> tuple[str, ...]:
        """What there is, such as ``de`` and ``en-GB``."""
        return tuple(self._read())

    def __call__(self, reader: Any, key: str, english: str, /, **fields: object) -> str:
        """One reply.

        Args:
            reader: Who reads it: a `lightbulb.Context`, a hikari interaction, or a locale.
            key: In the table ``replies``.
            english: What it says where no catalogue has the key.
            fields: Fill the ``{places}`` of the text. Values are put in as they are, never formatted themselves.
        """
        for locale in locales_of(reader):
            for name in (locale, locale.partition("-")[0]):
                found = self._read().get(name, {}).get("replies", {}).get(key)
                if not isinstance(found, str):
                    continue
                try:
                    return _filled(found, fields)
                except (KeyError, ValueError, IndexError) as error:
                    _log.error("%s: the reply %s cannot be filled in: %s", self._folder / f"{name}.toml", key, error)
            if locale.startswith("en"):
                break  # The English in the code is a reader of English's own language, ahead of the guild's.
        return _filled(english, fields)

    def command(self, path: str) -> dict[str, Catalogue]:
        """What each locale of Discord says about the command at a path such as ``privacy status``."""
        found: dict[str, Catalogue] = {}
        for locale in LOCALES:
            for name in (locale, locale.partition("-")[0]):
                entry = self._read().get(name, {}).get("commands", {}).get(path)
                if isinstance(entry, Mapping):
                    found[locale] = entry
                    break
        return found

    def _read(self) -> dict[str, Catalogue]:
        if self._catalogues is None:
            self._catalogues = dict(_catalogues(self._folder))
        return self._catalogues


def _catalogues(folder: Path) -> Iterator[tuple[str, Catalogue]]:
    for file in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
        try:
            with file.open("rb") as stream:
                yield file.stem, tomllib.load(stream)
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            _log.error("the catalogue %s is left out: %s", file, error)


def _filled(text: str, fields: Mapping[str, object]) -> str:
    """Fill ``{name}`` places only: a catalogue cannot reach into the values by ``{name.attribute}``."""
    if not fields:
        return text
    parts = []
    for literal, name, _, _ in string.Formatter().parse(text):
        parts.append(literal)
        if name is not None:
            parts.append(str(fields[name]))
    return "".join(parts)


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its English noun: ``1 line``, ``3 lines``.

    Args:
        count: How many.
        one: The noun for one.
        many: The noun for any other number, where that is more than an added "s".
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def locales_of(reader: Any) -> tuple[str, ...]:
    """The locales of a reader, the user's own first, then the guild's."""
    if isinstance(reader, str):
        return (str(getattr(reader, "value", reader)),)
    interaction = getattr(reader, "interaction", reader)
    found = (getattr(interaction, "locale", None), getattr(interaction, "guild_locale", None))
    return tuple(str(getattr(each, "value", each)) for each in found if each)


def localise(builder: hikari.api.CommandBuilder, texts: Texts) -> None:
    """Put the translations of a plugin into the builder of one of its commands.

    A translation that Discord would refuse is left out and logged: one bad word must not cost a guild its commands.
    """
    _localise(builder, builder.name, texts)
    options = getattr(builder, "options", ())
    for option in options:
        _localise_option(option, builder.name, texts)


def _localise(part: Any, path: str, texts: Texts) -> None:
    entries = texts.command(path)
    names = {locale: entry["name"] for locale, entry in entries.items() if _is_name(entry.get("name"), path, locale)}
    if names:
        _add(part, "name_localizations", names)
    said = {
        locale: entry["description"]
        for locale, entry in entries.items()
        if _is_description(entry.get("description"), path, locale)
    }
    if said:
        _add(part, "description_localizations", said)


def _localise_option(option: hikari.CommandOption, path: str, texts: Texts) -> None:
    if option.type in (hikari.OptionType.SUB_COMMAND, hikari.OptionType.SUB_COMMAND_GROUP):
        path = f"{path} {option.name}"
        _localise(option, path, texts)
        inner: Sequence[hikari.CommandOption] = option.options or ()
        for each in inner:
            _localise_option(each, path, texts)
        return
    entries = {
        locale: entry["options"][option.name]
        for locale, entry in texts.command(path).items()
        if isinstance(entry.get("options"), Mapping) and isinstance(entry["options"].get(option.name), Mapping)
    }
    where = f"{path} {option.name}"
    names = {key: each["name"] for key, each in entries.items() if _is_name(each.get("name"), where, key)}
    said = {
        key: each["description"]
        for key, each in entries.items()
        if _is_description(each.get("description"), where, key)
    }
    if names:
        _add(option, "name_localizations", names)
    if said:
        _add(option, "description_localizations", said)


def _add(part: Any, attribute: str, found: Mapping[str, str]) -> None:
    """What the plugin gave lightbulb itself stays."""
    known = {str(getattr(key, "value", key)): value for key, value in (getattr(part, attribute) or {}).items()}
    merged = {hikari.Locale(locale): text for locale, text in {**found, **known}.items()}
    setter = getattr(part, f"set_{attribute}", None)
    if setter is not None:
        setter(merged)
    else:
        setattr(part, attribute, merged)


def _is_name(name: Any, path: str, locale: str) -> bool:
    if name is None:
        return False
    fits = (
        isinstance(name, str)
        and 1 <= len(name) <= 32
        and name == name.lower()
        and all(char.isalnum() or char in "-_'" for char in name)
    )
    if not fits:
        _log.error("the %s name of /%s is left out: %r is not 1 to 32 lower-case letters", locale, path, name)
    return fits


def _is_description(text: Any, path: str, locale: str) -> bool:
    if text is None:
        return False
    fits = isinstance(text, str) and 1 <= len(text) <= 100
    if not fits:
        _log.error("the %s description of /%s is left out: it must be 1 to 100 characters", locale, path)
    return fits
