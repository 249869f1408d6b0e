"""The worker: claims, slots, cancels, takeovers and drains, on a real Redis with the scripted engine."""

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from sibyl.core.state import State
from sibyl.core.task import Message, TaskId
from sibyl.store.connection import Store
from sibyl.store.counting import PromptCounting
from sibyl.store.queue import Claim
from sibyl.store.workers import WorkerRegistry
from tests.serving import WatchedEngine, working
from tests.topology import needs_one_server, one_shard, redis_with, shard_at
from tests.worker.desk import Desk, uninterrupted


async def test_a_question_is_answered(desk: Desk) -> None:
    """Claimed, generated, stored, settled."""
    async with working(desk.redis_url):
        task_id = await desk.ask("Will it rain? [tokens=40]")
        task = await desk.end(task_id)

    assert (task.state, task.attempt, task.model, task.finish_reason) == (State.COMPLETED, 1, "scripted", "stop")
    assert task.text == await uninterrupted("Will it rain? [tokens=40]")
    assert task.usage is not None and task.usage.completion_tokens == 40


async def test_work_is_begun_at_once(desk: Desk) -> None:
    """The doorbell wakes an idle worker; it need not look for itself."""
    async with working(desk.redis_url):
        await desk.end(await desk.ask("[tokens=1]"))
        times = []
        for number in range(5):
            began = time.monotonic()
            await desk.end(await desk.ask(f"[tokens=1] {number}"))
            times.append(time.monotonic() - began)

    assert min(times) < 0.1


async def test_a_worker_runs_as_many_as_it_has_slots(desk: Desk) -> None:
    """Never more; and a free slot is filled at once."""
    engine = WatchedEngine()
    tasks = [await desk.ask(f"[pace=100] [tokens=10] {number}") for number in range(9)]

    async with working(desk.redis_url, engine, slots=3):
        began = time.monotonic()
        ended = [await desk.end(task_id) for task_id in tasks]
        took_s = time.monotonic() - began

    assert engine.most_running == 3
    assert {task.state for task in ended} == {State.COMPLETED}
    assert took_s < 1.5, "three rounds of 0.1 s"


async def test_two_workers_share_the_work(desk: Desk) -> None:
    """Each task is run once, by one of them."""
    engines = [WatchedEngine(model="one"), WatchedEngine(model="two")]
    tasks = [await desk.ask(f"[pace=100] [tokens=5] {number}") for number in range(12)]

    async with (
        working(desk.redis_url, engines[0], name="one", slots=1),
        working(desk.redis_url, engines[1], name="two", slots=1),
    ):
        ended = [await desk.end(task_id) for task_id in tasks]

    assert {task.model for task in ended} == {"one", "two"}
    assert [task.attempt for task in ended] == [1] * 12
    assert len(engines[0].requests) + len(engines[1].requests) == 12
    assert [task.text for task in ended] == [
        await uninterrupted(f"[pace=100] [tokens=5] {number}") for number in range(12)
    ]


@one_shard
async def test_the_more_urgent_comes_first(desk: Desk) -> None:
    """Larger priorities run sooner, equals in their order."""
    engine = WatchedEngine()
    asked = [("a", 5), ("b", 0), ("c", 9), ("d", 5)]
    tasks = [await desk.ask(f"[tokens=1] {question}", priority=priority) for question, priority in asked]

    async with working(desk.redis_url, engine, slots=1):
        await desk.end(tasks[1])

    assert [request.messages[0].content[-1] for request in engine.requests] == ["c", "a", "d", "b"]
    assert [request.priority for request in engine.requests] == [9, 5, 5, 0]  # an engine goes by it as well


