"""What captions look like and when they are posted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import unicodedata
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import ResourceError
from roost.scopes import Scope
from roost_stt.captioner import QUEUE_LIMIT, Captioner, ChannelRate, ChannelRates
from roost_stt.captions import MESSAGE_LIMIT, Line, clean, display_name, pack, text_of
from roost_stt.pages import Wanted, always
from roost_stt.recalls import Recaller

pytestmark = pytest.mark.unit


def render(lines: list[Line]) -> list[str]:
    """Lines as the texts of messages."""
    return [text_of(message) for message in pack(lines)]


def test_an_ordinary_line() -> None:
    assert render([Line("Ada", "Don't ask: it's 5 o'clock, isn't it?")]) == [
        "**Ada**: Don't ask: it's 5 o'clock, isn't it?"
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "@everyone",
        "@here",
        "<@123>",
        "<@&123>",
        "<#123>",
        "</join:123>",
        "<t:0:R>",
        "<a:x:1>",
        "https://evil.example",
        "discord.gg/abc",
        "[a](https://b)",
        "**bold**",
        "||spoiler||",
        "`code`",
        "__u__",
        "~~s~~",
        ":smile:",
    ],
)
def test_nothing_pings_links_or_formats(hostile: str) -> None:
    for line in (Line("Ada", f"hello {hostile} there"), Line(hostile, "hello")):
        (message,) = render([line])
        bare = re.sub(r"\\.", "", message).removeprefix("**").replace("**:", ":", 1)
        assert not re.search(r"[*_~`|<>@#\[\]()]|://|gg/|:\w+:", bare), message


def test_the_bots_own_words_keep_their_links() -> None:
    assert render([Line("Roost", "See <#1>: `/transcribe start`", own=True)]) == [
        "**Roost**: See <#1>: `/transcribe start`"
    ]


def test_text_that_hides_or_turns_is_neutralised() -> None:
    assert clean("a\u202eb\u200bc\u2066d\u2069e\ufefff\x00g\u00adh\u061ci") == "abcdefghi"
    assert clean("one\ntwo\u2028three\r\n# four") == "one two three # four"
    assert clean("z" + "\u0301" * 20) == "ź\u0301\u0301"
    assert display_name("\u200b\u202e \u2800") == "Someone"
    assert display_name("x" * 100) == "x" * 32


@pytest.mark.parametrize(
    "whole",
    [
        "चीज़ें",
        "मुंबई में चीज़ें",
        "မြို့",
        "လျှို့ဝှက်",
        "می\u200cخواهم",
        "ه\u200d",
        "ශ්\u200dරී ලංකා",
        "ന്\u200d",
        "བསྒྲུབས་",
        "สวัสดีที่นี่",
        "שָׁלוֹם",
        "مُحَمَّدٌ",
        "Nguyễn Thị Hằng",
        "👨\u200d👩\u200d👧\u200d👦",
        "👩🏽\u200d💻",
        "❤\ufe0f\u200d🔥",
        "🏳\ufe0f\u200d🌈",
        "🏴\u200d☠\ufe0f",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "🇩🇪 🇲🇲",
        "1\ufe0f\u20e3",
        "🙂\u200d↔\ufe0f",
        "\U0001fae8 \U0001fac6",
    ],
)
def test_words_of_every_script_come_back_whole(whole: str) -> None:
    assert clean(whole) == unicodedata.normalize("NFC", whole)
    assert clean(f"a {whole} b") == f"a {clean(whole)} b"


@pytest.mark.parametrize(
    ("stacked", "most"),
    [
        ("z" + "\u0301\u0316\u0332\u0359\u0323" * 30, 3),
        ("ก" + "\u0e47" * 30, 2),
        ("ก" + "\u0e47\u0e49\u0e4d\u0e48" * 30, 5),
        ("ا" + "\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0653" * 9, 7),
        ("a" + "\u0651\u064e\u064f" * 9, 3),
        ("a" + "\u0301\u0903" * 30, 33),
        ("می" + "\u200c" * 30, 3),
        ("👨" + "\u200d" * 30 + "👩", 3),
        ("1" + "\ufe0f" * 30, 2),
        ("🏴" + "\U000e0067" * 30, 1),
    ],
)
def test_stacks_of_marks_and_joiners_are_cut(stacked: str, most: int) -> None:
    assert len(clean(stacked)) <= most


def test_joiners_that_join_nothing_are_dropped() -> None:
    assert clean("a\u200db\u200cc \u200d \u200c👩\u200d x") == "abc 👩 x"
    assert clean("می\u202eخو\u2066اهم\u200f") == "میخواهم"


def test_a_cut_splits_no_letter() -> None:
    assert display_name("x" * 30 + "👨\u200d👩\u200d👧") == "x" * 30
    assert display_name("x" * 31 + "မြို့") == "x" * 31
    thai = "ที่" * 300
    joined = "".join(
        part for message in render([Line("A", thai)]) for part in message.removeprefix("**A**: ").split(" ")
    )
    assert joined == thai
    assert all(part[0] == "ท" for message in render([Line("A", thai)]) for part in message.split(" ")[1:])


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=5000)), max_size=4))
def test_messages_fit_and_no_escape_is_cut(lines: list[tuple[str, str]]) -> None:
    for message in render([Line(*line) for line in lines]):
        assert 0 < len(message.encode("utf-16-le")) // 2 <= MESSAGE_LIMIT
        assert not re.search(r"(?<!\\)(\\\\)*\\($|\s)", message)


def test_lines_are_packed_and_long_ones_keep_their_name() -> None:
    assert render([Line("A", "x"), Line("B", "y")]) == ["**A**: x\n**B**: y"]
    parts = render([Line("A", "word " * 900)])
    assert len(parts) == 3
    assert all(part.startswith("**A**: word") for part in parts)
    assert sum(part.count("word") for part in parts) == 900


def test_rates_of_channels_are_kept_for_a_while_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost_stt.captioner.MOST_RATES", 3)
    rates = ChannelRates()
    first = rates.of(1)
    for channel in (2, 3, 1, 4, 5):
        rates.of(channel)
    assert rates.of(1) is first, "it was used meanwhile"
    assert len(rates) == 3


def test_five_messages_in_five_seconds() -> None:
    rate = ChannelRate()
    for moment in (0.0, 0.1, 0.2, 0.3, 0.4):
        assert rate.wait_s(moment) == 0.0
        rate.sent(moment)
    assert rate.wait_s(1.0) == pytest.approx(4.0)
    assert rate.wait_s(5.0) == 0.0


def idle_recaller() -> Recaller:
    return Recaller(print, begin=lambda work: asyncio.ensure_future(work()))


class Channel:
    """Takes posts and edits; may be slow or refuse."""

    def __init__(self) -> None:
        self.rows: dict[int, str] = {}
        self.delay_s = 0.0
        self.refuse = False
        self.gate: asyncio.Event | None = None
        """Closed: what is sent has arrived, but its sender does not know yet."""
        self.arrived = asyncio.Event()
        self.edited_at: list[float] = []

    @property
    def messages(self) -> list[str]:
        return list(self.rows.values())

    async def prepare(self) -> bool:
        return False

    async def post(self, text: str, nonce: str, wanted: Wanted = always) -> int:
        await asyncio.sleep(self.delay_s)
        if self.refuse:
            raise ResourceError("no")
        number = len(self.rows) + 1
        self.rows[number] = text
        await self._answer()
        return number

    async def edit(self, message: int, text: str, wanted: Wanted = always) -> None:
        if self.refuse or message not in self.rows:
            raise ResourceError("no")
        self.rows[message] = text
        self.edited_at.append(asyncio.get_running_loop().time())
        await self._answer()

    async def delete(self, message: int) -> None:
        del self.rows[message]

    async def _answer(self) -> None:
        self.arrived.set()
        if self.gate is not None:
            await self.gate.wait()


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_one_message_each_then_merged_when_the_rate_is_used_up() -> None:
    channel, scope = Channel(), Scope("test")
    captioner = Captioner(channel, ChannelRate(3, 0.3), recaller=idle_recaller())
    scope.spawn(captioner.run(), "captions")
    for number in range(8):
        captioner.add(Line("A", str(number)))
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await captioner._idle.wait()
    assert channel.messages[:3] == ["**A**: 0", "**A**: 1", "**A**: 2"]
    assert channel.messages[3:] == ["\n".join(f"**A**: {n}" for n in range(3, 8))]
    assert captioner.merged == 4
    await scope.aclose()


async def test_a_flush_does_not_wait_for_the_rate() -> None:
    channel, scope = Channel(), Scope("test")
    captioner = Captioner(channel, ChannelRate(1, 60), recaller=idle_recaller())
    scope.spawn(captioner.run(), "captions")
    for number in range(3):
        captioner.add(Line("A", str(number)))
    await asyncio.sleep(0.02)
    assert channel.messages == ["**A**: 0"]
    assert await captioner.flush(soon(2))
    assert channel.messages[1:] == ["**A**: 1\n**A**: 2"]
    await scope.aclose()


async def test_a_flush_keeps_its_deadline() -> None:
    channel, scope = Channel(), Scope("test")
    channel.delay_s = 30
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller())
    scope.spawn(captioner.run(), "captions")
    captioner.add(Line("A", "x"))
    began = asyncio.get_running_loop().time()
    assert not await captioner.flush(soon(0.1))
    assert asyncio.get_running_loop().time() - began < 0.5
    await scope.aclose()


async def test_too_many_push_out_the_oldest_and_it_is_told_once() -> None:
    channel, scope = Channel(), Scope("test")
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller())
    for number in range(QUEUE_LIMIT + 5):
        captioner.add(Line("A", f"n{number}"))
    assert captioner.dropped == 5
    scope.spawn(captioner.run(), "captions")
    assert await captioner.flush(soon(2))
    text = "\n".join(channel.messages)
    assert text.count("5 captions were left out") == 1
    assert "n4\n" not in text
    assert text.index("n5") < text.index(f"n{QUEUE_LIMIT + 4}")
    await scope.aclose()


async def test_a_refused_caption_is_counted_and_the_next_goes_out() -> None:
    channel, scope = Channel(), Scope("test")
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller())
    scope.spawn(captioner.run(), "captions")
    channel.refuse = True
    captioner.add(Line("A", "x"))
    assert await captioner.flush(soon(1))
    channel.refuse = False
    captioner.add(Line("A", "y"))
    assert await captioner.flush(soon(1))
    assert (captioner.failed, captioner.posted, channel.messages) == (1, 1, ["**A**: y"])
    await scope.aclose()


async def test_forgetting_a_speaker_drops_only_their_lines() -> None:
    channel, scope = Channel(), Scope("test")
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller())
    captioner.add(Line("A", "x", 1))
    captioner.add(Line("B", "y", 2))
    captioner.forget(1)
    scope.spawn(captioner.run(), "captions")
    assert await captioner.flush(soon(1))
    assert channel.messages == ["**B**: y"]
    await scope.aclose()


@pytest.fixture
async def scope() -> AsyncIterator[Scope]:
    async with contextlib.aclosing(Scope("test")) as made:
        yield made


async def test_a_speaker_forgotten_leaves_the_rendered_messages_too(scope: Scope) -> None:
    channel = Channel()
    refused: set[int] = set()
    channel.gate = asyncio.Event()
    captioner = Captioner(
        channel,
        ChannelRate(count=100),
        recaller=idle_recaller(),
        may_show=lambda user_id: user_id not in refused,
    )
    scope.spawn(captioner.run(), "captions")
    captioner.add(Line("Ada", "long " * 1000, 7))
    captioner.add(Line("Ben", "words", 8))
    captioner.add(Line("Cleo", "more", 9))
    async with asyncio.timeout(2):
        await channel.arrived.wait()
    captioner.forget(7)
    refused.add(9)  # told to nobody: asked at the last moment
    channel.gate.set()
    assert await captioner.flush(soon(2))
    assert channel.messages == ["**Ben**: words"]


async def test_a_caption_on_its_way_is_taken_back(scope: Scope) -> None:
    channel = Channel()
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller())
    channel.gate = asyncio.Event()
    scope.spawn(captioner.run(), "captions")
    captioner.add(Line("Ada", "x", 7))
    async with asyncio.timeout(2):
        await channel.arrived.wait()
    assert channel.messages == ["**Ada**: x"]
    captioner.forget(7)
    channel.gate.set()
    assert await captioner.flush(soon(2))
    assert (channel.messages, captioner.recalled) == ([], 1)


async def test_what_others_said_in_the_same_message_stays(scope: Scope) -> None:
    channel = Channel()
    refused: set[int] = set()
    captioner = Captioner(
        channel,
        ChannelRate(1, 0.1),
        recaller=idle_recaller(),
        may_show=lambda user_id: user_id not in refused,
    )
    scope.spawn(captioner.run(), "captions")
    captioner.add(Line("Ben", "first", 8))
    await asyncio.sleep(0.01)
    channel.arrived.clear()
    channel.gate = asyncio.Event()
    captioner.add(Line("Ada", "x", 7))
    captioner.add(Line("Ben", "y", 8))
    async with asyncio.timeout(2):
        await channel.arrived.wait()
    assert channel.messages[1] == "**Ada**: x\n**Ben**: y"
    refused.add(7)
    channel.gate.set()
    assert await captioner.flush(soon(2))
    assert channel.messages == ["**Ben**: first", "**Ben**: y"]


async def test_one_message_is_edited_until_it_is_full(scope: Scope) -> None:
    channel = Channel()
    captioner = Captioner(
        channel,
        ChannelRate(),
        recaller=idle_recaller(),
        edited=lambda: True,
        edit_every_s=0.15,
    )
    scope.spawn(captioner.run(), "captions")
    for number in range(6):
        captioner.add(Line("A", f"n{number}", 1))
        await asyncio.sleep(0.05)
    assert await captioner.flush(soon(2))
    assert channel.messages == ["\n".join(f"**A**: n{number}" for number in range(6))]
    # The last one may have been hurried by the flush.
    gaps = [later - sooner for sooner, later in itertools.pairwise(channel.edited_at[:-1])]
    assert all(gap >= 0.14 for gap in gaps)
    assert captioner.edits <= 3
    for number in range(6):
        captioner.add(Line("B", f"{number} " + "word " * 100, 2))
    assert await captioner.flush(soon(2))
    assert len(channel.messages) == 2
    assert channel.messages[0].endswith("word")
    assert "\n".join(channel.messages).count("**B**: ") == 6
    assert all(len(text) <= MESSAGE_LIMIT for text in channel.messages)


async def test_a_page_that_somebody_deleted_is_followed_by_a_new_one(scope: Scope) -> None:
    channel = Channel()
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller(), edited=lambda: True)
    scope.spawn(captioner.run(), "captions")
    captioner.add(Line("A", "x", 1))
    assert await captioner.flush(soon(1))
    channel.rows.clear()
    captioner.add(Line("A", "y", 1))
    assert await captioner.flush(soon(1))
    assert channel.messages == ["**A**: y"]


@pytest.mark.parametrize("moment", ["between", "edit on its way"])
async def test_a_page_loses_the_words_of_whoever_withdraws(scope: Scope, moment: str) -> None:
    channel = Channel()
    captioner = Captioner(
        channel,
        ChannelRate(),
        recaller=idle_recaller(),
        edited=lambda: True,
        edit_every_s=0.0,
    )
    scope.spawn(captioner.run(), "captions")
    captioner.add(Line("A", "x", 1))
    captioner.add(Line("B", "y", 2))
    assert await captioner.flush(soon(1))
    channel.arrived.clear()
    if moment != "between":
        channel.gate = asyncio.Event()
        captioner.add(Line("A", "z", 1))
        async with asyncio.timeout(2):
            await channel.arrived.wait()
        captioner.forget(1)
        channel.gate.set()
    else:
        captioner.forget(1)
    async with asyncio.timeout(2):
        await captioner._idle.wait()
    assert channel.messages == ["**B**: y"]
    captioner.forget(2)
    async with asyncio.timeout(2):
        await captioner._idle.wait()
    assert channel.messages == []


@pytest.mark.parametrize("is_first", [True, False], ids=["the words of one", "what others had withdrawn before"])
async def test_a_page_is_deleted_when_its_last_words_are_withdrawn_during_an_edit(scope: Scope, is_first: bool) -> None:
    channel = Channel()
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller(), edited=lambda: True, edit_every_s=0.0)
    scope.spawn(captioner.run(), "captions")
    captioner.add(Line("A", "x", 1))
    if not is_first:
        captioner.add(Line("B", "y", 2))
    assert await captioner.flush(soon(1))
    channel.arrived.clear()
    channel.gate = asyncio.Event()
    if is_first:
        captioner.add(Line("A", "z", 1))
    else:
        captioner.forget(2)
    async with asyncio.timeout(2):
        await channel.arrived.wait()
    captioner.forget(1)
    channel.gate.set()
    async with asyncio.timeout(2):
        await captioner._idle.wait()
    assert channel.messages == []


async def test_another_withdrawal_counts_while_a_new_message_loses_withdrawn_words(scope: Scope) -> None:
    channel = Channel()
    captioner = Captioner(channel, ChannelRate(), recaller=idle_recaller(), edited=lambda: True, edit_every_s=0.0)
    posted, taken_back = asyncio.Event(), asyncio.Event()
    channel.gate = posted
    scope.spawn(captioner.run(), "captions")
    for user_id, name in enumerate("ABC", 1):
        captioner.add(Line(name, "x", user_id))
    async with asyncio.timeout(2):
        await channel.arrived.wait()
    captioner.forget(1)
    channel.gate = taken_back
    channel.arrived.clear()
    posted.set()
    async with asyncio.timeout(2):
        await channel.arrived.wait()
    assert channel.messages == ["**B**: x\n**C**: x"]
    captioner.forget(2)
    taken_back.set()
    async with asyncio.timeout(2):
        await captioner._idle.wait()
    assert channel.messages == ["**C**: x"]
