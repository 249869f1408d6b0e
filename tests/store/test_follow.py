"""Following an answer: from any cursor to its end, in order, without gap or repeat, whatever happens to Redis."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import StoreUnavailable
from sibyl.core.event import Cancelled, Completed, Entry, Output, Queued, Started
from sibyl.core.fold import Fold
from sibyl.core.task import LOCAL_OWNER, Lease, TaskId
from sibyl.store import tail as tail_module
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.feed import Feed
from sibyl.store.follow import Position, Progress, Reset, at_end, follow
from sibyl.store.tail import Tail
from tests.store.conftest import OpenStore
from tests.store.desk import Desk, Snapshot
from tests.store.following import Reader, running


@pytest.fixture
async def tail(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tail]:
    """A tail that looks at silent feeds ten times as often as in earnest."""
    monkeypatch.setattr(tail_module, "_CHECK_S", 0.1)
    async with running(Tail(desk.store)) as tail:
        yield tail


async def test_a_follower_gets_what_is_stored_and_then_what_comes(desk: Desk, tail: Tail) -> None:
    """Queued, started, every output, the end."""
    task_id = await desk.submit()
    reader = Reader(tail, task_id)
    await reader.until(lambda reader: len(reader.entries) == 1)
    lease = (await desk.claimed()).lease
    for number, text in enumerate(["one ", "two ", "three"], 1):
        await desk.say(lease, text, first=number)
        await reader.until(lambda reader, text=text: reader.text.endswith(text))  # type: ignore[misc]
    await desk.complete(lease, 3)
    await reader.end()

    assert reader.entries == await desk.log.read(task_id)
    assert [type(entry.event) for entry in reader.entries] == [Queued, Started, Output, Output, Output, Completed]
    assert reader.text == "one two three"
    assert reader.resets == []


async def test_nothing_comes_after_the_end_not_even_a_hint(desk: Desk) -> None:
    """Found by chaos: a log that was read anew, with its end, while the feed still knew how far the prompt was."""
    task_id, lease = await desk.begin("one")
    await desk.complete(lease, 1)
    feed = Feed(task_id)
    feed.fold = Fold(await desk.log.read(task_id))
    feed.progress, feed.position = (1, 2), 3

    parts = [part async for batch in follow(feed, START) for part in batch]

    assert parts == feed.fold.entries


async def test_whoever_joins_anywhere_at_any_time_gets_the_rest_once(desk: Desk, tail: Tail) -> None:
    """Sixty readers come at random moments with random cursors while the answer grows: no gap, no repeat."""
    dice = random.Random(7)
    task_id, lease = await desk.begin()
    readers: list[tuple[Cursor, Reader]] = []

    for number in range(1, 121):
        await desk.say(lease, f"{number} ", first=number)
        if number % 2:
            known = [START, *(entry.cursor for entry in await desk.log.read(task_id))]
            after = dice.choice(known)
            readers.append((after, Reader(tail, task_id, after)))
    await desk.complete(lease, 120)
    whole = await desk.log.read(task_id)

    for after, reader in readers:
        await reader.end()
        assert reader.parts == [entry for entry in whole if entry.cursor > after]


async def test_twenty_answers_are_followed_at_once(desk: Desk, tail: Tail) -> None:
    """Three readers each, through takeovers and cancels; each sees its own answer and no other."""
    leases: list[Lease] = []
    for _ in range(20):
        leases.append((await desk.begin())[1])
    readers = [Reader(tail, lease.task_id) for lease in leases for _ in range(3)]

    async def answer(place: int, lease: Lease) -> None:
        for number in range(1, 21):
            await desk.say(lease, f"{place}.{number} ", first=number)
        if place % 5 == 0:
            await desk.lapse(lease.task_id)
            await desk.queue.request_cancel(lease.task_id, LOCAL_OWNER)
        else:
            await desk.complete(lease, 20)

    await asyncio.gather(*(answer(place, lease) for place, lease in enumerate(leases)))

    for index, reader in enumerate(readers):
        await reader.end()
        place = index // 3
        assert reader.text == "".join(f"{place}.{number} " for number in range(1, 21))
        assert reader.entries == await desk.log.read(leases[place].task_id)
        assert isinstance(reader.entries[-1].event, Cancelled if place % 5 == 0 else Completed)


async def test_a_slow_reader_delays_nobody(desk: Desk, tail: Tail) -> None:
    """It is a place in the feed; when it looks again it gets all at once."""
    task_id, lease = await desk.begin("one ")
    with tail.feed(task_id) as feed:
        await tail.load(feed)
        slow = follow(feed, START)
        first = await anext(slow)
        fast = Reader(tail, task_id)
        await desk.say(lease, *(f"{number} " for number in range(2, 500)), first=2)
        await desk.complete(lease, 499)
        await fast.end()
        rest = [part async for batch in slow for part in batch]

    assert [*first, *rest] == fast.parts


# ---- cursors


async def test_at_the_end_there_is_nothing_to_follow(desk: Desk, tail: Tail) -> None:
    """The terminal event's cursor is the end, and no other is; following from there ends at once."""
    task_id, lease = await desk.begin("one ")
    await desk.complete(lease, 1)
    whole = await desk.log.read(task_id)
    with tail.feed(task_id) as feed:
        await tail.load(feed)
        assert [at_end(feed, entry.cursor) for entry in whole] == [False] * (len(whole) - 1) + [True]

    assert (await Reader(tail, task_id, whole[-1].cursor).end()).parts == []
    assert (await Reader(tail, task_id, whole[-2].cursor).end()).parts == whole[-1:]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("cursor", [Cursor(1, 1), Cursor(0, 2), Cursor(10**14, 7)])
