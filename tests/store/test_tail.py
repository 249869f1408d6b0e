"""The tail: one blocking read for all that is followed, and nothing that stops it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sibyl.core.cursor import Cursor
from sibyl.core.errors import LogUnreadable, StoreUnavailable, UnknownTask
from sibyl.core.event import Entry, Queued, Started
from sibyl.core.task import TaskId
from sibyl.store import tail as tail_module
from sibyl.store.channel import Word
from sibyl.store.connection import Store
from sibyl.store.feed import Feed
from sibyl.store.follow import Reset
from sibyl.store.keys import Shard
from sibyl.store.tail import Tail
from sibyl.wire.record import FIELDS
from tests.faults import proxy
from tests.store.conftest import OpenStore
from tests.store.desk import Desk, Snapshot
from tests.store.following import Reader, running


@pytest.fixture
async def tail(desk: Desk) -> AsyncIterator[Tail]:
    """A tail that runs."""
    async with running(Tail(desk.store)) as tail:
        yield tail


async def test_many_followers_of_one_task_share_one_blocking_connection(desk: Desk, tail: Tail, admin: Redis) -> None:
    """Fifty readers cost Redis what one costs, and so do more tasks."""

    def blocked() -> int:
        return sum("b" in client["flags"] for client in admin.client_list())

    async def settles_at(count: int) -> None:
        async with asyncio.timeout(5):
            while blocked() != count:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)

    task_id, lease = await desk.begin("one ")
    other, _ = await desk.begin("other ")
    await asyncio.sleep(0.1)
    with_none = blocked()  # the tail listens to its own doorbell; other tests' servers may listen as well
    readers = [Reader(tail, task_id) for _ in range(50)] + [Reader(tail, other)]
    for reader in readers:
        await reader.until(lambda reader: bool(reader.text))

    await settles_at(with_none)
    assert tail.followed == 2

    await desk.complete(lease, 1)
    for reader in readers[:50]:
        await reader.end()
        assert reader.parts == readers[0].parts
    await readers[-1].leave()


async def test_those_who_come_together_share_the_work(desk: Desk, redis_url: str) -> None:
    """Two hundred come back to twenty answers at once: each log is read once or twice, and the tail is rung a few
    times, not two hundred.
    """
    begun = [await desk.begin(f"{number} ") for number in range(20)]

    class Counting(Store):
        """Counts what it is asked."""

        reads = rings = 0

        async def batch(self, shard: Shard, commands: Sequence[Sequence[Word]], **options: bool) -> list[Any]:
            self.reads += len(commands) == 1 and commands[0][0] == "XRANGE"
            self.rings += commands[0][0] == "XADD"
            return await super().batch(shard, commands, **options)

    store = Counting(redis_url)
    try:
        async with running(Tail(store)) as tail:
            readers = [Reader(tail, begun[number % 20][0]) for number in range(200)]
            for reader in readers:
                await reader.until(lambda reader: bool(reader.text))
            reads, rings = store.reads, store.rings
            for number, (_, lease) in enumerate(begun):
                await desk.say(lease, "more", first=2)
                for reader in readers[number::20]:
                    await reader.until(lambda reader: reader.text.endswith("more"), limit_s=2)
            for reader in readers:
                await reader.leave()
    finally:
        await store.close()

    assert 20 <= reads <= 60
    assert 1 <= rings <= 20


async def test_who_joins_wakes_nobody(desk: Desk, tail: Tail) -> None:
    """The others have all that the newcomer finds; five hundred who come back would wake each other."""
    task_id, lease = await desk.begin("one ")
    woken = 0

    def wake() -> None:
        nonlocal woken
        woken += 1

    with tail.feed(task_id) as feed:
        await tail.load(feed)
        feed.listen(wake)
        for _ in range(5):
            await (await Reader(tail, task_id).until(lambda reader: reader.text == "one ")).leave()
        assert woken == 0
        await desk.say(lease, "two", first=2)
        await Reader(tail, task_id).until(lambda reader: reader.text == "one two")
        assert woken == 1


async def test_the_doorbell_of_a_process_that_is_gone_goes_too(desk: Desk, tail: Tail, admin: Redis) -> None:
    """It has a lifetime, renewed with each ring."""
    task_id, _ = await desk.begin("one ")
    reader = await Reader(tail, task_id).until(lambda reader: bool(reader.text))

    (bell,) = admin.scan_iter("*:tail:*")

    assert 3000 < admin.ttl(bell) <= 3600
    await reader.leave()


async def test_the_last_follower_to_leave_frees_the_feed(desk: Desk, tail: Tail) -> None:
    """However they leave, and not before; the next one begins anew."""
    task_id, lease = await desk.begin("one ")
    one, two = Reader(tail, task_id), Reader(tail, task_id)
    for reader in (one, two):
        await reader.until(lambda reader: bool(reader.text))

    await one.leave()
    assert task_id in tail
    await two.leave()
    assert task_id not in tail
    assert tail.followed == 0

    await desk.say(lease, "two", first=2)
    three = await Reader(tail, task_id).until(lambda reader: reader.text == "one two")
    await desk.complete(lease, 2)
    await three.end()
    assert tail.followed == 0


async def test_what_comes_between_the_load_and_the_read_is_not_missed(desk: Desk) -> None:
    """The log is read, then the tail is told of it: an output falls into the window."""
    task_id, lease = await desk.begin("one ")

    class Window(Tail):
        """Appends before it rings."""

        async def _ring(self, shard: Shard) -> None:
            await desk.say(lease, "two ", first=2)
            await super()._ring(shard)
            await desk.say(lease, "three", first=3)

    async with running(Window(desk.store)) as tail:
        reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one two three", limit_s=0.8)
        await desk.complete(lease, 3)
        await reader.end()

    assert reader.parts == await desk.log.read(task_id)


async def test_a_new_task_is_read_at_once(desk: Desk, tail: Tail) -> None:
    """The tail's own doorbell ends the read that knows nothing of it; nobody waits for its second to pass."""
    first, _ = await desk.begin("first")
    await Reader(tail, first).until(lambda reader: bool(reader.text))
    await asyncio.sleep(0.02)
    task_id, lease = await desk.begin("one ")
    reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one ")
    await desk.say(lease, "two", first=2)

    await reader.until(lambda reader: reader.text == "one two", limit_s=0.5)


