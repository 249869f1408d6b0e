"""The queue: accepted once, claimed by one, ended for good."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from sibyl.core.cursor import START
from sibyl.core.errors import (
    IdempotencyMismatch,
    LeaseLost,
    QueueFull,
    SibylError,
    StoreUnavailable,
    TaskForgotten,
    TooManyTasks,
    UnknownTask,
)
from sibyl.core.event import Cancelled, Expired, Failed, Started, Terminal
from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER, Owner, TaskError, TaskId
from sibyl.store.connection import Store
from sibyl.store.queue import Claim, Limits
from sibyl.store.scripts import Script
from tests.store.conftest import OpenStore
from tests.store.desk import LIMITS, Desk, dump, spec
from tests.topology import SHARDS

OTHER = Owner("other")


def limits(
    *, queue_tasks: int = 100, owner_tasks: int = 100, deadline_s: float = 600, retention_s: float = 3600
) -> Limits:
    """The usual limits but one."""
    return Limits(queue_tasks=queue_tasks, owner_tasks=owner_tasks, deadline_s=deadline_s, retention_s=retention_s)


async def state(desk: Desk, task_id: TaskId) -> State:
    """The task's state as a client sees it."""
    return (await desk.views.task(task_id, LOCAL_OWNER)).state


async def drain(desk: Desk) -> list[TaskId]:
    """Claim and complete everything; the order in which it came."""
    order: list[TaskId] = []
    while (claim := await desk.claim()) is not None:
        order.append(claim.lease.task_id)
        assert await desk.complete(claim.lease, claim.stored) is None
    return order


# ---- submit


async def test_a_submitted_task_waits_with_all_that_was_asked(desk: Desk) -> None:
    """What comes back is what went in; ids are random."""
    task_id = await desk.submit("Why?\n👀", priority=7)
    task = await desk.views.task(task_id, LOCAL_OWNER)

    assert task.spec == spec("Why?\n👀", priority=7)
    assert (task.state, task.position, task.attempt, task.model) == (State.QUEUED, 0, 0, None)
    assert task.expires_at == pytest.approx(task.created_at + 600 + 3600)
    assert await desk.submit("Why?\n👀") != task_id


async def test_the_same_idempotency_key_is_the_same_task(desk: Desk) -> None:
    """Also at the same moment, also when the task has ended."""
    ids = await asyncio.gather(*(desk.submit(key="key") for _ in range(8)))
    assert len(set(ids)) == 1
    assert await desk.views.waiting_tasks() == 1

    await drain(desk)

    assert await desk.submit(key="key") == ids[0]
    assert await desk.claim() is None


@pytest.mark.parametrize("request_", ["", "a b", "\n"])
async def test_a_key_counts_whatever_is_asked(desk: Desk, request_: str) -> None:
    """A digest may be any text, also none: the key still names one task, and another request is still refused."""

    async def submit(request: str) -> TaskId:
        return await desk.queue.submit(spec(), owner=LOCAL_OWNER, limits=LIMITS, idempotency_key="key", request=request)

    first = await submit(request_)

    assert await submit(request_) == first
    with pytest.raises(IdempotencyMismatch):
        await submit("other")


@pytest.mark.parametrize("after", ["erased", "completed"])
async def test_a_submit_repeated_after_the_end_accepts_nothing(desk: Desk, after: str) -> None:
    """Its reply took so long that the task was over before the script was repeated: it does not come back to life."""
    task_id, lease = await desk.begin("one ")
    if after == "erased":
        await desk.queue.erase(task_id, LOCAL_OWNER)
    else:
        await desk.complete(lease, 1)
    before, shard = await dump(desk.store), desk.shard(task_id)

    keys = [*shard.whole(task_id), shard.mine(LOCAL_OWNER), shard.task(task_id)]
    reply = await desk.store.run(
        Script.SUBMIT, keys, task_id, LOCAL_OWNER, 5, "{}", 600_000, 3_600_000, 100, 100, "0", ""
    )

    assert reply == ["ok", task_id]
    assert await dump(desk.store) == before


async def test_a_key_is_the_owners_own(desk: Desk) -> None:
    """Nobody learns of another's task by guessing a key."""
    assert await desk.submit(key="key") != await desk.submit(key="key", owner=OTHER)