async def test_a_foreign_cursor_gets_a_reset_and_the_whole_answer(
    desk: Desk, tail: Tail, cursor: Cursor, ended: bool
) -> None:
    """Said in band, never skipped in silence."""
    task_id, lease = await desk.begin("one ")
    if ended:
        await desk.complete(lease, 1)
    reader = Reader(tail, task_id, cursor, "something else")
    if not ended:
        await reader.until(lambda reader: reader.text == "one ")
        await desk.complete(lease, 1)
    await reader.end()

    assert reader.parts == [Reset(0, "", START), *await desk.log.read(task_id)]
    assert reader.text == "one "


async def test_a_cursor_that_a_takeover_voided_gets_a_reset(desk: Desk, tail: Tail) -> None:
    """The reader has an output that does not count any more."""
    task_id, lease = await desk.begin("one ")
    await desk.store.command("XADD", desk.shard(task_id).log(task_id), f"{lease.epoch}-2", "t", "stray", "i", "")
    await desk.lapse(task_id)
    second = (await desk.claimed()).lease
    await desk.say(second, "two", first=2)
    await desk.complete(second, 2)

    reader = await Reader(tail, task_id, Cursor(lease.epoch, 2), "one stray").end()

    assert reader.parts[0] == Reset(0, "", START)
    assert reader.text == "one two"


# ---- a Redis that loses its newest writes


async def test_a_tail_that_is_sent_again_is_not_noticed(desk: Desk, tail: Tail) -> None:
    """The owner lives and fills the log up under the same numbers before anybody looks."""
    task_id, lease = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.say(lease, "two ", first=2)
    reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one two ")

    await snapshot.restore()
    await desk.say(lease, "two ", "three", first=2)
    await desk.complete(lease, 3)
    await reader.end()

    assert reader.resets == []
    assert reader.parts == await desk.log.read(task_id)
    assert reader.text == "one two three"


async def test_a_lost_tail_and_another_worker_are_a_reset(desk: Desk, tail: Tail) -> None:
    """What the reader has is not what the answer became: it is told what stays, and gets the rest."""
    task_id, lease = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.say(lease, "two ", "three ", first=2)
    reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one two three ")

    await snapshot.restore()
    await desk.lapse(task_id)
    second = (await desk.claimed()).lease
    await desk.say(second, "2 ", "3", first=2)
    await desk.complete(second, 3)
    await reader.end()

    assert reader.resets == [Reset(1, "one ", Cursor(lease.epoch, 1))]
    assert reader.text == "one 2 3"
    resumed = await Reader(tail, task_id, Cursor(lease.epoch, 3), "one two three ").end()
    assert (resumed.text, len(resumed.resets)) == ("one 2 3", 1)


async def test_a_lost_claim_is_noticed_in_silence(desk: Desk, tail: Tail) -> None:
    """The former owner is legal again and writes under smaller ids, which a read after the lost ones never shows."""
    task_id, first = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.lapse(task_id)
    second = (await desk.claimed()).lease
    await desk.say(second, "TWO ", first=2)
    reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one TWO ")

    await snapshot.restore()
    await desk.say(first, "two", first=2)
    await desk.complete(first, 2)
    await reader.end()

    assert reader.resets == [Reset(1, "one ", Cursor(first.epoch, 1))]
    assert reader.text == "one two"


async def test_who_leaves_after_a_reset_misses_nothing_when_the_lost_part_is_sent_anew(desk: Desk, tail: Tail) -> None:
    """Its place before the reset is right again then and hides what lies between, so a reset has a place of its own."""
    task_id, lease = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.say(lease, "two ", "three ", first=2)
    reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one two three ")
    await snapshot.restore()
    await reader.until(lambda reader: bool(reader.resets))
    await reader.leave()

    await desk.say(lease, "two ", "three ", first=2)
    await desk.complete(lease, 3)

    assert (reader.text, reader.cursor) == ("one ", Cursor(lease.epoch, 1))
    assert (await Reader(tail, task_id, reader.cursor, reader.text).end()).text == "one two three "