async def test_a_waiting_task_is_cancelled_at_once(desk: Desk) -> None:
    """Its terminal event comes within 0.1 s while every slot is busy; the engine never sees it."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, slots=1):
        busy = await desk.ask("[pace=20] [tokens=1000]")
        await desk.begun(busy)
        waiting = await desk.ask("x")
        await desk.cancel(waiting)
        took_s = await desk.took_to_end(waiting)

    assert took_s < 0.1
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("question", "limit_s"), [("[prompt_s=20]", 1.0), ("[pace=5] [tokens=1000]", 0.3)], ids=["prompt", "decoding"]
)
async def test_a_running_task_is_cancelled_and_the_engine_stops(desk: Desk, question: str, limit_s: float) -> None:
    """Within 1 s while the prompt is evaluated, within 0.3 s while it decodes; the slot is free for the next."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, slots=1):
        task_id = await desk.ask(question)
        assert await engine.runs(1)
        if "pace" in question:
            await desk.begun(task_id)
        began = time.monotonic()
        await desk.cancel(task_id)
        await desk.took_to_end(task_id)
        took_s = time.monotonic() - began
        assert await engine.runs(0, 0.2)
        following = await desk.end(await desk.ask("[tokens=1]"), 2)

    assert took_s < limit_s
    assert (await desk.show(task_id)).state is State.CANCELLED
    assert following.state is State.COMPLETED


async def test_a_cancel_that_the_bell_did_not_ring_is_heard_with_the_heartbeat(desk: Desk) -> None:
    """A ring is a hint: the truth is in the task, and each renewal looks at it."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, heartbeat_s=0.2):
        task_id = await desk.ask("[prompt_s=20]")
        assert await engine.runs(1)
        key = shard_at(task_id).task(task_id)
        with redis_with(desk.redis_url, key) as redis:
            redis.hset(key, "cancel", "1")
        task = await desk.end(task_id, 2)

    assert task.state is State.CANCELLED
    assert engine.running == 0


async def test_a_task_expires_at_its_deadline_while_it_runs(desk: Desk) -> None:
    """What it has stays, the engine stops."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine):
        task_id = await desk.ask("[pace=50] [tokens=1000]", deadline_s=0.4)
        task = await desk.end(task_id, 2)
        assert await engine.runs(0, 0.2)

    assert task.state is State.EXPIRED
    assert 5 < len(task.text.split()) < 40


async def test_a_task_past_its_deadline_is_not_begun(desk: Desk) -> None:
    """It ends instead of being claimed."""
    engine = WatchedEngine()
    task_id = await desk.ask("x", deadline_s=0.01)
    await asyncio.to_thread(time.sleep, 0.02)  # the deadline is Redis' own clock; nothing rings when it passes

    async with working(desk.redis_url, engine):
        task = await desk.end(task_id, 2)

    assert task.state is State.EXPIRED
    assert engine.requests == []