async def test_a_key_for_another_request_is_refused(desk: Desk) -> None:
    """Nothing is accepted, and the first request stays."""
    first = await desk.submit("Why?\nWhy not? %d", key="key")
    before = await dump(desk.store)

    with pytest.raises(IdempotencyMismatch):
        await desk.submit("How?", key="key")

    assert await dump(desk.store) == before
    assert await desk.submit("Why?\nWhy not? %d", key="key") == first


async def test_a_full_queue_takes_nothing(desk: Desk) -> None:
    """Until somebody claims; a known key is answered also then."""
    full = limits(queue_tasks=2)
    first = await desk.submit(limits=full, key="key")
    await desk.submit(limits=full)
    before = await dump(desk.store)

    with pytest.raises(QueueFull):
        await desk.submit(limits=full)

    assert await dump(desk.store) == before
    assert await desk.submit(limits=full, key="key") == first
    await desk.claimed()
    await desk.submit(limits=full)


async def test_an_owner_has_so_many_unfinished_tasks(desk: Desk) -> None:
    """Waiting and running together; others are not touched; every end gives the place back."""
    few = limits(owner_tasks=2)

    async def full() -> bool:
        try:
            task_id = await desk.submit(limits=few)
        except TooManyTasks:
            return True
        await desk.queue.erase(task_id, LOCAL_OWNER)
        return False

    one = await desk.submit(limits=few)
    two = await desk.submit(limits=few)
    assert await full()
    lease = (await desk.claimed()).lease
    assert lease.task_id == one
    assert await full()
    await desk.submit(limits=few, owner=OTHER)

    await desk.complete(lease, 0)
    assert not await full()
    assert await desk.queue.request_cancel(two, LOCAL_OWNER) is State.CANCELLED
    for _ in range(2):
        await desk.submit(limits=few)
    assert await full()


# ---- order


async def test_one_owners_tasks_come_in_the_order_they_were_submitted(desk: Desk) -> None:
    """First in, first out."""
    ids = [await desk.submit() for _ in range(20)]

    assert await drain(desk) == ids


async def test_a_higher_priority_runs_sooner(desk: Desk) -> None:
    """Bands are strict; within a band it is first come, first served."""
    ids = {priority: [await desk.submit(priority=priority) for _ in range(2)] for priority in (0, 9, 5, 6)}

    assert await drain(desk) == ids[9] + ids[6] + ids[5] + ids[0]


async def test_the_position_is_how_many_are_claimed_before(desk: Desk) -> None:
    """With owners and priorities mixed, for every task, and again after each claim."""
    ids = [
        await desk.submit(owner=Owner(f"owner {number % 3}"), priority=5 + number % 2 * (number % 5 == 0))
        for number in range(15)
    ]
    owner = {task_id: Owner(f"owner {number % 3}") for number, task_id in enumerate(ids)}
    for _ in ids:
        positions = {
            task.position: task_id
            for task_id in ids
            if (task := await desk.views.task(task_id, owner[task_id])).position is not None
        }
        assert sorted(positions) == list(range(len(positions)))
        assert (await desk.claimed()).lease.task_id == positions[0]


# ---- claim


async def test_there_is_nothing_to_claim_at_first(desk: Desk) -> None:
    """No task, no claim, no key."""
    assert await desk.claim() is None
    assert await dump(desk.store) == {}


async def test_a_claim_says_all_that_an_attempt_needs(desk: Desk) -> None:
    """What was asked, how often it was tried, what is stored, and how much time is left."""
    task_id = await desk.submit("Why?", priority=3)
    claim = await desk.claimed("worker:nonce")

    assert (claim.lease.task_id, claim.lease.nonce) == (task_id, "worker:nonce")
    assert claim.spec == spec("Why?", priority=3)
    assert (claim.attempt, claim.stored) == (1, 0)
    assert 599 < claim.remaining_s <= 600
    assert await state(desk, task_id) is State.RUNNING


async def test_two_workers_never_get_the_same_task(desk: Desk, open_store: OpenStore, redis_url: str) -> None:
    """Eight workers on connections of their own, all at once: each task goes to one, and none is left."""
    ids = {await desk.submit() for _ in range(60)}
    workers = [Desk(open_store(redis_url)) for _ in range(8)]
    claimed: list[TaskId] = []

    async def work(number: int) -> None:
        while (claim := await workers[number].claim(f"worker{number}:{secrets.token_hex(4)}")) is not None:
            claimed.append(claim.lease.task_id)

    await asyncio.gather(*(work(number) for number in range(8)))

    assert len(claimed) == 60
    assert set(claimed) == ids


