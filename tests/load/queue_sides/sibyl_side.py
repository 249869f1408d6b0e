"""Sibyl's queue alone, without REST and SSE: a worker whose engine does nothing; a driver that reads each result."""

import asyncio
import os
import sys
import time

from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER, Message, SamplingParams, TaskSpec, Usage, WorkerInfo
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.scripted import ScriptedEngine
from sibyl.store.connection import Store
from sibyl.store.queue import Limits, TaskQueue
from sibyl.store.tasks import TaskViews
from sibyl.worker.main import loop_factory
from sibyl.worker.worker import Pace, Worker
from tests.load.queue_sides.driving import drive

LIMITS = Limits(queue_tasks=100_000, owner_tasks=100_000, deadline_s=600, retention_s=600)
SPEC = TaskSpec(
    kind="question", messages=(Message(role="user", content="no-op"),), sampling=SamplingParams(max_tokens=1)
)


class NoOp(ScriptedEngine):
    """An engine that says nothing."""

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Return at once."""
        return GenerationResult(finish_reason="stop", usage=Usage(prompt_tokens=0, completion_tokens=0))


async def work(store: Store, at_a_time: int) -> None:
    """Run a worker until it is killed."""
    info = WorkerInfo(
        name="bench", model="no-op", slots=at_a_time, context_tokens=None, max_piece_bytes=None, seen_at=time.time()
    )
    pace = Pace(lease_s=5.0, heartbeat_s=1.0, max_attempts=5, drain_s=1.0)
    await Worker(info, store=store, engine=NoOp(), pace=pace).run()


async def obey(store: Store) -> None:
    """Submit, look for the end as often as pays, and read the task, result and all."""
    queue, views = TaskQueue(store), TaskViews(store)

    async def run_one() -> None:
        task_id = await queue.submit(SPEC, owner=LOCAL_OWNER, limits=LIMITS)
        while (await views.task(task_id, LOCAL_OWNER)).state is not State.COMPLETED:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)

    await drive(run_one)()


async def main(role: str, at_a_time: int) -> None:
    """Work, or obey."""
    store = Store(os.environ["QUEUE_URL"])
    await (work(store, at_a_time) if role == "worker" else obey(store))
    await store.close()


if __name__ == "__main__":
    sys.setswitchinterval(1e-4)  # as in the worker
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2])))