async def test_an_erased_task_is_stopped(desk: Desk) -> None:
    """The worker hears of it and goes on with others."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, slots=1):
        task_id = await desk.ask("[pace=10] [tokens=1000]")
        await desk.begun(task_id)
        await desk.queue.erase(task_id, (await desk.show(task_id)).owner)
        assert await engine.runs(0, 0.5)
        assert (await desk.end(await desk.ask("[tokens=1]"), 2)).state is State.COMPLETED


async def test_a_dead_workers_answer_goes_on(desk: Desk) -> None:
    """Another one takes over once the lease is over; the text is that of an uninterrupted run."""
    question = "[pace=100] [tokens=80]"
    engine = WatchedEngine()
    async with working(desk.redis_url, name="first", lease_s=0.6) as first:
        task_id = await desk.ask(question)
        await desk.begun(task_id, 20)
        await first.die()
        seen = (await desk.show(task_id)).text
        async with working(desk.redis_url, engine, name="second"):
            task = await desk.end(task_id)

    assert (task.state, task.attempt) == (State.COMPLETED, 2)
    assert task.text == await uninterrupted(question)
    assert task.text.startswith(seen) and seen
    assert task.usage is not None and task.usage.completion_tokens == 80
    assert sum(len(output.token_ids) for output in engine.requests[0].stored) >= 20


async def test_a_successor_of_the_same_name_takes_over_at_once(desk: Desk) -> None:
    """It knows that its predecessor is dead, so it does not wait for the lease."""
    question = "[pace=100] [tokens=40]"
    async with working(desk.redis_url, lease_s=30, heartbeat_s=1) as first:
        task_id = await desk.ask(question)
        await desk.begun(task_id, 10)
        await first.die()
        async with working(desk.redis_url, lease_s=30, heartbeat_s=1):
            task = await desk.end(task_id, 3)

    assert (task.attempt, task.text) == (2, await uninterrupted(question))


async def test_a_worker_that_begins_while_redis_is_away_waits_for_it(desk: Desk, tmp_path: Path) -> None:
    """It has to give back what a predecessor held before it claims, and a failover may be under way just then."""
    needs_one_server("a Redis that appears")
    task_id = await desk.ask("[tokens=3]")
    appears = tmp_path / "redis.sock"
    async with working(f"unix://{appears}") as late:
        await asyncio.wait([late.running], timeout=1.5)  # longer than a call is patient
        assert not late.running.done()

        appears.symlink_to(urlsplit(desk.redis_url).path)

        assert (await desk.end(task_id)).state is State.COMPLETED


async def taken(desk: Desk, task_id: TaskId) -> Claim:
    """Take a task away from the worker that runs it; an append may renew its lease in between, so again and again."""
    while True:
        desk.lose_lease(task_id)
        claim = await desk.queue.claim(nonce="hand:1", model="hand", lease_s=30, max_attempts=5, floor=0)
        if claim is not None:
            assert claim.lease.task_id == task_id
            return claim


async def test_a_worker_that_lost_its_lease_stops_and_writes_nothing(desk: Desk) -> None:
    """A second claim, by hand: the engine ends within half a second, and no word of it enters the new attempt."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, slots=1, heartbeat_s=0.2):
        task_id = await desk.ask("[pace=50] [tokens=1000]")
        await desk.begun(task_id, 5)
        claim = await taken(desk, task_id)
        began = time.monotonic()
        assert await engine.runs(0, 1)
        took_s = time.monotonic() - began
        following = await desk.end(await desk.ask("[tokens=1]"), 2)

    entries = await desk.log.read(task_id)
    assert took_s < 0.5
    assert entries[-1].cursor.epoch == claim.lease.epoch, "something was written after the second claim"
    assert (await desk.show(task_id)).state is State.RUNNING
    assert following.state is State.COMPLETED


