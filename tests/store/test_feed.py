"""A feed: what a further follower costs is a place; bytes and wake-ups are shared."""

import asyncio
import random

import pytest

from sibyl.core.cursor import Cursor
from sibyl.core.event import Completed, Entry, Output, Queued, Started
from sibyl.core.fold import Fold
from sibyl.core.task import TaskId, Usage
from sibyl.store import feed as feed_module
from sibyl.store.feed import CHUNK_BYTES, ENCODED_AT_ONCE, WOKEN_AT_ONCE, Feed, Frames
from sibyl.wire import events

TASK = TaskId("0." + "0" * 32)


def log(outputs: int, text: str = "word ", *, whole: bool = False) -> list[Entry]:
    """An answer's entries."""
    usage = Usage(prompt_tokens=1, completion_tokens=outputs)
    end = Completed(text_length=1, usage=usage, finish_reason="stop", kept=outputs)
    return [
        Entry(Cursor(0, 1), Queued()),
        Entry(Cursor(5, 0), Started(attempt=1, model="m", kept=0, previous=Cursor(0, 1))),
        *(Entry(Cursor(5, number), Output(text=text)) for number in range(1, outputs + 1)),
        *([Entry(Cursor(5, outputs + 1), end)] if whole else []),
    ]


def fed(entries: list[Entry]) -> Feed:
    """A feed that holds these."""
    feed = Feed(TASK)
    feed.fold = Fold(entries)
    return feed


def read(frames: Frames, start: int = 0) -> list[bytes]:
    """All chunks from a place on."""
    chunks: list[bytes] = []
    while start < len(frames.fold.entries):
        chunk, start = frames.chunk(start)
        chunks.append(chunk)
    return chunks


def encoded(entries: list[Entry]) -> bytes:
    """The frames of entries, one by one."""
    return b"".join(events.entry_frame(TASK, entry) for entry in entries)


# ---- frames


def test_followers_in_step_get_the_very_same_bytes() -> None:
    """One object for all of them, not an equal one for each."""
    feed = fed(log(10))

    assert feed.frames.chunk(3)[0] is feed.frames.chunk(3)[0]
    assert feed.take(Entry(Cursor(5, 11), Output(text="new")))
    assert feed.frames.chunk(12)[0] is feed.frames.chunk(12)[0]
    assert feed.frames.chunk(12) == (events.entry_frame(TASK, feed.fold.entries[12]), 13)


def test_an_event_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads it, from wherever, and in whatever order the readers come."""
    calls: list[Entry] = []

    def entry_frame(task_id: str, entry: Entry) -> bytes:
        calls.append(entry)
        return events.output_frame(str(entry.cursor), "x")

    feed = fed(log(2000))
    monkeypatch.setattr(events, "entry_frame", entry_frame)
    for start in (1500, 700, 0, 3, 1999, 1499):
        read(feed.frames, start)

    assert sorted(calls, key=lambda entry: entry.cursor) == feed.fold.entries


def test_from_any_place_the_chunks_are_the_rest_of_the_log() -> None:
    """Also while it grows, and behind what nobody has asked for yet."""
    dice = random.Random(4)
    entries = log(3 * ENCODED_AT_ONCE + 50, whole=True)
    feed = fed(entries[:200])
    for length in (200, 201, 500, len(entries)):
        for entry in entries[len(feed.fold.entries) : length]:
            assert feed.take(entry)
        for start in (length - 1, *(dice.randrange(length) for _ in range(20)), 0):
            assert b"".join(read(feed.frames, start)) == encoded(entries[start:length])


@pytest.mark.parametrize("text", ["x", "x" * 3000, "x" * (2 * CHUNK_BYTES)])
def test_a_chunk_is_bounded(text: str) -> None:
    """By its size and one frame, whatever the size of a frame is; and it is as full as that allows."""
    frames = fed(log(1000 if len(text) < CHUNK_BYTES else 5, text)).frames
    one = len(events.output_frame("5-999", text))

    chunks = read(frames)

    assert all(CHUNK_BYTES <= len(chunk) < CHUNK_BYTES + one for chunk in chunks[:-1])
    assert 0 < len(chunks[-1]) < CHUNK_BYTES + one


def test_a_log_that_is_read_anew_is_encoded_anew() -> None:
    """No frame of what was taken back is left."""
    feed = fed(log(5, "old"))
    read(feed.frames)

    feed.fold = Fold(log(5, "new"))

    assert b"".join(read(feed.frames)) == encoded(log(5, "new"))


def test_what_is_shared_is_bounded() -> None:
    """However many come back to places of their own."""
    frames = fed(log(1000)).frames
    for start in range(1000):
        frames.chunk(start)

    assert len(frames._shared) <= feed_module.SHARED_CHUNKS


# ---- waking


class Listener:
    """Counts how often it was woken."""

    def __init__(self, feed: Feed) -> None:
        self.woken = 0
        self.came = asyncio.Event()
        feed.listen(self.wake)

    def wake(self) -> None:
        """Count."""
        self.woken += 1
        self.came.set()


async def test_one_follower_is_woken_at_once_by_each_change() -> None:
    """No event waits for a next one."""
    feed = Feed(TASK)
    listener = Listener(feed)
    for count in range(1, 4):
        feed.notify()
        assert listener.woken == count

    feed.unlisten(listener.wake)
    feed.notify()
    assert listener.woken == 3


async def test_many_are_woken_once_for_what_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once for the first change; the further ones share the wake-up after a pause."""
    monkeypatch.setattr(feed_module, "PAUSE_PER_FOLLOWER_S", 0.002)
    feed = Feed(TASK)
    listeners = [Listener(feed) for _ in range(50)]
    feed.notify()
    assert {listener.woken for listener in listeners} == {1}
    for listener in listeners:
        listener.came.clear()

    began = asyncio.get_running_loop().time()
    for _ in range(20):
        feed.notify()
    for listener in listeners:
        await listener.came.wait()

    assert {listener.woken for listener in listeners} == {2}
    assert asyncio.get_running_loop().time() - began > 0.09


async def test_a_change_while_some_were_woken_already_reaches_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have their turn between parts of a crowd; what comes then is told to both parts."""
    monkeypatch.setattr(feed_module, "PAUSE_PER_FOLLOWER_S", 0.0)
    feed = Feed(TASK)
    listeners = [Listener(feed) for _ in range(2 * WOKEN_AT_ONCE + 1)]
    feed.notify()
    assert sum(listener.woken for listener in listeners) == WOKEN_AT_ONCE

    feed.notify()
    for _ in range(10):
        await asyncio.sleep(0)

    assert {listener.woken for listener in listeners} == {2}


async def test_who_leaves_in_between_is_not_missed() -> None:
    """A listener may go while others are woken."""
    feed = Feed(TASK)
    listeners = [Listener(feed) for _ in range(WOKEN_AT_ONCE + 5)]
    feed.notify()
    for listener in listeners[:-1]:
        feed.unlisten(listener.wake)
    await listeners[-1].came.wait()

    feed.notify()
    assert listeners[-1].woken == 2
