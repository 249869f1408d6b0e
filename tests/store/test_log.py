"""The log of an answer: appended once, by its owner alone, and refilled when Redis lost its newest writes."""

import pytest

from sibyl.core.cursor import START, Cursor
from sibyl.core.errors import LeaseLost, StoreUnsuitable, UnknownTask
from sibyl.core.event import Completed, Output, Queued, Started
from sibyl.core.fold import Fold
from sibyl.core.task import LOCAL_OWNER, Lease, TaskId
from sibyl.store.log import Appended, Gap
from tests.store.desk import Desk, Snapshot, dump, outputs


async def test_what_is_appended_can_be_read(desk: Desk) -> None:
    """Numbered from one, under the epoch of the claim; any text."""
    task_id, lease = await desk.begin()
    odd = ["", "\r\n\0", "👩‍👩‍👧", " \u2028"]

    assert await desk.say(lease, *odd) == Appended(4, cancel=False)

    queued, started, *rest = await desk.log.read(task_id)
    assert queued.cursor == Cursor(0, 1)
    assert queued.event == Queued()
    assert started.cursor == Cursor(lease.epoch, 0)
    assert started.event == Started(attempt=1, model="oracle", kept=0, previous=Cursor(0, 1))
    assert [entry.cursor for entry in rest] == [Cursor(lease.epoch, number) for number in range(1, 5)]
    assert [entry.event for entry in rest] == outputs(*odd)


async def test_reading_goes_on_after_a_cursor(desk: Desk) -> None:
    """All, some, or nothing."""
    task_id, _ = await desk.begin("one ", "two ", "three")
    whole = await desk.log.read(task_id)

    for place, entry in enumerate(whole):
        assert await desk.log.read(task_id, entry.cursor) == whole[place + 1 :]
    assert await desk.log.read(task_id, START) == whole


async def test_the_log_of_an_unknown_task_is_empty(desk: Desk) -> None:
    """And the log of what is no id is an error."""
    assert await desk.log.read(TaskId("0." + "0" * 32)) == []
    with pytest.raises(UnknownTask):
        await desk.log.read(TaskId("*"))


async def test_appending_again_changes_nothing(desk: Desk) -> None:
    """The same numbers are skipped, wholly or in part: the log has each once."""
    task_id, lease = await desk.begin("one ", "two ")

    assert await desk.say(lease, "one ", "two ") == Appended(2, cancel=False)
    assert await desk.say(lease, "two ", "three", first=2) == Appended(3, cancel=False)

    assert await desk.text(task_id) == "one two three"


async def test_a_number_too_high_is_a_gap(desk: Desk) -> None:
    """Nothing is written; the caller is told where to go on."""
    _, lease = await desk.begin("one ")
    before = await dump(desk.store)

    assert await desk.say(lease, "three", first=3) == Gap(1)
    assert await desk.say(lease, first=4) == Gap(1)

    assert await dump(desk.store) == before


async def test_a_lost_tail_is_refilled_under_the_same_numbers(desk: Desk) -> None:
    """Redis came back without its newest writes; the log becomes what it was."""
    task_id, lease = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.say(lease, "two ", "three ", first=2)
    before = await desk.log.read(task_id)
    await snapshot.restore()

    assert await desk.say(lease, "four", first=4) == Gap(1)
    assert await desk.say(lease, "two ", "three ", "four", first=2) == Appended(4, cancel=False)

    after = await desk.log.read(task_id)
    assert after[: len(before)] == before
    assert await desk.text(task_id) == "one two three four"


async def test_a_lost_claim_makes_the_former_owner_legal_again(desk: Desk) -> None:
    """Its successor is refused from then on, and the next claim has an epoch above both."""
    task_id, first = await desk.begin("one ")
    snapshot = await Snapshot.take(desk, task_id)
    await desk.lapse(task_id)
    second = (await desk.claimed()).lease
    await desk.say(second, "TWO ", first=2)
    await snapshot.restore()

    with pytest.raises(LeaseLost):
        await desk.say(second, "THREE", first=3)
    assert await desk.say(first, "two ", first=2) == Appended(2, cancel=False)
    await desk.lapse(task_id)
    third = (await desk.claimed(floor=second.epoch)).lease

    assert third.epoch > second.epoch > first.epoch
    assert await desk.text(task_id) == "one two "


async def test_a_heartbeat_renews_and_appends_nothing(desk: Desk) -> None:
    """The lease's end moves on, by Redis' clock; progress is kept for those who wait."""
    task_id, lease = await desk.begin()
    shard = desk.shard(task_id)
    await desk.lapse(task_id)

    assert await desk.log.append(lease, 1, [], lease_s=60, progress="5 9") == Appended(0, cancel=False)

    assert await desk.store.command("HGET", shard.task(task_id), "progress") == "5 9"
    assert await desk.claim() is None
    renewed = int(await desk.store.command("HGET", shard.task(task_id), "lease_ms"))
    assert renewed == float(await desk.store.command("ZSCORE", shard.running, task_id))
    seconds, micros = await desk.store.command("TIME")
    assert 59_000 < renewed - int(seconds) * 1000 - int(micros) // 1000 <= 60_000


