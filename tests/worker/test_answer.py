"""An answer on its way to the log, when Redis loses what it had."""

import asyncio
from collections.abc import Sequence

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import LeaseLost, TaskCancelled, TextUnwritable, WriteFailed
from sibyl.core.event import Cancelled, Completed, Expired, Failed, Output, Terminal
from sibyl.core.fold import Fold
from sibyl.core.state import State
from sibyl.core.task import Lease, TaskId, Usage
from sibyl.store import commit, log
from sibyl.store.commit import Commits
from sibyl.store.connection import Store
from sibyl.store.keys import Shard
from sibyl.store.log import Append, Outcome
from sibyl.store.queue import TaskQueue
from sibyl.worker.answer import Answer
from tests.topology import redis_with, shard_at
from tests.worker.desk import Desk

USAGE = Usage(prompt_tokens=1, completion_tokens=1)


async def begin(desk: Desk, abort: Abort | None = None) -> tuple[TaskId, Answer]:
    """Claim a task and begin its answer."""
    abort = abort or Abort()
    task_id = await desk.ask("x")
    claim = await desk.queue.claim(nonce="n:1", model="m", lease_s=30, max_attempts=5, floor=0)
    assert claim is not None
    return task_id, Answer(desk.queue, Commits(desk.store, lease_s=30), claim.lease, (), refused=abort.request)


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


HALF = Output(text="half \ud800")


async def test_a_text_that_is_no_unicode_ends_the_answer_after_what_came_before_it(desk: Desk) -> None:
    """Who appends it is told so; the end can be settled, and what came before it is in the log, also if it waited."""
    task_id, answer = await begin(desk)
    first = asyncio.ensure_future(answer.append([Output(text="one ")]))
    waited = asyncio.ensure_future(answer.append([Output(text="two ")]))
    bad = asyncio.ensure_future(answer.append([HALF]))

    told = await asyncio.gather(first, waited, bad, return_exceptions=True)
    await answer.settle(Failed(code="text_unwritable", message="It is so.", kept=answer.stored))

    assert isinstance(told[2], TextUnwritable)
    task = await desk.show(task_id)
    assert (task.state, task.text) == (State.FAILED, "one two ")


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (Completed(text_length=4, usage=USAGE, finish_reason="stop"), State.FAILED),
        (Cancelled(kept=1), State.CANCELLED),
        (Expired(kept=1), State.EXPIRED),
    ],
    ids=["completed", "cancelled", "expired"],
)
async def test_an_end_does_not_wait_for_a_text_that_cannot_be_written(desk: Desk, end: Terminal, state: State) -> None:
    """An answer that lacks its last words was not completed; one that was cut off anyway keeps its end."""
    task_id, answer = await begin(desk)
    await answer.append([Output(text="one ")])
    answer._outputs.append(HALF)  # nobody has tried to write it yet

    await answer.settle(end)

    task = await desk.show(task_id)
    assert (task.state, task.text) == (state, "one ")
    if state is State.FAILED:
        assert task.error is not None
        assert task.error.code == "text_unwritable"


def faulty_commits(monkeypatch: pytest.MonkeyPatch, times: int) -> list[None]:
    """Let so many commits fail in a way that nobody expects, by whichever way they go; return a list of them."""
    failed: list[None] = []
    slowly, fast = log.append_all, commit._ShardCommits._packed

    def fail() -> None:
        if len(failed) < times:
            failed.append(None)
            raise RuntimeError("unexpected")

    async def append_all(store: Store, shard: Shard, appends: Sequence[Append], *, lease_s: float) -> list[Outcome]:
        fail()
        return await slowly(store, shard, appends, lease_s=lease_s)

    def packed(self: commit._ShardCommits, batch: Sequence[commit._Pending]) -> bytes:
        fail()
        return fast(self, batch)

    monkeypatch.setattr(commit, "append_all", append_all)
    monkeypatch.setattr(commit._ShardCommits, "_packed", packed)
    return failed


def faulty_settling(monkeypatch: pytest.MonkeyPatch, times: int) -> list[None]:
    """Let so many calls of the queue's ``settle`` fail in a way that nobody expects; return a list of them."""
    failed: list[None] = []
    works = TaskQueue.settle

    async def settle(self: TaskQueue, lease: Lease, stored: int, end: Terminal) -> int | None:
        if len(failed) < times:
            failed.append(None)
            raise RuntimeError("unexpected")
        return await works(self, lease, stored, end)

    monkeypatch.setattr(TaskQueue, "settle", settle)
    return failed


async def test_a_fault_of_a_commit_is_told_and_stops_the_generation(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine hears of it through the abort, also when it was a heartbeat that met it."""
    abort = Abort()
    _, answer = await begin(desk, abort)
    faulty_commits(monkeypatch, 1)

    with pytest.raises(WriteFailed):
        await answer.renew()

    assert isinstance(abort.reason, WriteFailed)


async def test_an_end_is_settled_after_faults_that_pass(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the appends before it as in the settling itself; the answer is whole and completed."""
    task_id, answer = await begin(desk)
    await answer.append([Output(text="one "), Output(text="two")])
    lose_newest(desk, task_id, 0)
    appends = faulty_commits(monkeypatch, 1)
    settles = faulty_settling(monkeypatch, 1)

    await answer.settle(answer.completed(USAGE, "stop"))

    task = await desk.show(task_id)
    assert (task.state, task.text, len(appends), len(settles)) == (State.COMPLETED, "one two", 1, 1)


async def test_an_answer_that_cannot_be_completed_for_faults_fails(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are not to be had into the log: the task has its end nevertheless, and it says what is so."""
    task_id, answer = await begin(desk)
    await answer.append([Output(text="one ")])
    end = answer.completed(USAGE, "stop")
    answer._outputs.append(Output(text="never written"))
    faulty_commits(monkeypatch, 1000)

    await answer.settle(end)

    task = await desk.show(task_id)
    assert (task.state, task.text) == (State.FAILED, "one ")
    assert task.error is not None
    assert task.error.code == "write_failed"


async def test_an_end_that_cannot_be_settled_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error that the worker knows: the lease runs out, and another attempt settles it."""
    task_id, answer = await begin(desk)
    await answer.append([Output(text="one")])
    failed = faulty_settling(monkeypatch, 1000)

    with pytest.raises(WriteFailed):
        await answer.settle(answer.completed(USAGE, "stop"))

    assert len(failed) < 10
    assert (await desk.show(task_id)).state is State.RUNNING


async def test_an_end_whose_own_words_cannot_be_written_gets_others(desk: Desk) -> None:
    """A message that is no Unicode does not keep a task from its end."""
    task_id, answer = await begin(desk)
    await answer.append([Output(text="one")])

    await answer.settle(Failed(code="engine_error", message=HALF.text, kept=1))

    task = await desk.show(task_id)
    assert (task.state, task.text) == (State.FAILED, "one")
    assert task.error is not None
    assert task.error.code == "internal_error"