async def test_the_dead_do_not_hide_the_living(desk: Desk) -> None:
    """However many tasks at the head of the queue have to be ended first, one claim finds the next that can run."""
    dead = [await desk.submit() for _ in range(30)]
    living = await desk.submit()
    for task_id in dead:
        await desk.overdue(task_id)

    assert (await desk.claimed()).lease.task_id == living

    assert {await state(desk, task_id) for task_id in dead} == {State.EXPIRED}


async def test_a_claim_of_what_another_holds_is_refused(desk: Desk) -> None:
    """It was looked up while it was free; meanwhile somebody else was faster."""
    task_id, lease = await desk.begin("one ")
    before, shard = await dump(desk.store), desk.shard(task_id)

    reply = await desk.store.run(Script.CLAIM, shard.whole(task_id), task_id, "worker:late", 60_000, 3, 0, "oracle")

    assert reply == ["busy", "running"]
    assert await dump(desk.store) == before
    await desk.say(lease, "two", first=2)


async def test_the_same_nonce_gets_the_same_lease(desk: Desk) -> None:
    """The reply of a claim was lost: asking again gives no second task and no new epoch."""
    task_id = await desk.submit()
    first = await desk.claimed("worker:nonce")
    await desk.say(first.lease, "one")
    before = await dump(desk.store)
    shard = desk.shard(task_id)

    reply = await desk.store.run(Script.CLAIM, shard.whole(task_id), task_id, "worker:nonce", 60_000, 3, 0, "oracle")

    assert reply[:4] == ["ok", str(first.lease.epoch), "1", "1"]
    assert await dump(desk.store) == before


async def test_each_claim_raises_the_epoch(desk: Desk) -> None:
    """Above the last one, above the clock, and above whatever the worker ever saw."""
    task_id = await desk.submit()
    seconds, _ = await desk.store.command("TIME")
    epochs = [(await desk.claimed()).lease.epoch]
    assert epochs[0] >= int(seconds) * 1000
    for floor in (0, 0, 10**14, 0):
        await desk.lapse(task_id)
        claim = await desk.claim(floor=floor, max_attempts=99)
        assert claim is not None
        assert claim.lease.epoch > floor
        epochs.append(claim.lease.epoch)

    assert epochs == sorted(set(epochs))
    assert (await desk.views.task(task_id, LOCAL_OWNER)).attempt == 5


async def test_a_takeover_goes_on_after_what_is_stored(desk: Desk) -> None:
    """The abandoned task comes before those that wait; its text stays."""
    task_id, _ = await desk.begin("one ", "two ")
    await desk.submit(priority=9)
    await desk.lapse(task_id)

    claim = await desk.claimed()
    assert (claim.lease.task_id, claim.attempt, claim.stored) == (task_id, 2, 2)
    await desk.say(claim.lease, "three", first=3)
    await desk.complete(claim.lease, 3)

    assert await desk.text(task_id) == "one two three"


async def test_a_claims_entry_names_the_one_before_it(desk: Desk) -> None:
    """So that a reader that has another one before it knows that something was lost, and reads the log anew."""
    task_id, _ = await desk.begin("one ", "two ")
    await desk.lapse(task_id)
    await desk.claimed()
    await desk.lapse(task_id)
    await desk.queue.request_cancel(task_id, LOCAL_OWNER)
    entries = await desk.log.read(task_id)

    events = [(entry.event, before.cursor) for before, entry in pairwise(entries)]
    named = [(event.previous, before) for event, before in events if isinstance(event, Started | Cancelled)]

    assert len(named) == 3
    assert all(previous == before for previous, before in named)


async def test_a_takeover_forgets_how_far_the_prompt_was_read(desk: Desk) -> None:
    """The next worker reads it anew; until it says something there is no progress to show."""
    task_id, lease = await desk.begin()
    await desk.log.append(lease, 1, [], lease_s=60, progress="500 512")
    await desk.lapse(task_id)
    await desk.claimed()

    assert await desk.store.command("HGET", desk.shard(task_id).task(task_id), "progress") is None


