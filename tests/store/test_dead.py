"""The dead letters: who is on the list, and what retrying and dropping do to it. On one shard and on several."""

from typing import Any

import pytest

from sibyl.core.errors import QueueFull, StoreUnsuitable, TaskForgotten, UnknownTask
from sibyl.core.state import State
from sibyl.core.task import Owner, TaskId
from sibyl.store.connection import Store
from sibyl.store.dead import DeadLetters
from sibyl.wire import record
from tests.store.conftest import OpenStore
from tests.store.desk import LIMITS, Desk

ALICE = Owner("alice")
ROOM = {"queue_tasks": 100, "owner_tasks": 100}


@pytest.fixture(params=[1, 4], ids=["one shard", "four shards"])
async def desk(request: pytest.FixtureRequest, redis_url: str, open_store: OpenStore) -> Desk:
    """A client and a worker, on one shard and on four."""
    return Desk(open_store(redis_url, shards=request.param))


@pytest.fixture
def letters(desk: Desk) -> DeadLetters:
    """The list."""
    return DeadLetters(desk.store)


async def die(desk: Desk, question: str = "Why?", *texts: str, owner: Owner = ALICE) -> TaskId:
    """A task that stored ``texts`` and then lost two workers in a row."""
    task_id = await desk.submit(question, owner=owner)
    if texts:
        claim = await desk.claimed()
        await desk.say(claim.lease, *texts)
        await desk.queue.release(claim.lease)
    for _ in range(2):
        claim = await desk.claimed()
        assert claim.lease.task_id == task_id
        await desk.queue.release(claim.lease)
    assert await desk.claim(max_attempts=2) is None
    assert await field(desk, task_id, "state") == State.FAILED
    return task_id


async def field(desk: Desk, task_id: TaskId, name: str) -> Any:
    """A field of a task's hash."""
    return await desk.store.command("HGET", desk.shard(task_id).task(task_id), name)


async def test_the_list_tells_what_an_operator_needs(desk: Desk, letters: DeadLetters) -> None:
    """Owner, kind, tries, tokens stored, model and time; the newest first."""
    first = await die(desk, "One?", "The", " river", owner=Owner("bob"))
    await desk.store.command("ZADD", desk.shard(first).dead, 1_000_000_500, first)
    second = await die(desk, "Two?")

    assert await letters.ids() == [second, first]
    dead = await letters.task(first)
    assert (dead.task_id, dead.owner, dead.kind, dead.tries) == (first, "bob", "question", 2)
    assert (dead.tokens, dead.model, dead.died_at) == (2, "oracle", 1_000_000.5)
    assert (await letters.task(second)).tokens == 0


async def test_a_log_that_this_version_cannot_read_hides_no_letter(desk: Desk, letters: DeadLetters) -> None:
    """Only the number of its tokens is unknown."""
    task_id = await die(desk)
    await desk.store.command("XADD", desk.shard(task_id).log(task_id), "*", "k", "of another version")

    assert (await letters.task(task_id)).tokens is None


async def test_a_retry_asks_the_same_anew(desk: Desk, letters: DeadLetters) -> None:
    """Spec, owner, time and retention are the dead one's; the dead one stays failed and leaves the list."""
    old = await die(desk)

    new = await letters.retry(old, **ROOM)

    assert new != old and await letters.ids() == []
    for name in ("spec", "owner", "retention_ms"):
        assert await field(desk, new, name) == await field(desk, old, name)
    lives = [
        int(await field(desk, one, "deadline_ms")) - int(await field(desk, one, "created_ms")) for one in (old, new)
    ]
    assert lives == [LIMITS.deadline_s * 1000] * 2
    assert [await field(desk, one, "state") for one in (old, new)] == ["failed", "queued"]
    assert (await desk.claimed()).lease.task_id == new


async def test_the_same_dead_task_retried_twice_gives_the_same_new_task(desk: Desk, letters: DeadLetters) -> None:
    """After the first was done, and after it was cut off between accepting the new one and the list."""
    old = await die(desk)
    new = await letters.retry(old, **ROOM)

    assert await letters.retry(old, **ROOM) == new
    await desk.store.command("ZADD", desk.shard(old).dead, 1, old)
    assert await letters.retry(old, **ROOM) == new
    assert await letters.ids() == []
    await desk.complete((await desk.claimed()).lease, 0)
    assert await desk.claim() is None