async def test_a_worker_that_lost_its_lease_stops_though_its_heartbeat_is_slow(desk: Desk) -> None:
    """The append that is refused tells it. That is half a second after the prompt's progress was told."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, slots=1, lease_s=60, heartbeat_s=30):
        task_id = await desk.ask("[pace=50] [tokens=1000]")
        await desk.begun(task_id, 30)
        await taken(desk, task_id)
        assert await engine.runs(0, 0.5)


async def test_a_worker_claims_above_every_epoch_it_ever_saw(desk: Desk) -> None:
    """Also those from a Redis whose clock was ahead, and whose newest writes are lost: the worker remembers."""
    ahead = 10**14
    first = await desk.ask("[tokens=1]")
    key = shard_at(first).task(first)
    with redis_with(desk.redis_url, key) as redis:
        redis.hset(key, "epoch", ahead)
    async with working(desk.redis_url, slots=1):
        await desk.end(first)
        second = await desk.ask("[tokens=1]")
        await desk.end(second)

    assert (await desk.log.read(second))[-1].cursor.epoch > ahead


async def test_a_worker_that_lost_its_lease_in_a_long_prompt_stops_too(desk: Desk) -> None:
    """It writes nothing then; the heartbeat tells it."""
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, heartbeat_s=0.2):
        task_id = await desk.ask("[prompt_s=20]")
        assert await engine.runs(1)
        desk.lose_lease(task_id)
        assert await desk.queue.claim(nonce="hand:1", model="hand", lease_s=30, max_attempts=5, floor=0)
        assert await engine.runs(0, 0.6)


async def test_a_task_that_every_worker_dies_of_fails(desk: Desk) -> None:
    """After so many attempts without progress it is worker_lost, and the worker after that goes on with others."""
    task_id = await desk.ask("[prompt_s=60] [tokens=5]")
    for number in range(2):
        engine = WatchedEngine()
        async with working(desk.redis_url, engine, max_attempts=2, lease_s=30, heartbeat_s=1) as doomed:
            assert await engine.runs(1), number
            await desk.until(task_id, lambda entry: True)
            await doomed.die()
    async with working(desk.redis_url, max_attempts=2):
        task = await desk.end(task_id, 3)
        following = await desk.end(await desk.ask("[tokens=1]"))

    assert task.state is State.FAILED
    assert task.error is not None and task.error.code == "worker_lost"
    assert await desk.attempts(task_id) == [1, 2]
    assert following.state is State.COMPLETED


async def test_a_drained_worker_finishes_what_runs_and_begins_nothing(desk: Desk) -> None:
    """Running answers are finished within the limit, waiting ones stay for others."""
    question = "[pace=50] [tokens=30]"
    async with working(desk.redis_url, slots=1, drain_s=10) as worker:
        running = await desk.ask(question)
        await desk.begun(running)
        waiting = await desk.ask("x")
        await worker.drain()

    ran, waited = await desk.show(running), await desk.show(waiting)
    assert (ran.state, ran.attempt, ran.text) == (State.COMPLETED, 1, await uninterrupted(question))
    assert (waited.state, waited.position) == (State.QUEUED, 0)


async def test_a_drain_at_its_limit_hands_over(desk: Desk) -> None:
    """What is not finished by then goes on elsewhere at once, as no failed attempt; the text is unchanged."""
    question = "[pace=50] [tokens=60]"
    engine = WatchedEngine()
    async with working(desk.redis_url, engine, name="first", lease_s=30, heartbeat_s=1, drain_s=0.3) as first:
        task_id = await desk.ask(question)
        await desk.begun(task_id, 5)
        began = time.monotonic()
        await first.drain()
        drained_s = time.monotonic() - began
        assert engine.running == 0
        async with working(desk.redis_url, name="second", max_attempts=1):
            task = await desk.end(task_id, 5)

    assert 0.25 < drained_s < 1.5
    assert (task.state, task.attempt, task.text) == (State.COMPLETED, 2, await uninterrupted(question))


async def test_an_idle_worker_drains_at_once(desk: Desk) -> None:
    """Nothing to wait for."""
    async with working(desk.redis_url) as worker:
        await desk.end(await desk.ask("[tokens=1]"))
        began = time.monotonic()
        await worker.drain()

    assert time.monotonic() - began < 0.5


async def test_a_worker_announces_itself_and_takes_it_back(desk: Desk) -> None:
    """Name, model, slots and context, until it is drained."""
    store = Store(desk.redis_url)
    registry = WorkerRegistry(store)
    engine = WatchedEngine(model="a model", context_tokens=512)
    async with working(desk.redis_url, engine, name="w", slots=3) as worker:
        async with asyncio.timeout(2):
            while not (alive := await registry.alive()):
                pass
        await worker.drain()
    left = await registry.alive()
    await store.close()

    assert [(info.name, info.model, info.slots, info.context_tokens) for info in alive] == [("w", "a model", 3, 512)]
    assert left == []


async def test_a_worker_counts_prompts_for_the_api(desk: Desk) -> None:
    """Also while all its slots are busy; the busy ones are not held up."""
    store = Store(desk.redis_url)
    async with working(desk.redis_url, slots=1):
        task_id = await desk.ask("[pace=20] [tokens=1000]")
        await desk.begun(task_id)
        counted = await PromptCounting(store).ask((Message(role="user", content="one two three"),), wait_s=2)
    await store.close()

    assert counted == 3


async def test_many_tasks_keep_their_answers_apart(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Two hundred short ones through eight slots; nothing is warned of."""
    async with working(desk.redis_url, slots=8):
        tasks = {number: await desk.ask(f"[text=answer {number}]") for number in range(200)}
        texts: dict[int, Any] = {number: (await desk.end(task_id)).text for number, task_id in tasks.items()}

    assert texts == {number: f"answer {number}" for number in range(200)}
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