async def test_a_lease_runs_out_by_itself(desk: Desk) -> None:
    """By Redis' clock, after the time that the claim asked for."""
    task_id = await desk.submit()
    assert await desk.claim(lease_s=0.05) is not None
    assert await desk.claim() is None

    async with asyncio.timeout(2):
        while (claim := await desk.claim()) is None:  # noqa: ASYNC110 - only time can tell
            await asyncio.sleep(0.01)

    assert claim.lease.task_id == task_id


async def test_a_torn_entry_from_the_future_stops_no_claim(desk: Desk) -> None:
    """Half a script survived a crash and the clock was set back: the claim goes above whatever the log holds."""
    task_id, lease = await desk.begin("one ")
    future = lease.epoch + 10**9
    await desk.store.command("XADD", desk.shard(task_id).log(task_id), f"{future}-2", "t", "stray", "i", "1")
    await desk.lapse(task_id)

    claim = await desk.claimed()

    assert claim.lease.epoch > future
    await desk.say(claim.lease, "two", first=2)
    assert await desk.text(task_id) == "one two"


async def test_a_task_that_loses_every_worker_fails(desk: Desk) -> None:
    """A poisoned question does not go round for ever; it is on a list for whoever looks for the reason."""
    task_id = await desk.submit()
    for _ in range(3):
        assert await desk.claim() is not None
        await desk.lapse(task_id)

    assert await desk.claim() is None

    task = await desk.views.task(task_id, LOCAL_OWNER)
    assert task.state is State.FAILED
    assert task.error == TaskError(code="worker_lost", message="Every worker that tried this task was lost, 3 in all.")
    assert await desk.store.command("ZRANGE", desk.shard(task_id).dead, 0, -1) == [task_id]


async def test_the_list_of_the_dead_is_bounded(desk: Desk) -> None:
    """It keeps the newest thousand."""
    task_id = await desk.submit()
    shard = desk.shard(task_id)
    await desk.store.command("ZADD", shard.dead, *(word for old in range(1500) for word in (old, f"old {old}")))
    await desk.store.command("HSET", shard.task(task_id), "tries", 3)

    await desk.claim()

    assert await desk.store.command("ZCARD", shard.dead) == 1000
    assert await desk.store.command("ZREVRANGE", shard.dead, 0, 0) == [task_id]


async def test_a_stale_entry_of_the_queue_is_dropped(desk: Desk) -> None:
    """Half a script survived a crash: the task is over and still in line. It keeps nobody from the tasks behind it."""
    over = await desk.submit()
    await desk.queue.request_cancel(over, LOCAL_OWNER)
    shard = desk.shard(over)
    await desk.store.command("ZADD", shard.waiting, -1, over)
    await desk.store.command("ZADD", shard.waiting, -1, "0." + "0" * 32)
    living = await desk.submit()

    assert (await desk.claimed()).lease.task_id == living
    assert await desk.store.command("ZCARD", shard.waiting) == 0


# ---- settle

ENDS: list[tuple[Terminal, State]] = [
    (Cancelled(), State.CANCELLED),
    (Expired(), State.EXPIRED),
    (Failed(code="engine_error", message="No.\nReally."), State.FAILED),
]


@pytest.mark.parametrize(("end", "state_"), ENDS, ids=lambda value: str(value).split("(")[0])
async def test_every_end_is_settled_once(desk: Desk, end: Terminal, state_: State) -> None:
    """State, log and retention agree; repeating it changes nothing; another end is refused."""
    task_id, lease = await desk.begin("one ")
    assert await desk.queue.settle(lease, 1, end) is None
    before = await dump(desk.store)

    assert await desk.queue.settle(lease, 1, end) is None
    with pytest.raises(LeaseLost):
        await desk.complete(lease, 1)

    assert await dump(desk.store) == before
    task = await desk.views.task(task_id, LOCAL_OWNER)
    assert (task.state, task.text) == (state_, "one ")
    assert task.finished_at is not None
    assert await desk.claim() is None
    assert await desk.views.running_tasks() == 0


async def test_settling_more_than_redis_holds_is_a_gap(desk: Desk) -> None:
    """Redis lost its tail between the last append and the end: append again first."""
    task_id, lease = await desk.begin("one ")
    before = await dump(desk.store)

    assert await desk.complete(lease, 2) == 1
    assert await dump(desk.store) == before
    await desk.say(lease, "two", first=2)
    assert await desk.complete(lease, 2) is None

    assert await desk.text(task_id) == "one two"


