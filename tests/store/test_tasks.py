"""Looking at tasks: one as it stands, and an owner's in pages."""

import pytest

from sibyl.core.errors import TaskForgotten, UnknownTask
from sibyl.core.event import Cancelled, Completed, Failed
from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER, Owner, TaskError, TaskId, Usage
from tests.store.conftest import OpenStore
from tests.store.desk import Desk

OTHER = Owner("other")


async def test_a_task_is_seen_from_its_first_moment_to_its_end(desk: Desk) -> None:
    """Each field says what is so at that moment, and None what is not yet."""
    task_id = await desk.submit()
    seen = await desk.views.task(task_id, LOCAL_OWNER)
    assert (seen.state, seen.position, seen.text, seen.started_at, seen.finished_at) == (
        State.QUEUED,
        0,
        "",
        None,
        None,
    )
    assert (seen.finish_reason, seen.usage, seen.error, seen.model) == (None, None, None, None)

    lease = (await desk.claimed()).lease
    await desk.say(lease, "one ", "two")
    seen = await desk.views.task(task_id, LOCAL_OWNER)
    assert (seen.state, seen.position, seen.text, seen.attempt) == (State.RUNNING, None, "one two", 1)
    assert str(seen.cursor) == f"{lease.epoch}-2"
    assert seen.model == "oracle"
    assert seen.started_at is not None

    usage = Usage(prompt_tokens=3, completion_tokens=2)
    await desk.queue.settle(lease, 2, Completed(text_length=7, usage=usage, finish_reason="length"))
    seen = await desk.views.task(task_id, LOCAL_OWNER)
    assert (seen.state, seen.text, seen.finish_reason, seen.usage) == (State.COMPLETED, "one two", "length", usage)
    assert seen.finished_at is not None
    assert seen.created_at <= seen.started_at <= seen.finished_at if seen.started_at else False
    assert seen.expires_at == pytest.approx(seen.finished_at + 3600)


async def test_a_failure_says_why(desk: Desk) -> None:
    """Code and message, and the text so far."""
    task_id, lease = await desk.begin("one ")
    await desk.queue.settle(lease, 1, Failed(code="engine_error", message="The model said no.", kept=1))

    seen = await desk.views.task(task_id, LOCAL_OWNER)

    assert (seen.state, seen.finish_reason, seen.text) == (State.FAILED, "error", "one ")
    assert seen.error == TaskError(code="engine_error", message="The model said no.")


async def test_a_cancelled_task_has_its_own_finish_reason(desk: Desk) -> None:
    """It is no error."""
    task_id, lease = await desk.begin("one ")
    await desk.queue.settle(lease, 1, Cancelled(kept=1))

    seen = await desk.views.task(task_id, LOCAL_OWNER)

    assert (seen.finish_reason, seen.error) == ("cancelled", None)


async def test_unknown_foreign_and_forgotten_are_told_apart_by_their_owner_only(desk: Desk) -> None:
    """A stranger cannot tell a foreign task from none."""
    task_id = await desk.submit()

    with pytest.raises(UnknownTask):
        await desk.views.task(TaskId("0." + "0" * 32), LOCAL_OWNER)
    with pytest.raises(UnknownTask):
        await desk.views.task(task_id, OTHER)
    await desk.views.require_owner(task_id, LOCAL_OWNER)
    with pytest.raises(UnknownTask):
        await desk.views.require_owner(task_id, OTHER)
    await desk.queue.erase(task_id, LOCAL_OWNER)
    with pytest.raises(TaskForgotten):
        await desk.views.require_owner(task_id, LOCAL_OWNER)


async def pages(desk: Desk, *, limit: int, state: State | None = None) -> list[list[TaskId]]:
    """All pages of the owner's tasks."""
    found: list[list[TaskId]] = []
    before: TaskId | None = None
    while True:
        tasks, before = await desk.views.tasks(LOCAL_OWNER, limit=limit, state=state, before=before)
        found.append([task.task_id for task in tasks])
        if before is None:
            return found
        assert before == found[-1][-1]


async def set_created(desk: Desk, task_id: TaskId, created_ms: int) -> None:
    """Let the task have been created then."""
    await desk.store.command("ZADD", desk.shard(task_id).mine(LOCAL_OWNER), created_ms, task_id)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 12, 13, 100])
async def test_pages_show_every_task_once_newest_first(
    redis_url: str, open_store: OpenStore, shards: int, limit: int
) -> None:
    """On one shard or several, also where many were created in the same millisecond, wherever a page ends."""
    desk = Desk(open_store(redis_url, shards=shards))
    created = [5, 5, 5, 4, 9, 9, 9, 9, 9, 1, 2, 9]
    ids = [(await desk.submit()) for _ in created]
    for task_id, created_ms in zip(ids, created, strict=True):
        await set_created(desk, task_id, created_ms)
    await desk.submit(owner=OTHER)
    right = [task_id for _, task_id in sorted(zip(created, ids, strict=True), reverse=True)]

    got = await pages(desk, limit=limit)

    assert [task_id for page in got for task_id in page] == right
    assert all(len(page) == limit for page in got[:-1])
    assert got[-1]


async def test_a_state_is_picked_out_of_all_pages(desk: Desk) -> None:
    """A page is full when it can be, however rare the state is."""
    ids = [await desk.submit() for _ in range(20)]
    for task_id, created_ms in zip(ids, range(20), strict=True):
        await set_created(desk, task_id, 1000 + created_ms)
    for task_id in ids[::3]:
        await desk.queue.request_cancel(task_id, LOCAL_OWNER)

    got = await pages(desk, limit=3, state=State.CANCELLED)

    assert got == [ids[18:11:-3], ids[9:2:-3], ids[0:1]]
    assert await pages(desk, limit=3, state=State.FAILED) == [[]]


async def test_a_task_that_expired_leaves_the_list(desk: Desk) -> None:
    """Its retention ended; the list learns of it when it is read, and the page is filled up from behind."""
    ids = [await desk.submit() for _ in range(6)]
    for task_id, created_ms in zip(ids, range(6), strict=True):
        await set_created(desk, task_id, 1000 + created_ms)
    shard = desk.shard(ids[4])
    await desk.store.command("DEL", shard.task(ids[4]), shard.log(ids[4]))

    assert await pages(desk, limit=3) == [[ids[5], ids[3], ids[2]], [ids[1], ids[0]]]
    assert await desk.store.command("ZCARD", shard.mine(LOCAL_OWNER)) == 5


async def test_a_page_before_nothing_known_is_an_error(desk: Desk) -> None:
    """A foreign or erased task is no place to go on from."""
    foreign = await desk.submit(owner=OTHER)

    for task_id in (foreign, TaskId("0." + "0" * 32), TaskId("*")):
        with pytest.raises(UnknownTask):
            await desk.views.tasks(LOCAL_OWNER, limit=3, before=task_id)


async def test_counts_are_over_all_shards(redis_url: str, open_store: OpenStore) -> None:
    """Waiting and running."""
    desk = Desk(open_store(redis_url, shards=3))
    for _ in range(12):
        await desk.submit()
    for _ in range(5):
        await desk.claimed()

    assert (await desk.views.waiting_tasks(), await desk.views.running_tasks()) == (7, 5)
