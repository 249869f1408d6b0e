"""A thousand followers of one answer on one API process: do all keep up, and how far is the last one behind?

The lag of an event is the time from when it could be read in Redis, as a bare reader beside the API saw it, to when a
follower had it. The followers are bare sockets in processes of their own, whose CPU time is counted apart.
"""

import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

from redis import Redis

from sibyl.core.task import TaskId
from tests.load.crowd import gathered
from tests.load.rig import (
    SHARD,
    desk,
    own_redis,
    percentile,
    spec,
    start_api,
    start_worker,
    wait_logged,
)
from tests.load.usage import Cpu, cpu_of
from tests.processes import free_port

FOLLOWERS = 1000
PACE = 100  # tokens/s
SECONDS = 10
LEAD_S = 3  # of reading the prompt, so that all are there when the first token comes
GOAL_MS = 250.0


class Witness:
    """Notes when each output of a log can be read in Redis, past our own code."""

    def __init__(self, url: str, task_id: TaskId) -> None:
        """Watch until the log ends."""
        self.stored_s: list[float] = []
        self._redis = Redis.from_url(url, decode_responses=True)
        self._key = SHARD.log(task_id)
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self._thread.start()

    def ended(self, limit_s: float = 60.0) -> list[float]:
        """Wait for the end of the log and return the moment of each output."""
        self._thread.join(limit_s)
        if self._thread.is_alive():
            raise TimeoutError("the answer does not end")
        return self.stored_s

    def _watch(self) -> None:
        last = "0-0"
        with self._redis as redis:
            while True:
                reply = cast("list[Any]", redis.xread({self._key: last}, block=1000))
                at = time.monotonic()
                entries = reply[0][1] if reply else []
                for _, fields in entries:
                    kind = fields.get("k")
                    if kind is None:
                        self.stored_s.append(at)
                    elif kind not in ("queued", "started"):
                        return
                last = entries[-1][0] if entries else last


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return how far behind the followers were, and what that cost."""
    followers = max(300, round(FOLLOWERS * scale))
    seconds = max(3, round(SECONDS * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with own_redis(folder / "redis") as redis, desk(redis.url) as clerk:
            port = free_port()
            api = start_api(folder, redis.url, port)
            worker = start_worker("worker", folder, redis.url, engine="scripted", slots=2)
            try:
                wait_logged(api, "api_ready")
                wait_logged(worker, "worker_ready")
                asked = f"[tokens={PACE * seconds}] [pace={PACE}] [prompt_s={LEAD_S + followers * 0.005}]"
                task_id = clerk.submit(spec(asked, 1))
                witness = Witness(redis.url, task_id)
                with gathered(port, f"/api/tasks/{task_id}/events", followers) as gathering:
                    before, began, late = cpu_of(api.pid), time.monotonic(), len(witness.stored_s)
                    stored_s = witness.ended()
                    crowd = gathering.leave()
                    used, took_s = cpu_of(api.pid) - before, time.monotonic() - began
            finally:
                worker.end()
                api.end()
    lags_ms = [1000 * lag for each in crowd.receipts for lag in each.lags_s(stored_s)]
    last_ms = [1000 * max(each.lags_s(stored_s), default=0.0) for each in crowd.receipts]
    in_step = sum(each.whole and each.counts[-1] == len(stored_s) for each in crowd.receipts)
    p99_ms = percentile(lags_ms, 0.99)
    return {
        "what": f"{followers} followers of one answer, {PACE} tokens/s for {seconds} s, one API process",
        "events stored": len(stored_s),
        "stored before all were there": late,
        "events received": crowd.events,
        "followers that had all, in order to the end": in_step,
        "lag": {
            "p50_ms": percentile(lags_ms, 0.5),
            "p95_ms": percentile(lags_ms, 0.95),
            "p99_ms": p99_ms,
            "most_ms": max(lags_ms),
            "worst of each follower, median_ms": percentile(last_ms, 0.5),
        },
        "writes for a follower": sum(len(each.times_s) for each in crowd.receipts) / followers,
        "api": _cost(used, crowd.events, took_s),
        "clients_cpu_s": crowd.cpu_s,
        "goal": f"all in step, p99 lag under {GOAL_MS:.0f} ms",
        "goal reached": in_step == followers and p99_ms < GOAL_MS,
        "promises": {"every follower had every event": in_step == followers},
    }


def _cost(used: Cpu, events: int, took_s: float) -> dict[str, float]:
    return {
        "cpu_s": used.total_s,
        "of that in the kernel_s": used.system_s,
        "share of a core": used.total_s / took_s,
        "us for an event of a follower": 1e6 * used.total_s / events,
    }