# ---- release


async def test_a_released_task_is_claimed_again_at_once(desk: Desk) -> None:
    """It counts as a failed attempt, unless it was given back unharmed; and it comes first."""
    task_id, lease = await desk.begin()

    async def tries() -> str:
        return str(await desk.store.command("HGET", desk.shard(task_id).task(task_id), "tries"))

    assert await desk.queue.release(lease)
    assert await tries() == "1"
    second = await desk.claimed()
    assert await desk.queue.release(second.lease, unharmed=True)
    assert await tries() == "1"

    third = await desk.claimed()
    assert (third.lease.task_id, third.attempt, third.stored) == (task_id, 3, 0)
    assert not await desk.queue.release(lease)


async def test_a_release_repeated_says_the_same(desk: Desk) -> None:
    """Its reply was lost. Also when somebody else has claimed the task meanwhile, and who has it keeps it."""
    _, lease = await desk.begin("one ")
    assert await desk.queue.release(lease)
    released = await dump(desk.store)

    assert await desk.queue.release(lease)
    assert await dump(desk.store) == released
    second = await desk.claimed()
    claimed = await dump(desk.store)
    assert await desk.queue.release(lease)
    assert await dump(desk.store) == claimed

    assert await desk.queue.release(second.lease)
    assert not await desk.queue.release(lease), "the last lease that was given back is another"


async def test_a_lease_under_a_nonce_that_was_released_can_be_released_again(desk: Desk) -> None:
    """A claim whose reply was lost is repeated under its nonce after a successor released the task."""
    task_id, lease = await desk.begin("one ")
    shard = desk.shard(task_id)
    await desk.queue.release(lease, delay_s=-1)
    reply = await desk.store.run(Script.CLAIM, shard.whole(task_id), task_id, lease.nonce, 60_000, 3, 0, "oracle")
    assert reply[0] == "ok"

    assert await desk.queue.release(lease)

    assert (await desk.claimed()).lease.task_id == task_id


async def test_a_try_that_stored_something_does_not_count(desk: Desk) -> None:
    """A task whose worker is killed by another one's fault goes on as long as it gets somewhere."""
    task_id, lease = await desk.begin("one ")
    tries = desk.shard(task_id).task(task_id), "tries"
    assert await desk.queue.release(lease)

    again = await desk.claimed()
    assert await desk.store.command("HGET", *tries) == "1"
    assert await desk.queue.release(again.lease)
    await desk.claimed()
    assert await desk.store.command("HGET", *tries) == "2"


async def test_a_released_task_waits_as_long_as_was_said(desk: Desk) -> None:
    """Others go first meanwhile."""
    task_id, lease = await desk.begin()
    await desk.queue.release(lease, delay_s=0.1)
    assert await desk.claim() is None

    async with asyncio.timeout(2):
        while (claim := await desk.claim()) is None:  # noqa: ASYNC110 - only time can tell
            await asyncio.sleep(0.01)

    assert claim.lease.task_id == task_id


async def test_a_dead_workers_tasks_are_all_released(desk: Desk) -> None:
    """Those of this worker and of no other whose name begins alike."""
    for _ in range(5):
        await desk.submit()
    mine = [(await desk.claimed(f"worker-1:{number}")).lease for number in range(3)]
    other = (await desk.claimed("worker-12:0")).lease

    assert await desk.queue.release_all_of("worker-1") == 3
    assert await desk.queue.release_all_of("worker-1") == 0

    again = {(await desk.claimed()).lease.task_id for _ in range(3)}
    assert again == {lease.task_id for lease in mine}
    await desk.say(other, "still mine")
    with pytest.raises(LeaseLost):
        await desk.say(mine[0], "not mine")


# ---- cancel, erase, reap

Enter = Callable[[Desk], Awaitable[TaskId]]


async def queued(desk: Desk) -> TaskId:
    """It waits."""
    return await desk.submit()


async def running(desk: Desk) -> TaskId:
    """It runs."""
    return (await desk.begin("one "))[0]


async def abandoned(desk: Desk) -> TaskId:
    """Its lease ran out."""
    task_id, _ = await desk.begin("one ")
    await desk.lapse(task_id)
    return task_id