async def test_two_who_load_at_once_see_no_step_back(desk: Desk, redis_url: str) -> None:
    """The second's copy of the log arrives late and is older than what the tail has taken meanwhile: nothing of what
    the first reader has is taken back.
    """
    task_id, lease = await desk.begin("one ")
    late = asyncio.Event()

    class Slow(Store):
        """Keeps the reply of the second read of a whole log until it is old."""

        reads = 0

        async def batch(self, shard: Shard, commands: Sequence[Sequence[Word]], **options: bool) -> list[Any]:
            whole = commands[:1] and commands[0][0] == "XRANGE" and commands[0][2] == "-"
            self.reads += bool(whole)
            second = whole and self.reads == 2
            reply = await super().batch(shard, commands, **options)
            if second:
                await late.wait()
            return reply

    store = Slow(redis_url)
    try:
        async with running(Tail(store)) as tail:
            one, two = Reader(tail, task_id), Reader(tail, task_id)
            await one.until(lambda reader: reader.text == "one ")
            await desk.say(lease, "two ", first=2)
            await one.until(lambda reader: reader.text == "one two ")
            await asyncio.sleep(0.05)  # the tail blocks again
            late.set()
            await asyncio.sleep(0.05)
            await desk.say(lease, "three", first=3)
            await desk.complete(lease, 3)
            for reader in (one, two):
                await reader.end()
                assert reader.resets == []
                assert reader.parts == await desk.log.read(task_id)
    finally:
        await store.close()


async def test_a_redis_that_leaves_while_a_log_is_read_anew_stops_nobody(desk: Desk, redis_url: str) -> None:
    """Something was taken back, and just then Redis is out of reach: the tail goes on when it is back."""
    task_id, lease = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.say(lease, "two ", first=2)
    other, other_lease = await desk.begin("other ")

    class Leaving(Store):
        """Is out of reach for one read of a whole log."""

        away = False

        async def batch(self, shard: Shard, commands: Sequence[Sequence[Word]], **options: bool) -> list[Any]:
            if self.away and commands and commands[0][0] == "XRANGE":
                self.away = False
                raise StoreUnavailable()
            return await super().batch(shard, commands, **options)

    store = Leaving(redis_url)
    try:
        async with running(Tail(store)) as tail:
            reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one two ")
            bystander = await Reader(tail, other).until(lambda reader: reader.text == "other ")
            await snapshot.restore()
            await desk.lapse(task_id)
            store.away = True
            second = (await desk.claimed()).lease
            await desk.say(second, "2", first=2)
            await desk.complete(second, 2)
            await reader.end()
            await desk.complete(other_lease, 1)
            await bystander.end()
    finally:
        await store.close()

    assert not store.away
    assert reader.resets == [Reset(1, "one ", Cursor(lease.epoch, 1))]
    assert reader.text == "one 2"
    assert bystander.resets == []