async def test_lost_marks_without_text_need_no_reset(desk: Desk, tail: Tail) -> None:
    """Only a claim was lost: the reader's text is right, so it is left alone."""
    task_id, _ = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.lapse(task_id)
    await desk.claimed()
    reader = await Reader(tail, task_id).until(lambda reader: len(reader.entries) == 4)

    await snapshot.restore()
    await desk.lapse(task_id)
    third = (await desk.claimed()).lease
    await desk.say(third, "two", first=2)
    await desk.complete(third, 2)
    await reader.end()

    assert reader.resets == []
    assert reader.text == "one two"


async def test_a_lost_mark_is_taken_back_before_its_predecessor_goes_on(desk: Desk, tail: Tail) -> None:
    """Redis lost the newer claim that a reader saw, and the former holder completed: its ids are smaller."""
    task_id, lease = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.lapse(task_id)
    await desk.claimed()
    reader = await Reader(tail, task_id).until(lambda reader: len(reader.entries) == 4)

    await snapshot.restore()
    await desk.say(lease, "two", first=2)
    await desk.complete(lease, 2)
    await reader.end()

    assert [(reset.outputs, reset.text, reset.cursor) for reset in reader.resets] == [
        (1, "one ", Cursor(lease.epoch, 1))
    ]
    assert reader.text == "one two"


async def test_random_losses_leave_every_reader_right(desk: Desk, tail: Tail) -> None:
    """A small chaos: appends, lost tails, takeovers and readers that come and go, a hundred steps, one seed."""
    dice = random.Random(3)
    task_id, lease = await desk.begin()
    said: dict[int, list[str]] = {lease.epoch: []}
    floor = lease.epoch
    snapshots: list[Snapshot] = []
    readers = [Reader(tail, task_id)]
    for step in range(100):
        match dice.choice(["say", "say", "say", "keep", "lose", "take over", "join", "leave"]):
            case "say":
                stored = int(await desk.store.command("HGET", desk.shard(task_id).task(task_id), "offset"))
                del said[lease.epoch][stored + 3 :]
                said[lease.epoch].append(f"{lease.epoch % 1000}.{step} ")
                await desk.say(lease, *said[lease.epoch][stored:], first=stored + 1)
            case "keep":
                snapshots.append(await Snapshot.take(desk, task_id))
            case "lose" if snapshots:
                await snapshots.pop(dice.randrange(len(snapshots))).restore()
                snapshots.clear()
                held = await desk.store.command("HMGET", desk.shard(task_id).task(task_id), "epoch", "nonce")
                lease = Lease(task_id=task_id, epoch=int(held[0]), nonce=held[1])
            case "take over":
                await desk.lapse(task_id)
                claim = await desk.claim(floor=floor, max_attempts=1000)
                assert claim is not None
                lease, floor = claim.lease, claim.lease.epoch
                said[lease.epoch] = [output.text for output in Fold(await desk.log.read(task_id)).answer()]
            case "join":
                seen = dice.choice(readers)
                readers.append(Reader(tail, task_id, seen.cursor, seen.text))
            case "leave" if len(readers) > 1:
                await readers.pop(0).leave()
        await asyncio.sleep(dice.choice([0, 0, 0.01]))
    stored = int(await desk.store.command("HGET", desk.shard(task_id).task(task_id), "offset"))
    await desk.complete(lease, stored)
    right = await desk.text(task_id)

    for reader in readers:
        await reader.end()
        assert reader.text == right


async def test_a_killed_redis_interrupts_nobody(tmp_path: Path, open_store: OpenStore) -> None:
    """Kill -9 and a restart while two read and one writes: no reset, no gap, no repeat."""
    redis = EmbeddedRedis(tmp_path, fsync="everysec")
    await redis.start()
    try:
        desk = Desk(open_store(redis.url, patience_s=10))
        task_id, lease = await desk.begin("one ")
        async with running(Tail(open_store(redis.url))) as tail:
            readers = [Reader(tail, task_id), Reader(tail, task_id, Cursor(lease.epoch, 1), "one ")]
            await readers[0].until(lambda reader: reader.text == "one ")
            for number in range(2, 5):
                assert redis.pid is not None
                os.kill(redis.pid, signal.SIGKILL)
                await redis.exited()
                saying = asyncio.create_task(desk.say(lease, f"{number} ", first=number))
                late = asyncio.create_task(redis.start())
                await asyncio.gather(saying, late)
            await desk.complete(lease, 4)
            whole = await desk.log.read(task_id)
            for reader in readers:
                await reader.end()
                assert reader.text == "one 2 3 4 "
                assert reader.resets == []
            assert readers[0].entries == whole
    finally:
        await redis.stop(limit_s=2)


