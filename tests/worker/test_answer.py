"""An answer on its way to the log, when Redis loses what it had."""

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import LeaseLost, TaskCancelled
from sibyl.core.event import Output
from sibyl.core.fold import Fold
from sibyl.core.state import State
from sibyl.core.task import TaskId, Usage
from sibyl.store.commit import Commits
from sibyl.worker.answer import Answer
from tests.topology import redis_with, shard_at
from tests.worker.desk import Desk

USAGE = Usage(prompt_tokens=1, completion_tokens=1)


async def begin(desk: Desk) -> tuple[TaskId, Answer]:
    """Claim a task and begin its answer."""
    task_id = await desk.ask("x")
    claim = await desk.queue.claim(nonce="n:1", model="m", lease_s=30, max_attempts=5, floor=0)
    assert claim is not None
    return task_id, Answer(desk.queue, Commits(desk.store, lease_s=30), claim.lease, (), refused=Abort().request)


def lose_newest(desk: Desk, task_id: TaskId, kept: int) -> None:
    """Take back all outputs after the first ``kept``, as a Redis that lost its newest writes has done."""
    shard = shard_at(task_id)
    with redis_with(desk.redis_url, shard.running) as redis:
        key = shard.log(task_id)
        entries = redis.xrange(key)
        redis.delete(key)  # and written anew: newer servers refuse to set a stream's last id back
        for entry_id, fields in entries:
            if "t" not in fields or int(entry_id.split("-")[1]) <= kept:
                redis.xadd(key, fields, id=entry_id)
        redis.hset(shard.task(task_id), "offset", kept)


@pytest.mark.parametrize("how", ["append", "renew", "settle"])
async def test_what_redis_lost_is_sent_again(desk: Desk, how: str) -> None:
    """Whichever write meets the gap fills it, under the same numbers; 600 outputs are more than one append."""
    task_id, answer = await begin(desk)
    for number in range(600):
        await answer.append([Output(text=f"{number} ", token_ids=(number,))])
    lose_newest(desk, task_id, 7)

    match how:
        case "append":
            await answer.append([Output(text="600 ", token_ids=(600,))])
        case "renew":
            await answer.renew()
        case _:
            await answer.settle(answer.completed(USAGE, "stop"))

    outputs = Fold(await desk.log.read(task_id)).answer()
    assert [output.token_ids for output in outputs] == [(number,) for number in range(601 if how == "append" else 600)]
    assert [entry.cursor.offset for entry in await desk.log.read(task_id)][2:602] == list(range(1, 601))


async def test_an_end_counts_code_points(desk: Desk) -> None:
    """The length that a reader can check."""
    task_id, answer = await begin(desk)
    await answer.append([Output(text="ü😀"), Output(text="e\u0301")])

    end = answer.completed(USAGE, "stop")
    await answer.settle(end)

    assert end.text_length == 4
    assert (await desk.show(task_id)).state is State.COMPLETED


async def test_a_cancel_is_told_after_the_words_are_stored(desk: Desk) -> None:
    """What was generated before the stop is in the log."""
    task_id, answer = await begin(desk)
    await desk.cancel(task_id)

    with pytest.raises(TaskCancelled):
        await answer.append([Output(text="last words")])

    assert (await desk.show(task_id)).text == "last words"


async def test_a_cancel_that_comes_after_the_end_is_too_late(desk: Desk) -> None:
    """The last words were lost and are sent again before the end; the reply that tells of the cancel stops nothing."""
    task_id, answer = await begin(desk)
    await answer.append([Output(text="one "), Output(text="two")])
    await answer.append([Output(text=" three")])
    lose_newest(desk, task_id, 1)
    await desk.cancel(task_id)

    await answer.settle(answer.completed(USAGE, "stop"))

    task = await desk.show(task_id)
    assert (task.state, task.text) == (State.COMPLETED, "one two three")


async def test_a_lost_lease_is_told_at_every_write(desk: Desk) -> None:
    """And nothing is written."""
    task_id, answer = await begin(desk)
    desk.lose_lease(task_id)
    assert await desk.queue.claim(nonce="n:2", model="m", lease_s=30, max_attempts=5, floor=0)

    with pytest.raises(LeaseLost):
        await answer.append([Output(text="foreign")])
    with pytest.raises(LeaseLost):
        await answer.renew()
    with pytest.raises(LeaseLost):
        await answer.settle(answer.completed(USAGE, "stop"))

    assert (await desk.show(task_id)).text == ""