async def released(desk: Desk) -> TaskId:
    """It was given back."""
    task_id, lease = await desk.begin("one ")
    await desk.queue.release(lease, delay_s=60)
    return task_id


async def completed(desk: Desk) -> TaskId:
    """It is over."""
    task_id, lease = await desk.begin("one ")
    await desk.complete(lease, 1)
    return task_id


STATES: list[tuple[Enter, State]] = [
    (queued, State.CANCELLED),
    (running, State.RUNNING),
    (abandoned, State.CANCELLED),
    (released, State.CANCELLED),
    (completed, State.COMPLETED),
]


@pytest.mark.parametrize(("enter", "after"), STATES, ids=lambda value: getattr(value, "__name__", ""))
async def test_cancel_ends_what_nobody_holds(desk: Desk, enter: Enter, after: State) -> None:
    """At once; who holds the task hears of it; an end stays as it is; twice is once."""
    task_id = await enter(desk)

    assert await desk.queue.request_cancel(task_id, LOCAL_OWNER) is after
    before = await dump(desk.store)
    assert await desk.queue.request_cancel(task_id, LOCAL_OWNER) is after

    assert await dump(desk.store) == before
    task = await desk.views.task(task_id, LOCAL_OWNER)
    assert task.state is after
    assert task.text == ("" if enter is queued else "one ")
    assert await desk.claim() is None
    rings = [ring for _, ring in await desk.store.command("XRANGE", desk.shard(task_id).bell, "-", "+")]
    assert ({"cancel": task_id} in rings) == (after is State.RUNNING)


async def test_a_cancelled_task_is_not_taken_over(desk: Desk) -> None:
    """Its worker died before it could stop: the next claim ends it instead of going on."""
    task_id, _ = await desk.begin("one ")
    await desk.queue.request_cancel(task_id, LOCAL_OWNER)
    await desk.lapse(task_id)

    assert await desk.claim() is None

    assert await state(desk, task_id) is State.CANCELLED
    assert await desk.text(task_id) == "one "


async def test_an_end_by_others_is_not_the_late_holders(desk: Desk) -> None:
    """Its lease had ended and the task was cancelled: who comes back with the same end is told it is not its own."""
    task_id, lease = await desk.begin("one ")
    await desk.lapse(task_id)
    await desk.queue.request_cancel(task_id, LOCAL_OWNER)

    with pytest.raises(LeaseLost):
        await desk.queue.settle(lease, 1, Cancelled(kept=1))


@pytest.mark.parametrize("enter", [enter for enter, _ in STATES], ids=lambda enter: enter.__name__)
async def test_erasing_leaves_no_word(desk: Desk, enter: Enter) -> None:
    """Prompt, answer and log are gone from every key; that there was a task is known for a while."""
    task_id = await enter(desk)
    await desk.queue.erase(task_id, LOCAL_OWNER)

    left = await dump(desk.store)
    assert not [key for key, value in left.items() if "Why?" in value or "one " in value]
    assert not [key for key in left if "task:" in key or "log:" in key]
    assert not [value for key, value in left.items() if "<task>" in value and not key.endswith(":bell")]
    for look in (desk.queue.request_cancel, desk.queue.erase, desk.views.task):
        with pytest.raises(TaskForgotten):
            await look(task_id, LOCAL_OWNER)
    assert await desk.claim() is None
    assert await desk.views.tasks(LOCAL_OWNER, limit=5) == ([], None)
    few = limits(owner_tasks=1)
    assert await desk.submit(limits=few)


@pytest.mark.parametrize("enter", [queued, abandoned, released], ids=lambda enter: enter.__name__)
async def test_reaping_ends_what_is_past_its_deadline(desk: Desk, enter: Enter) -> None:
    """Also when no worker is there to do it, and once."""
    task_id = await enter(desk)
    assert await desk.queue.reap() == 0
    await desk.overdue(task_id)

    assert await desk.queue.reap() == 1
    assert await desk.queue.reap() == 0

    assert await state(desk, task_id) is State.EXPIRED