# ---- erased


async def test_an_erased_task_is_forgotten_within_two_seconds(desk: Desk) -> None:
    """In earnest time: the log has vanished, and nobody rings."""
    async with running(Tail(desk.store)) as tail:
        task_id, _ = await desk.begin("one ")
        readers = [Reader(tail, task_id) for _ in range(2)]
        for reader in readers:
            await reader.until(lambda reader: reader.text == "one ")
        await asyncio.sleep(0.05)
        await desk.queue.erase(task_id, LOCAL_OWNER)

        for reader in readers:
            await reader.end(limit_s=2.2)
            assert reader.forgotten
            assert reader.resets == []


async def test_a_task_that_is_not_there_is_forgotten(desk: Desk, tail: Tail) -> None:
    """Nothing to read, and nothing will come."""
    reader = await Reader(tail, TaskId("0." + "0" * 32)).end()

    assert reader.forgotten
    assert len(reader.parts) == 1


async def test_an_ended_answer_that_expires_has_been_read_to_its_end(desk: Desk, tail: Tail) -> None:
    """The last reader has all of it in the feed, whatever Redis forgets meanwhile."""
    task_id, lease = await desk.begin("one ")
    await desk.complete(lease, 1)
    with tail.feed(task_id) as feed:
        await tail.load(feed)
        await desk.queue.erase(task_id, LOCAL_OWNER)
        parts = [part async for batch in follow(feed, START) for part in batch]

    assert isinstance(parts[-1], Entry)
    assert isinstance(parts[-1].event, Completed)


# ---- hints


async def test_the_queue_position_is_told_as_it_falls(desk: Desk, tail: Tail) -> None:
    """Until it runs; then no more."""
    ahead = [await desk.submit() for _ in range(3)]
    task_id = await desk.submit()
    reader = Reader(tail, task_id)
    for left in (3, 2, 1, 0):
        await reader.until(lambda reader, left=left: Position(left) in reader.hints)  # type: ignore[misc]
        if left:
            assert (await desk.claimed()).lease.task_id in ahead
    lease = (await desk.claimed()).lease
    await reader.until(lambda reader: isinstance(reader.parts[-1], Entry))
    await desk.say(lease, "one ")
    await desk.complete(lease, 1)
    await reader.end()

    assert reader.hints == [Position(3), Position(2), Position(1), Position(0)]


async def test_the_progress_of_a_long_prompt_is_told(desk: Desk, tail: Tail) -> None:
    """Until the first word; each figure once to each reader."""
    task_id, lease = await desk.begin()
    reader = Reader(tail, task_id)
    for figure in ("128 512", "256 512"):
        await desk.log.append(lease, 1, [], lease_s=60, progress=figure)
        done = int(figure.split()[0])
        await reader.until(lambda reader, done=done: reader.hints[-1:] == [Progress(done, 512)])  # type: ignore[misc]
    await asyncio.sleep(0.1)
    await desk.say(lease, "one ")
    await desk.complete(lease, 1)
    await reader.end()

    assert reader.hints == [Progress(128, 512), Progress(256, 512)]
    assert isinstance(reader.parts[-1], Entry)


# ---- pure


def entry(epoch: int, number: int, text: str) -> Entry:
    """An output in its place."""
    return Entry(Cursor(epoch, number), Output(text=text))


async def test_a_follower_of_a_feed_waits_without_redis() -> None:
    """What a feed takes is yielded; cancelling the follower stops nothing else."""
    feed = Feed(TaskId("0." + "0" * 32))
    feed.fold = Fold([Entry(Cursor(0, 1), Queued())])
    first, second = follow(feed, START), follow(feed, START)
    assert len(await anext(first)) == len(await anext(second)) == 1
    waiting = asyncio.ensure_future(anext(first))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert feed.take(Entry(Cursor(5, 0), Started(attempt=1, model="m", kept=0, previous=Cursor(0, 1))))
    assert feed.take(entry(5, 1, "one"))
    feed.notify()

    batch = await anext(second)
    assert [part.cursor for part in batch if isinstance(part, Entry)] == [Cursor(5, 0), Cursor(5, 1)]
    await second.aclose()  # type: ignore[attr-defined]


async def test_redis_away_is_an_error_of_the_load(tmp_path: Path, open_store: OpenStore, desk: Desk) -> None:
    """It is told to whoever would follow, leaves no feed behind, and later followers are served."""
    tail = Tail(open_store(f"unix://{tmp_path}/nobody.sock", patience_s=0.05))
    task_id, lease = await desk.begin("one ")
    await desk.complete(lease, 1)

    with pytest.raises(StoreUnavailable):
        await Reader(tail, task_id).end()
    assert tail.followed == 0
    assert task_id not in tail

    tail._store = desk.store
    assert (await Reader(tail, task_id).end()).text == "one "
