"""Fair share: one owner queues a thousand tasks; how long does another owner's single task wait for it?

One real `sibyl worker` with one slot, so the wait is told in service times: how long the worker is busy with a task.
The API knows one owner yet, so the tasks are submitted past it. Each of the others asks once, at a random moment.
"""

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from sibyl.core.task import Owner, TaskId
from tests.load.rig import Look, desk, look, own_redis, spec, spread, start_worker, started_epochs_ms, wait_logged
from tests.processes import until

CROWD = 1000
PACE = "[tokens=20] [pace=100]"  # 0.2 s
SERVICE_LIMIT = 2.0


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return how long single tasks waited behind a crowd, in service times and in seconds."""
    singles = max(5, round(50 * scale))
    dice = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with own_redis(folder / "redis") as redis, look(redis.url) as seen, desk(redis.url) as clerk:
            crowd = Owner("crowd")
            queued = [clerk.submit(spec(f"Crowd {number}? {PACE}", number), crowd) for number in range(CROWD)]
            worker = start_worker("worker", folder, redis.url, engine="scripted", slots=1)
            try:
                wait_logged(worker, "worker_ready")
                asked: list[TaskId] = []
                for number in range(singles):
                    time.sleep(dice.uniform(0, 0.4))  # no wait for an event: the moment at which somebody asks
                    asked.append(clerk.submit(spec(f"Single {number}? {PACE}", number), Owner(f"single-{number}")))
                    _wait_state(seen, asked[-1], "completed")
                left = sum(seen.field(task_id, "state") == "queued" for task_id in queued)
                done = [task_id for task_id in queued if seen.field(task_id, "state") == "completed"]
                service_ms = _mean([_busy_ms(seen, task_id) for task_id in done])
                waits_ms = [_wait_ms(seen, task_id) for task_id in asked]
            finally:
                worker.end()
    waits = [wait / service_ms for wait in waits_ms]
    return {
        "what": f"{CROWD} tasks of one owner, {singles} others ask once each; one worker, one slot",
        "service_ms": service_ms,
        "wait, in service times": spread(waits),
        "wait": spread(waits_ms, unit="_ms"),
        "of the crowd, still queued at the end": left,
        "promises": {
            f"a single task waits at most {SERVICE_LIMIT:.0f} service times": max(waits) <= SERVICE_LIMIT,
            "the crowd was there all the time": left > 0,
            "the crowd is served as well": len(done) >= singles / 2,
        },
    }


def _wait_state(seen: Look, task_id: TaskId, state: str) -> None:
    until(lambda: seen.field(task_id, "state") == state, limit_s=60, what=f"{task_id} {state}")


def _busy_ms(seen: Look, task_id: TaskId) -> float:
    started, finished = seen.fields(task_id, "started_ms", "finished_ms")
    return float(finished or 0) - float(started or 0)


def _wait_ms(seen: Look, task_id: TaskId) -> float:
    """From the submit to the claim, by Redis' clock."""
    return started_epochs_ms(seen.log(task_id))[0] - float(seen.field(task_id, "created_ms") or 0)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