async def test_reaping_leaves_alone_what_a_worker_holds(desk: Desk) -> None:
    """The holder ends it itself; nobody takes a lease away that is alive."""
    task_id, lease = await desk.begin("one ")
    await desk.overdue(task_id)
    assert await desk.queue.reap() == 0

    assert await desk.queue.settle(lease, 1, Expired()) is None

    assert await state(desk, task_id) is State.EXPIRED


async def test_reaping_ends_a_cancelled_task_whose_worker_died(desk: Desk) -> None:
    """The client asked, the worker never heard."""
    task_id, _ = await desk.begin()
    await desk.queue.request_cancel(task_id, LOCAL_OWNER)
    await desk.lapse(task_id)

    assert await desk.queue.reap() == 1

    assert await state(desk, task_id) is State.CANCELLED


async def test_a_claim_past_the_deadline_ends_the_task(desk: Desk) -> None:
    """Nobody generates an answer that nobody waits for."""
    task_id = await desk.submit()
    await desk.overdue(task_id)

    assert await desk.claim() is None

    assert await state(desk, task_id) is State.EXPIRED


# ---- retention


async def test_what_has_ended_is_kept_for_a_time_and_then_forgotten(desk: Desk) -> None:
    """First there, then "forgotten", then as unknown as if it had never been."""
    task_id = await desk.submit(limits=limits(deadline_s=0.5, retention_s=0.1))
    shard = desk.shard(task_id)
    lease = (await desk.claimed()).lease
    assert await desk.store.command("PTTL", shard.task(task_id)) == -1
    await desk.complete(lease, 0)
    assert await state(desk, task_id) is State.COMPLETED

    async with asyncio.timeout(2):
        while await desk.store.command("EXISTS", shard.task(task_id)):  # noqa: ASYNC110 - only time can tell
            await asyncio.sleep(0.01)
    assert await desk.log.read(task_id, START) == []
    with pytest.raises(TaskForgotten):
        await desk.views.task(task_id, LOCAL_OWNER)
    assert await desk.views.tasks(LOCAL_OWNER, limit=5) == ([], None)

    async with asyncio.timeout(2):
        while await desk.store.command("EXISTS", shard.gone(task_id)):  # noqa: ASYNC110 - only time can tell
            await asyncio.sleep(0.01)
    with pytest.raises(UnknownTask):
        await desk.views.task(task_id, LOCAL_OWNER)


async def test_hash_and_log_go_together(desk: Desk) -> None:
    """At the end both get the retention, and the tombstone twice as long."""
    task_id, lease = await desk.begin("one ")
    await desk.complete(lease, 1)
    shard = desk.shard(task_id)
    ttl = {name: await desk.store.command("PTTL", getattr(shard, name)(task_id)) for name in ("task", "log", "gone")}

    assert 3_590_000 < ttl["task"] <= 3_600_000
    assert 3_590_000 < ttl["log"] <= 3_600_000
    assert 7_190_000 < ttl["gone"] <= 7_200_000


@pytest.mark.parametrize("end", ["erased", "cancelled"])
async def test_a_tombstone_outlives_the_idempotency_key(desk: Desk, end: str) -> None:
    """Or a repeated submit would be sent to a task that nobody has heard of, when the retention is short."""
    task_id = await desk.submit(key="key", limits=limits(deadline_s=600, retention_s=10))
    await (desk.queue.erase if end == "erased" else desk.queue.request_cancel)(task_id, LOCAL_OWNER)
    shard = desk.shard(task_id)

    remembered = await desk.store.command("PTTL", shard.gone(task_id))
    assert remembered + 100 >= await desk.store.command("PTTL", shard.idempotency(LOCAL_OWNER, "key")) > 600_000


async def test_nothing_that_ended_is_kept_for_ever(desk: Desk) -> None:
    """After an end of every kind each key expires or is one of the few that all tasks share."""
    for enter, _ in STATES:
        task_id = await enter(desk)
        await desk.queue.request_cancel(task_id, LOCAL_OWNER)
        await desk.lapse(task_id)
        await desk.queue.reap()
    shared = {"sibyl:{q0}:bell", "sibyl:{q0}:clock"}

    assert {key for key, value in (await dump(desk.store)).items() if not value.endswith(" expires")} <= shared


