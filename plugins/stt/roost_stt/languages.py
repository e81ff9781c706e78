"""Spoken languages: what they are called, and which one a person has chosen for themselves."""

from __future__ import annotations

from collections.abc import Iterator

from roost.errors import UsageError
from roost.store import PluginStore

AUTO = "auto"
"""In place of a language: what counts next, in the end the engine's guess."""

# Whisper's own codes and names; https://github.com/openai/whisper, tokenizer.py.
_TABLE = """
    af Afrikaans, am Amharic, ar Arabic, as Assamese, az Azerbaijani, ba Bashkir, be Belarusian, bg Bulgarian,
    bn Bengali, bo Tibetan, br Breton, bs Bosnian, ca Catalan, cs Czech, cy Welsh, da Danish, de German, el Greek,
    en English, es Spanish, et Estonian, eu Basque, fa Persian, fi Finnish, fo Faroese, fr French, gl Galician,
    gu Gujarati, ha Hausa, haw Hawaiian, he Hebrew, hi Hindi, hr Croatian, ht Haitian Creole, hu Hungarian,
    hy Armenian, id Indonesian, is Icelandic, it Italian, ja Japanese, jw Javanese, ka Georgian, kk Kazakh, km Khmer,
    kn Kannada, ko Korean, la Latin, lb Luxembourgish, ln Lingala, lo Lao, lt Lithuanian, lv Latvian, mg Malagasy,
    mi Maori, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese, my Myanmar, ne Nepali,
    nl Dutch, nn Nynorsk, no Norwegian, oc Occitan, pa Punjabi, pl Polish, ps Pashto, pt Portuguese, ro Romanian,
    ru Russian, sa Sanskrit, sd Sindhi, si Sinhala, sk Slovak, sl Slovenian, sn Shona, so Somali, sq Albanian,
    sr Serbian, su Sundanese, sv Swedish, sw Swahili, ta Tamil, te Telugu, tg Tajik, th Thai, tk Turkmen, tl Tagalog,
    tr Turkish, tt Tatar, uk Ukrainian, ur Urdu, uz Uzbek, vi Vietnamese, yi Yiddish, yo Yoruba, yue Cantonese,
    zh Chinese
"""
LANGUAGES: dict[str, str] = {
    code: name for code, _, name in (entry.strip().partition(" ") for entry in _TABLE.split(","))
}
_CODES = {name.lower(): code for code, name in LANGUAGES.items()}

ENGLISH_ONLY = "This bot's speech model understands English alone, so everything is heard as English."


def language_code(text: str) -> str:
    """The code of a language that somebody typed: a code, an English name, or ``auto``.

    Raises:
        UsageError: There is none of that name.
    """
    typed = text.strip().lower()
    if typed == AUTO or typed in LANGUAGES:
        return typed
    if typed in _CODES:
        return _CODES[typed]
    raise UsageError("I do not know that language. Type its English name, or a code such as `de`, or `auto`.")


def language_name(code: str) -> str:
    """For people."""
    return LANGUAGES.get(code, code)


def suggestions(typed: str, limit: int = 25) -> Iterator[tuple[str, str]]:
    """Names and codes for what is typed so far."""
    typed = typed.strip().lower()
    entries = [("whatever is spoken", AUTO), *((name, code) for code, name in LANGUAGES.items())]
    # Those that begin with it before those that merely have it in them.
    entries.sort(key=lambda entry: not (entry[0].lower().startswith(typed) or entry[1].startswith(typed)))
    found = [(f"{name} ({code})", code) for name, code in entries if typed in f"{name} {code}".lower()]
    yield from found[:limit]


class UserLanguages:
    """The languages that people chose for themselves, in every server alike.

    Args:
        store: The plugin's.
    """

    def __init__(self, store: PluginStore) -> None:
        self._kept = store.collection("languages")
        self._known: dict[int, str] = {}

    async def load(self) -> None:
        """Read them; they are few and short."""
        async for each in self._kept.scan():
            self._known[int(each.key)] = str(each.value["language"])

    def of(self, user_id: int) -> str | None:
        return self._known.get(user_id)

    async def choose(self, user_id: int, language: str | None) -> None:
        """Remember a choice, or none."""
        if language is None:
            self._known.pop(user_id, None)
            await self._kept.delete(str(user_id))
        else:
            await self._kept.put(str(user_id), {"language": language}, user_id=user_id)
            self._known[user_id] = language

    def forget(self, user_id: int) -> None:
        """The store has forgotten them already."""
        self._known.pop(user_id, None)
