"""Does the path cost more with what is there already? A token late in a long answer against an early one, and a
question to a Redis that holds ten thousand tasks against one that holds none.

CPU time of API, worker and Redis together, which other work on the machine moves less than it moves times.
"""

import asyncio
import http.client
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis import Redis

from sibyl.core.task import LOCAL_OWNER, TaskId
from sibyl.store.connection import Store
from sibyl.store.queue import TaskQueue
from tests.load.crowd import gathered
from tests.load.rig import (
    LIMITS,
    SHARD,
    Look,
    Process,
    desk,
    fold,
    look,
    own_redis,
    percentile,
    spec,
    start_api,
    start_worker,
    wait_logged,
)
from tests.load.usage import Cpu, cpu_of
from tests.processes import free_port, until

STREAMS = 4
TOKENS = 8000
PACE = 500  # tokens/s of a stream
WINDOW = 1000  # tokens of a stream; the first begins at 100
FIRST = 100
STORED_TASKS = 10_000
QUESTIONS = 60
ASKED_AT_ONCE = 200
GOAL = 1.15


@dataclass(frozen=True, slots=True)
class Site:
    """A Redis, an API and a worker."""

    redis_url: str
    port: int
    api: Process
    worker: Process
    redis_pid: int

    def cpu(self) -> Cpu:
        """What all three have used."""
        used = [cpu_of(pid) for pid in (self.api.pid, self.worker.pid, self.redis_pid)]
        return Cpu(sum(each.user_s for each in used), sum(each.system_s for each in used))


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return costs early and late, with few tasks stored and with many, and their ratios."""
    tokens = max(2000, round(TOKENS * scale))
    stored = max(1000, round(STORED_TASKS * scale))
    questions = max(16, round(QUESTIONS * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name, ExitStack() as stack:
        empty = stack.enter_context(_site(Path(name) / "empty"))
        full = stack.enter_context(_site(Path(name) / "full"))
        long = _long_answers(empty, tokens)
        asyncio.run(_store_tasks(full.redis_url, stored))
        few, many = _questions(empty, full, questions)
    token_ratio = long["late_us"] / long["early_us"]
    cpu_ratio, time_ratio = many["cpu_ms"] / few["cpu_ms"], many["first_event_ms"] / few["first_event_ms"]
    return {
        "what": f"{STREAMS} answers of {tokens} tokens at {PACE} tokens/s with a reader each; "
        f"{questions} questions beside {stored} stored tasks, in turn with as many beside none",
        "a token": {
            f"{FIRST} to {FIRST + WINDOW}, cpu_us": long["early_us"],
            f"{tokens - WINDOW} to {tokens}, cpu_us": long["late_us"],
            "late against early": token_ratio,
        },
        "a question with few stored": few,
        "a question with many stored": many,
        "many against few, cpu": cpu_ratio,
        "many against few, time to the first event": time_ratio,
        "goal": f"within {GOAL - 1:.0%}",
        "goal reached": max(token_ratio, cpu_ratio, time_ratio) <= GOAL,
    }


@contextmanager
def _site(folder: Path) -> Iterator[Site]:
    folder.mkdir()
    with own_redis(folder / "redis") as redis:
        port = free_port()
        api = start_api(folder, redis.url, port, queue_tasks=100_000, owner_tasks=100_000)
        worker = start_worker("worker", folder, redis.url, engine="scripted", slots=STREAMS)
        try:
            wait_logged(api, "api_ready")
            wait_logged(worker, "worker_ready")
            with Redis.from_url(redis.url) as raw:
                redis_pid = int(raw.info("server")["process_id"])
            yield Site(redis.url, port, api, worker, redis_pid)
        finally:
            worker.end()
            api.end()


def _long_answers(site: Site, tokens: int) -> dict[str, float]:
    """Follow long answers; return CPU time for a token in an early window of them and in the last one."""
    asked = f"[tokens={tokens}] [pace={PACE}]"
    with desk(site.redis_url) as clerk, look(site.redis_url) as seen, ExitStack() as stack:
        ids = [clerk.submit(spec(asked, seed)) for seed in range(STREAMS)]
        paths = [f"/api/tasks/{task_id}/events" for task_id in ids]
        crowds = [stack.enter_context(gathered(site.port, path, 1, processes=1)) for path in paths]
        until(lambda: min(_newest(seen, task_id) for task_id in ids) > 0, limit_s=30, what="a first token")
        began = time.monotonic()

        def window(start: int) -> tuple[float, list[int], list[int]]:
            time.sleep(max(0.0, began + start / PACE - time.monotonic()))
            before, first = site.cpu(), [_newest(seen, task_id) for task_id in ids]
            time.sleep(WINDOW * 0.9 / PACE)
            last = [_newest(seen, task_id) for task_id in ids]
            return (site.cpu() - before).total_s, first, last

        windows = [window(FIRST), window(tokens - WINDOW)]
        for crowd in crowds:
            assert crowd.leave().whole == 1
        answers = [fold(seen.log(task_id)).answer() for task_id in ids]
    early_us, late_us = (
        1e6
        * used_s
        / sum(
            len(output.token_ids)
            for answer, start, stop in zip(answers, first, last, strict=True)
            for output in answer[start:stop]
        )
        for used_s, first, last in windows
    )
    return {"early_us": early_us, "late_us": late_us}


def _newest(seen: Look, task_id: TaskId) -> int:
    """Return how many outputs an answer has."""
    entries = cast("list[tuple[str, Any]]", seen.redis.xrevrange(SHARD.log(task_id), count=1))
    return int(entries[0][0].rpartition("-")[2]) if entries else 0


async def _store_tasks(redis_url: str, count: int) -> None:
    """Leave so many ended tasks in Redis."""
    store = Store(redis_url, patience_s=10)
    queue = TaskQueue(store)

    async def leave_one(number: int) -> None:
        task_id = await queue.submit(spec(f"Stored {number}?", number), owner=LOCAL_OWNER, limits=LIMITS)
        await queue.request_cancel(task_id, LOCAL_OWNER)

    try:
        for start in range(0, count, ASKED_AT_ONCE):
            await asyncio.gather(*map(leave_one, range(start, min(count, start + ASKED_AT_ONCE))))
    finally:
        await store.close()


def _questions(empty: Site, full: Site, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ask both in turn; return CPU time for a question, and the time from asking to the first event."""
    sites = (empty, full)
    times: tuple[list[float], list[float]] = ([], [])
    cpu = [0.0, 0.0]
    for site in sites:
        for _ in range(5):
            _ask(site)  # warms up
    for _ in range(count // 4):
        for place, site in enumerate(sites):
            before = site.cpu()
            times[place].extend(_ask(site) for _ in range(4))
            cpu[place] += (site.cpu() - before).total_s
    asked = count // 4 * 4
    few, many = (
        {"cpu_ms": 1000 * used_s / asked, "first_event_ms": 1000 * percentile(each, 0.5)}
        for used_s, each in zip(cpu, times, strict=True)
    )
    return few, many


def _ask(site: Site) -> float:
    """Ask, follow to the end; return the time from asking to the first event of the answer."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    body = json.dumps({"question": "Soon? [tokens=8]"})
    connection.request("POST", "/api/questions", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    task = json.loads(reply.read())
    assert reply.status == 202, task
    connection.request("GET", task["events_url"])
    events = connection.getresponse()
    first_s = 0.0
    while line := events.readline():
        if not first_s and line.startswith(b"event: llm_streaming"):
            first_s = time.monotonic() - began
    connection.close()
    assert first_s
    return first_s