async def test_the_list_of_ones_tasks_forgets_with_them(desk: Desk) -> None:
    """An owner who never looks does not make it grow for ever."""
    mine = desk.store.shards[0].mine(LOCAL_OWNER)
    await desk.store.command("ZADD", mine, 1, "0." + "0" * 32)

    task_id = await desk.submit()

    assert await desk.store.command("ZRANGE", mine, 0, -1) == [task_id]
    assert 0 < await desk.store.command("PTTL", mine) <= 2 * 1000 * (600 + 3600)


# ---- strangers


@pytest.mark.parametrize(
    "task_id", ["", "*", "0.*", "1." + "0" * 32, "0." + "0" * 31 + "}", "x\r\nFLUSHALL\r\n", "0." + "٠" * 32]
)
async def test_what_is_no_id_touches_no_key(desk: Desk, task_id: str) -> None:
    """A stranger's text is an unknown task, for every call, and Redis never hears of it."""
    for look in (desk.queue.request_cancel, desk.queue.erase, desk.views.task):
        with pytest.raises(UnknownTask):
            await look(TaskId(task_id), LOCAL_OWNER)

    assert await dump(desk.store) == {}


async def test_anothers_task_is_an_unknown_one(desk: Desk) -> None:
    """For every call, and nothing happens to it."""
    task_id, _ = await desk.begin("one ")
    before = await dump(desk.store)

    for look in (desk.queue.request_cancel, desk.queue.erase, desk.views.task):
        with pytest.raises(UnknownTask):
            await look(task_id, OTHER)

    assert await dump(desk.store) == before


async def test_errors_of_the_queue_are_ours(desk: Desk) -> None:
    """A caller needs to know one tree."""
    with pytest.raises(SibylError):
        await desk.submit(limits=Limits(queue_tasks=0, owner_tasks=1, deadline_s=1, retention_s=1))
    assert LIMITS.queue_tasks > 0


async def test_many_are_claimed_at_once(desk: Desk) -> None:
    """In the order of the queue, each under its own nonce; fewer when there are no more."""
    submitted = [await desk.submit(f"{number}") for number in range(5)]

    claims = await _claim_some(desk, 3)
    rest = await _claim_some(desk, 9)

    assert {claim.lease.task_id for claim in claims + rest} == set(submitted)
    assert len({claim.lease.nonce for claim in claims + rest}) == 5
    assert [len(claims), len(rest)] == [3, 2]
    if SHARDS == 1:
        assert [claim.lease.task_id for claim in claims + rest] == submitted


async def test_who_knows_that_one_task_waits_claims_it_without_a_look(desk: Desk) -> None:
    """What rang is taken if it can be had; if not, there is a look."""
    first, second = await desk.submit(), await desk.submit()

    (claim,) = await _claim_some(desk, 2, rung=second)
    (other,) = await _claim_some(desk, 2, rung=second)

    assert claim.lease.task_id == second
    assert other.lease.task_id == first


async def test_the_abandoned_may_be_left_to_their_holders(desk: Desk) -> None:
    """Right after an outage every lease may have run out, and its holder be about to write."""
    held, _ = await desk.begin("one ")
    await desk.lapse(held)
    waiting = await desk.submit()

    claims = [await _claim_some(desk, 5, abandoned=abandoned) for abandoned in (False, True)]

    assert [[claim.lease.task_id for claim in some] for some in claims] == [[waiting], [held]]


async def test_a_shard_that_fails_costs_no_claim_elsewhere(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three claims meets a Redis that is away: the other two are ours, and not left to run out."""
    submitted = [await desk.submit() for _ in range(3)]
    run = Store.run

    async def flaky(self: Store, script: Script, keys: Sequence[str], *args: str | int | float) -> Any:
        if script is Script.CLAIM and args[0] == submitted[1]:
            raise StoreUnavailable()
        return await run(self, script, keys, *args)

    monkeypatch.setattr(Store, "run", flaky)

    claims = await _claim_some(desk, 3)
    with pytest.raises(StoreUnavailable):
        await _claim_some(desk, 3)

    assert {claim.lease.task_id for claim in claims} == {submitted[0], submitted[2]}


async def _claim_some(desk: Desk, count: int, *, rung: TaskId | None = None, abandoned: bool = True) -> list[Claim]:
    nonces = [f"worker:{secrets.token_hex(4)}" for _ in range(count)]
    return await desk.queue.claim_some(
        nonces, model="m", lease_s=60, max_attempts=3, floor=0, rung=rung, abandoned=abandoned
    )
