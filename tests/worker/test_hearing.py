"""A worker that hears nothing does not say that it is alive, and starts itself anew."""

import asyncio
import time
from pathlib import Path

from sibyl.core.state import State
from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.workers import WorkerRegistry
from tests.serving import run_worker_process
from tests.worker.desk import Desk, uninterrupted
from tests.worker.muffling import muffled


async def until_alive(registry: WorkerRegistry, count: int, *, limit_s: float) -> float:
    """Wait until so many workers are alive and return how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(limit_s):
        while len(await registry.alive()) != count:  # noqa: ASYNC110 - an announcement that goes stale rings no bell
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_deaf_worker_is_not_alive_and_starts_anew_in_the_same_process(
    redis_server: EmbeddedRedis, desk: Desk, store: Store, tmp_path: Path
) -> None:
    """Its reads never return while all else works: it goes, hands over its answer, and comes back hearing."""
    registry = WorkerRegistry(store)
    question = "[pace=20] [tokens=220]"
    undisturbed = asyncio.create_task(uninterrupted(question))
    async with muffled(desk.redis_url, tmp_path, b"XREAD") as muffle:
        with run_worker_process(muffle.url, tmp_path / "log", lease_s=30, heartbeat_s=1) as process:
            await until_alive(registry, 1, limit_s=10)
            task_id = await desk.ask(question)
            await desk.begun(task_id)

            muffle.on = True
            await until_alive(registry, 0, limit_s=10)
            await asyncio.to_thread(process.wait_for, "deaf", 15)
            muffle.on = False

            await until_alive(registry, 1, limit_s=10)
            task = await desk.end(task_id)
            again = await desk.end(await desk.ask("[tokens=1]"), 2)
            actions = [line["action"] for line in process.lines()]

            assert process.process.poll() is None, "the same process"
    assert muffle.swallowed >= 2, "it had tried another connection"
    assert actions.count("worker_ready") == 2
    assert (task.state, task.attempt, task.text) == (State.COMPLETED, 2, await undisturbed)
    assert again.state is State.COMPLETED


async def test_an_outage_of_redis_makes_nobody_deaf(
    redis_server: EmbeddedRedis, desk: Desk, store: Store, tmp_path: Path
) -> None:
    """A network that lets nothing pass for longer than deafness takes: the same worker goes on afterwards."""
    registry = WorkerRegistry(store)
    async with muffled(desk.redis_url, tmp_path, b"*") as muffle:  # every request begins with it
        with run_worker_process(muffle.url, tmp_path / "log") as process:
            await until_alive(registry, 1, limit_s=10)
            muffle.on = True
            await asyncio.sleep(7)
            muffle.on = False

            await until_alive(registry, 1, limit_s=10)
            task = await desk.end(await desk.ask("[tokens=1]"), 3)
            actions = [line["action"] for line in process.lines()]

    assert task.state is State.COMPLETED
    assert actions.count("worker_ready") == 1 and "deaf" not in actions