async def test_a_retry_that_dies_again_is_a_letter_of_its_own(desk: Desk, letters: DeadLetters) -> None:
    """And can be retried in turn."""
    new = await letters.retry(await die(desk), **ROOM)
    for _ in range(2):
        await desk.queue.release((await desk.claimed()).lease)
    assert await desk.claim(max_attempts=2) is None

    assert await letters.ids() == [new]
    assert await letters.retry(new, **ROOM) != new


async def test_the_queues_limits_hold_for_a_retry(desk: Desk, letters: DeadLetters) -> None:
    """What is refused stays on the list."""
    old = await die(desk)

    with pytest.raises(QueueFull):
        await letters.retry(old, queue_tasks=0, owner_tasks=100)

    assert await letters.ids() == [old]


async def test_a_clients_idempotency_key_cannot_be_taken_for_a_retry(desk: Desk, letters: DeadLetters) -> None:
    """A key of HTTP has no spaces; that of a retry has one."""
    old = await die(desk)
    other = await desk.submit("Other?", owner=ALICE, key=f"retry{old}")

    new = await letters.retry(old, **ROOM)

    assert new != other
    assert record.decode_spec(await field(desk, new, "spec")).messages[-1].content == "Why?"


async def test_a_drop_takes_a_task_off_the_list_only(desk: Desk, letters: DeadLetters) -> None:
    """The task stays; dropped, it can be neither dropped nor retried."""
    task_id = await die(desk)

    await letters.drop(task_id)

    assert await letters.ids() == []
    assert await field(desk, task_id, "state") == "failed"
    for again in (letters.drop(task_id), letters.retry(task_id, **ROOM), letters.task(task_id)):
        with pytest.raises(UnknownTask, match="not on the list of dead tasks; it is failed"):
            await again


@pytest.mark.parametrize("task_id", ["", "nonsense", "0.{}", "99." + 32 * "0", "0." + 32 * "0"])
async def test_an_unknown_id_is_told(letters: DeadLetters, task_id: str) -> None:
    """Whatever it looks like; it never becomes part of a key unchecked."""
    for what in (letters.drop, letters.task):
        with pytest.raises(UnknownTask):
            await what(TaskId(task_id))
    with pytest.raises(UnknownTask):
        await letters.retry(TaskId(task_id), **ROOM)


async def test_a_task_that_lives_is_no_letter(desk: Desk, letters: DeadLetters) -> None:
    """Retrying it would answer it twice."""
    task_id = await desk.submit()

    with pytest.raises(UnknownTask, match="it is queued"):
        await letters.retry(task_id, **ROOM)


async def test_an_erased_task_has_left_the_list(desk: Desk, letters: DeadLetters) -> None:
    """With its content."""
    task_id = await die(desk)

    await desk.queue.erase(task_id, ALICE)

    assert await letters.ids() == []
    for gone in (letters.drop(task_id), letters.retry(task_id, **ROOM), letters.task(task_id)):
        with pytest.raises(TaskForgotten):
            await gone


async def test_a_task_whose_retention_ended_leaves_the_list(desk: Desk, letters: DeadLetters) -> None:
    """Whoever looks sweeps; the same retry before the sweep says what became of it."""
    task_id = await die(desk)
    shard = desk.shard(task_id)
    await desk.store.command("DEL", shard.task(task_id), shard.log(task_id))

    with pytest.raises(TaskForgotten):
        await letters.retry(task_id, **ROOM)
    assert await letters.ids() == []
    assert await desk.store.command("ZCARD", shard.dead) == 0


async def test_a_list_with_a_shard_missing_is_refused(redis_url: str, open_store: OpenStore) -> None:
    """A number of shards that is too small would hide letters, and put a retry where it does not belong."""
    wide, narrow = Desk(open_store(redis_url, shards=8)), open_store(redis_url, shards=2)
    while (await wide.submit()).startswith(("0.", "1.")):
        pass

    await DeadLetters(wide.store).require_all_shards()
    with pytest.raises(StoreUnsuitable, match="SIBYL_SHARDS=2"):
        await DeadLetters(narrow).require_all_shards()


async def test_an_empty_redis_has_no_letters(store: Store) -> None:
    """And none of its shards is missing."""
    letters = DeadLetters(store)

    await letters.require_all_shards()
    assert await letters.ids() == []
