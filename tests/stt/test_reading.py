"""Reading long transcripts: turns, files that are small enough, pages."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Iterator

import pytest
from test_transcripts import HEAD, SAID

from roost.errors import ResourceError
from roost_stt.captions import Line, pack, text_of
from roost_stt.exports import FORMATS, StoredLine, export
from roost_stt.reading import MAX_PARTS, WAITING_OF_GUILD, AbandonedError, ExportFile, Pager, ReadingRoom

pytestmark = pytest.mark.unit


def lines(count: int) -> list[StoredLine]:
    return [StoredLine(n, f"User {n}", f"line {n} {n * 7919 % 99991}", 1e9 + n, 1e9 + n + 1) for n in range(count)]


@pytest.fixture(params=FORMATS)
def file(request: pytest.FixtureRequest) -> Iterator[ExportFile]:
    made = ExportFile(HEAD, request.param)
    yield made
    made.close()


def test_a_small_one_is_the_file_itself(file: ExportFile) -> None:
    file.add(sorted(SAID, key=lambda line: (line.started_at, line.ended_at))[:2])
    file.add(sorted(SAID, key=lambda line: (line.started_at, line.ended_at))[2:])
    (part,) = file.finish(1 << 20)
    kind = file.name.rpartition(".")[2]
    assert part.name == file.name
    assert file.read(part).decode() == export(HEAD, SAID, kind)


def test_a_larger_one_is_compressed(file: ExportFile) -> None:
    for start in range(0, 2000, 500):
        file.add(lines(2000)[start : start + 500])
    (part,) = file.finish(60_000)
    assert part.name == f"{file.name}.zip"
    kind = file.name.rpartition(".")[2]
    with zipfile.ZipFile(io.BytesIO(file.read(part))) as archive:
        assert archive.read(file.name).decode() == export(HEAD, lines(2000), kind)


def test_a_huge_one_comes_in_parts_and_has_an_end(file: ExportFile) -> None:
    file.add(lines(2000))
    parts = file.finish(8000)
    assert 1 < len(parts) <= MAX_PARTS
    assert parts[1].name.endswith(".zip.002")
    data = [file.read(part) for part in parts]
    assert max(map(len, data)) <= 8000
    with zipfile.ZipFile(io.BytesIO(b"".join(data))) as archive:
        assert archive.testzip() is None
    with pytest.raises(ResourceError, match="too large"):
        file.finish(100)


@pytest.mark.parametrize("wanted", [0, 1, 2, 7, 10_000])
def test_pages_are_those_of_all_lines_together(wanted: int) -> None:
    said = [*lines(150), StoredLine(1, "Ada", "word " * 900, 2e9, 2e9), *lines(3)]
    pages = [text_of(page) for page in pack([Line(line.name, line.text, line.user_id) for line in said], 900)]
    pager = Pager(wanted, 900)
    for start in range(0, len(said), 40):
        pager.add(said[start : start + 40])
    text, number = pager.finish()
    assert pager.count == len(pages)
    assert number == (min(wanted, len(pages)) or len(pages))
    assert text == pages[number - 1]
    assert Pager(1, 900).finish() == ("", 0)


async def test_turns_are_bounded_by_member_server_and_bot() -> None:
    room, go, inside = ReadingRoom(), asyncio.Event(), list[int]()

    async def read(guild: int, user: int) -> None:
        async with room.turn(guild, user):
            inside.append(guild)
            await go.wait()

    readers = [asyncio.create_task(read(1, user)) for user in range(WAITING_OF_GUILD)]
    await asyncio.sleep(0.01)
    assert inside == [1]
    with pytest.raises(ResourceError, match="still at your last"):
        await read(2, 0)
    with pytest.raises(ResourceError, match="Many members"):
        await read(1, 500)
    readers += [asyncio.create_task(read(guild, 1000 + guild)) for guild in (2, 3)]
    await asyncio.sleep(0.01)
    assert inside == [1, 2]  # another server does not wait for the ten of the first
    go.set()
    await asyncio.gather(*readers)
    assert sorted(inside) == [1] * WAITING_OF_GUILD + [2, 3]
    async with room.turn(1, 0):
        pass


def test_json_is_json_all_the_way() -> None:
    found = json.loads(export(HEAD, lines(3), "json"))
    assert [line["user_id"] for line in found["lines"]] == ["0", "1", "2"]
    assert set(found["lines"][0]) >= {"name", "text", "started_at", "ended_at", "language", "confidence", "words"}


async def test_a_turn_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost_stt.reading.TURN_S", 0.05)
    room = ReadingRoom()
    async with room.turn(1, 7):
        async with asyncio.timeout(5):
            with pytest.raises(ResourceError, match="Many members are reading"):
                async with room.turn(1, 8):
                    pass
        async with asyncio.timeout(5), room.turn(2, 8):
            pass
    async with asyncio.timeout(5), room.turn(1, 8):
        pass


async def test_a_transcript_that_is_deleted_is_read_no_further() -> None:
    room = ReadingRoom()
    async with room.turn(1, 8) as reading, room.turn(2, 9) as other:
        reading.reads("gone")
        other.reads("stays")
        with pytest.raises(ResourceError, match="has been deleted meanwhile"):
            async with reading.uploading():
                with room.deleting("gone"):
                    other.check()
                    with pytest.raises(ResourceError, match="has been deleted meanwhile"):
                        other.reads("gone")
                await asyncio.sleep(5)


async def test_lines_of_who_withdraws_while_reading_are_left_out() -> None:
    room = ReadingRoom()
    async with room.turn(1, 9) as reading:
        room.withdraw(0, 2)  # in another server
        room.withdraw(1, 1)
        assert [line.user_id for line in reading.lines(lines(3))] == [0, 2]
        reading.check()
        room.withdraw(2)
        with pytest.raises(AbandonedError, match="withdrawn them"):
            reading.check()


async def test_second_withdrawal_while_an_upload_ends_is_taken() -> None:
    room = ReadingRoom()
    ends, goes_on = asyncio.Event(), asyncio.Event()

    async def upload() -> None:
        async with room.turn(1, 9) as reading:
            reading.lines(lines(3))
            async with reading.uploading():
                try:
                    await asyncio.sleep(3600)
                finally:
                    ends.set()
                    await goes_on.wait()

    work = asyncio.create_task(upload())
    await asyncio.sleep(0)
    room.withdraw(1)
    async with asyncio.timeout(5):
        await ends.wait()
        room.withdraw(2)
        goes_on.set()
        with pytest.raises(AbandonedError):
            await work


async def test_upload_ends_when_words_in_it_are_withdrawn() -> None:
    room = ReadingRoom()
    async with room.turn(1, 9) as reading:
        reading.lines(lines(2))
        asyncio.get_running_loop().call_later(0.01, room.withdraw, 1)
        async with asyncio.timeout(5):
            with pytest.raises(AbandonedError):
                async with reading.uploading():
                    await asyncio.sleep(3600)
            with pytest.raises(AbandonedError):
                async with reading.uploading():
                    pytest.fail("nothing more may be sent")