async def test_every_append_tells_of_a_cancel(desk: Desk) -> None:
    """Also the heartbeat of a worker that evaluates a long prompt."""
    task_id, lease = await desk.begin("one ")
    await desk.queue.request_cancel(task_id, LOCAL_OWNER)

    assert await desk.say(lease, first=2) == Appended(1, cancel=True)
    assert await desk.say(lease, "two", first=2) == Appended(2, cancel=True)


@pytest.mark.parametrize("after", ["taken over", "settled", "erased", "released", "cancelled when its lease had ended"])
async def test_who_lost_the_lease_is_refused_every_write(desk: Desk, after: str) -> None:
    """Append, heartbeat, settle and release, however it was lost; nothing is written, nothing comes back to life."""
    task_id, lease = await desk.begin("one ")
    match after:
        case "taken over":
            await desk.lapse(task_id)
            await desk.claimed()
        case "settled":
            await desk.complete(lease, 1)
            lease = Lease(task_id=task_id, epoch=lease.epoch, nonce="another")
        case "erased":
            await desk.queue.erase(task_id, LOCAL_OWNER)
        case "released":
            await desk.queue.release(lease)
        case _:
            await desk.lapse(task_id)
            await desk.queue.request_cancel(task_id, LOCAL_OWNER)
    before = await dump(desk.store)

    with pytest.raises(LeaseLost):
        await desk.say(lease, "stray", first=2)
    with pytest.raises(LeaseLost):
        await desk.say(lease, first=2)
    with pytest.raises(LeaseLost):
        await desk.complete(lease, 1)
    assert await desk.queue.release(lease) is (after == "released")  # it is released already

    assert await dump(desk.store) == before


async def test_a_zombie_is_refused_by_redis_itself(desk: Desk) -> None:
    """The claim wrote the first entry of the higher epoch: even a bare XADD of the older one fails."""
    task_id, zombie = await desk.begin("one ")
    await desk.lapse(task_id)
    await desk.claimed()
    log = desk.shard(task_id).log(task_id)

    for number in (2, 3, 999_999_999):
        with pytest.raises(StoreUnsuitable, match="equal or smaller"):
            await desk.store.command("XADD", log, f"{zombie.epoch}-{number}", "t", "stray", "i", "")

    assert await desk.text(task_id) == "one "


async def test_the_right_epoch_under_another_nonce_is_refused(desk: Desk) -> None:
    """Should Redis ever hand out an epoch twice, the nonce tells the two holders apart."""
    task_id, lease = await desk.begin("one ")
    other = Lease(task_id=task_id, epoch=lease.epoch, nonce="other:1")

    with pytest.raises(LeaseLost):
        await desk.say(other, "two", first=2)
    with pytest.raises(LeaseLost):
        await desk.complete(other, 1)


async def test_the_right_nonce_under_an_older_epoch_is_refused(desk: Desk) -> None:
    """A claim whose reply was lost, repeated after the lease had ended, leaves two leases under one nonce."""
    task_id, lease = await desk.begin("one ")
    older = Lease(task_id=task_id, epoch=lease.epoch - 1, nonce=lease.nonce)
    before = await dump(desk.store)

    with pytest.raises(LeaseLost):
        await desk.say(older, first=2)
    with pytest.raises(LeaseLost):
        await desk.say(older, "two", first=2)
    with pytest.raises(LeaseLost):
        await desk.complete(older, 1)

    assert await dump(desk.store) == before


async def test_nothing_is_appended_after_ones_own_end(desk: Desk) -> None:
    """Not even a heartbeat, which would put the task back among those that run."""
    task_id, lease = await desk.begin("one ")
    await desk.complete(lease, 1)
    before = await dump(desk.store)

    with pytest.raises(LeaseLost):
        await desk.say(lease, first=2)
    with pytest.raises(LeaseLost):
        await desk.say(lease, "two", first=2)

    assert await dump(desk.store) == before
    assert await desk.text(task_id) == "one "


async def test_a_stray_output_of_a_torn_write_is_cut_by_the_next_claim(desk: Desk) -> None:
    """Half a script survived a crash: the entry without the hash. The next claim voids it, for every reader."""
    task_id, lease = await desk.begin("one ")
    await desk.store.command("XADD", desk.shard(task_id).log(task_id), f"{lease.epoch}-2", "t", "stray", "i", "1")
    await desk.lapse(task_id)
    claim = await desk.claimed()

    assert claim.stored == 1
    assert await desk.text(task_id) == "one "
    await desk.say(claim.lease, "two", first=2)
    assert await desk.complete(claim.lease, 2) is None
    assert await desk.text(task_id) == "one two"


async def test_the_end_keeps_what_was_appended(desk: Desk) -> None:
    """Whoever settles need not count: the terminal entry says how many outputs stay, and they do."""
    task_id, lease = await desk.begin("one ", "two")

    assert await desk.complete(lease, 2) is None

    fold = Fold(await desk.log.read(task_id))
    assert fold.text() == "one two"
    end = fold.entries[-1].event
    assert isinstance(end, Completed)
    assert end.kept == 2


async def test_many_outputs_go_in_one_append(desk: Desk) -> None:
    """Lua's limits are far away: a gap of thousands is refilled at once."""
    task_id, lease = await desk.begin()
    many = [f"{number} " for number in range(3000)]

    assert await desk.say(lease, *many) == Appended(3000, cancel=False)

    assert await desk.text(task_id) == "".join(many)
    assert len([e for e in await desk.log.read(task_id) if isinstance(e.event, Output)]) == 3000