async def test_after_a_cut_the_tail_reads_from_what_redis_has(
    desk: Desk, redis_url: str, tmp_path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest writes were lost while it was away: it goes on from what is there; what comes then comes at once."""
    monkeypatch.setattr(tail_module, "_CHECK_S", 60)  # the look at silent feeds would notice as well
    task_id, first = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.lapse(task_id)
    second = (await desk.claimed()).lease
    await desk.say(second, "TWO ", first=2)
    async with proxy(redis_url, tmp_path) as network, running(Tail(open_store(network.url))) as tail:
        reader = await Reader(tail, task_id).until(lambda reader: reader.text == "one TWO ")
        await snapshot.restore()
        network.cut()
        await reader.until(lambda reader: reader.text == "one ")
        await asyncio.sleep(0.05)

        await desk.say(first, "two", first=2)

        await reader.until(lambda reader: reader.text == "one two", limit_s=0.6)
        await desk.complete(first, 2)
        await reader.end()

    assert reader.resets == [Reset(1, "one ", Cursor(first.epoch, 1))]


async def test_followers_outlast_a_redis_that_is_away(
    desk: Desk, redis_url: str, tmp_path: Path, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut again and again: they get everything, once; and the log tells of it without a word of the answer."""
    task_id, lease = await desk.begin()
    async with proxy(redis_url, tmp_path) as network, running(Tail(open_store(network.url))) as tail:
        readers = [Reader(tail, task_id) for _ in range(3)]
        for number in range(1, 41):
            await desk.say(lease, f"word{number} ", first=number)
            if number % 8 == 0:
                network.cut()
                await asyncio.sleep(0.01)
        await desk.complete(lease, 40)
        for reader in readers:
            await reader.end()
            assert reader.parts == await desk.log.read(task_id)

    assert "Cannot read the logs" in caplog.text
    assert "word" not in caplog.text


async def test_tasks_on_several_shards_are_followed(redis_url: str, open_store: OpenStore) -> None:
    """One blocking read for each shard."""
    desk = Desk(open_store(redis_url, shards=3))
    async with running(Tail(desk.store)) as tail:
        for _ in range(30):
            await desk.submit()
        leases = [(await desk.claimed()).lease for _ in range(30)]
        readers = [Reader(tail, lease.task_id) for lease in leases]
        for lease in leases:
            await desk.say(lease, lease.task_id)
            await desk.complete(lease, 1)
        for reader, lease in zip(readers, leases, strict=True):
            await reader.end()
            assert reader.text == lease.task_id

    assert {lease.task_id[0] for lease in leases} == {"0", "1", "2"}


@pytest.mark.parametrize(
    "fields",
    [(FIELDS["KIND"], "secret"), (FIELDS["TEXT"], "secret"), (FIELDS["KIND"], "started", FIELDS["MODEL"], "secret")],
    ids=str,
)
async def test_a_log_that_cannot_be_read_ends_its_own_streams_only(
    desk: Desk, tail: Tail, caplog: pytest.LogCaptureFixture, fields: tuple[str, ...]
) -> None:
    """A newer version wrote into it: its readers are cut after what could be read, those of others get everything."""
    strange, lease = await desk.begin("one ")
    other, other_lease = await desk.begin("other ")
    reader, bystander = Reader(tail, strange), Reader(tail, other)
    await reader.until(lambda reader: reader.text == "one ")
    await bystander.until(lambda reader: reader.text == "other ")

    await desk.store.command("XADD", desk.shard(strange).log(strange), f"{lease.epoch}-2", *fields)
    with pytest.raises(LogUnreadable):
        await reader.end()
    await desk.say(other_lease, "more", first=2)
    await desk.complete(other_lease, 2)
    await bystander.end()

    assert reader.text == "one "
    assert bystander.text == "other more"
    for attempt in (Reader(tail, strange).end(), desk.log.read(strange), desk.text(strange)):
        with pytest.raises(LogUnreadable):
            await attempt
    assert [record.action for record in caplog.records if record.levelname == "ERROR"] == ["log_unreadable"] * 2  # type: ignore[attr-defined]
    assert "secret" not in caplog.text
    assert tail.followed == 0


async def test_what_is_no_id_is_not_followed(tail: Tail) -> None:
    """It never becomes a key, and leaves nothing behind."""
    with pytest.raises(UnknownTask):
        await Reader(tail, TaskId("0.*")).end()

    assert tail.followed == 0


async def test_a_position_that_was_fetched_too_early_is_dropped(
    desk: Desk, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task was claimed while its position was on the way: no position is told of a task that runs."""
    monkeypatch.setattr(tail_module, "_CHECK_S", 0.05)
    ahead = await desk.submit()
    task_id = await desk.submit()

    class Claimed(Store):
        """Lets the task be claimed, and the tail hear of it, before the position arrives."""

        async def batch(self, shard: Shard, commands: Sequence[Sequence[Word]], **options: bool) -> list[Any]:
            reply = await super().batch(shard, commands, **options)
            if fast and len(reply) == 3 and reply[1] is not None:
                assert (await desk.claimed()).lease.task_id == ahead
                lease = (await desk.claimed()).lease
                fast.clear()
                await reader.until(lambda reader: isinstance(reader.entries[-1].event, Started))
                await desk.complete(lease, 0)
            return reply

    fast: list[bool] = []
    store = Claimed(redis_url)
    try:
        async with running(Tail(store)) as tail:
            reader = await Reader(tail, task_id).until(lambda reader: len(reader.hints) == 1)
            fast.append(True)
            await reader.end()
    finally:
        await store.close()

    assert len(reader.hints) == 1


def test_a_feed_takes_what_follows_and_skips_what_it_has() -> None:
    """An entry read twice is no change; one that cannot follow says that the log must be read anew."""
    feed = Feed(TaskId("0." + "0" * 32))
    queued = Entry(Cursor(0, 1), Queued())

    assert feed.take(queued)
    assert feed.take(queued)
    assert len(feed.fold.entries) == 1
    assert not feed.take(Entry(Cursor(9, 0), Started(attempt=1, model="m", kept=0, previous=Cursor(8, 1))))
    assert not feed.ended
