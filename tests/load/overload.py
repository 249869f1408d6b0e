"""Overload: ten times what the workers can do, for a minute, against a real API with a short queue.

The load is open: requests come at their times, whatever became of those before. A request may be answered 202, or 429
or 503 with Retry-After, and nothing else; what was accepted completes; nobody's memory grows beyond its bound.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sibyl.core.task import TaskId
from tests.load.rig import (
    MIB,
    Look,
    Process,
    fold,
    look,
    own_redis,
    peak_rss_bytes,
    rss_bytes,
    spread,
    start_api,
    start_worker,
    wait_logged,
)
from tests.processes import free_port, until

LOAD_S = 60.0
WORKERS, SLOTS, SERVICE_S = 2, 2, 0.2
CAPACITY_PER_S = WORKERS * SLOTS / SERVICE_S
TIMES = 10
QUEUE_TASKS = 100
TOKENS = 20
GROWTH_MIB = {"api": 64, "worker-0": 32, "worker-1": 32, "redis": 48}
"""Most growth over what each has in memory when it is ready. Redis keeps what was accepted: 8 KiB a task are in it."""


@dataclass(slots=True)
class _Tally:
    """What the requests were answered."""

    statuses: Counter[str] = field(default_factory=Counter)
    accepted: list[TaskId] = field(default_factory=list)
    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return what was answered, what completed, and what it cost in memory."""
    load_s = max(5.0, LOAD_S * scale)
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with own_redis(folder / "redis") as redis, look(redis.url) as seen:
            port = free_port()
            limits = {"queue_tasks": QUEUE_TASKS, "owner_tasks": 10 * QUEUE_TASKS}
            processes = [start_api(folder, redis.url, port, **limits)]
            processes += [
                start_worker(f"worker-{number}", folder, redis.url, engine="scripted", slots=SLOTS)
                for number in range(WORKERS)
            ]
            try:
                wait_logged(processes[0], "api_ready")
                for worker in processes[1:]:
                    wait_logged(worker, "worker_ready")
                assert redis.pid is not None
                figures = _load(seen, port, _pids(processes) | {"redis": redis.pid}, load_s)
            finally:
                for process in processes:
                    process.end()
    return figures


def _pids(processes: list[Process]) -> dict[str, int]:
    return {process.name: process.pid for process in processes}


def _load(seen: Look, port: int, pids: dict[str, int], load_s: float) -> dict[str, Any]:
    asyncio.run(_ask(port, rate_per_s=10, load_s=1.0))  # warms up
    until(lambda: seen.unfinished() == 0, limit_s=60, what="the end of the warm-up")
    before = {name: rss_bytes(pid) for name, pid in pids.items()}
    tally = asyncio.run(_ask(port, rate_per_s=TIMES * CAPACITY_PER_S, load_s=load_s))
    until(lambda: seen.unfinished() == 0, limit_s=60, what="the end of all accepted tasks")
    states = Counter(seen.field(task_id, "state") for task_id in tally.accepted)
    whole = sum(len(fold(seen.log(task_id)).text().split()) == TOKENS for task_id in tally.accepted)
    memory = {
        name: {
            "before_mib": before[name] / MIB,
            "peak_mib": peak_rss_bytes(pid) / MIB,
            "after_mib": rss_bytes(pid) / MIB,
            "grew_at_most_mib": GROWTH_MIB[name],
        }
        for name, pid in pids.items()
    }
    asked = sum(tally.statuses.values())
    return {
        "what": f"{TIMES} times the capacity of {CAPACITY_PER_S:.0f} tasks/s, {load_s:.0f} s; {QUEUE_TASKS} may wait",
        "asked": asked,
        "asked_per_s": asked / load_s,
        "answers": dict(sorted(tally.statuses.items())),
        "accepted": len(tally.accepted),
        "of which completed": states["completed"],
        "of which with the whole text": whole,
        "submit, accepted": spread(tally.accepted_ms, unit="_ms"),
        "submit, refused": spread(tally.refused_ms, unit="_ms"),
        "memory": memory,
        "promises": {
            "only 202, and 429 or 503 with Retry-After": set(tally.statuses)
            <= {"202", "429 with Retry-After", "503 with Retry-After"},
            "it was an overload": asked >= 0.8 * TIMES * CAPACITY_PER_S * load_s and len(tally.accepted) < asked / 2,
            "what was accepted completes": states["completed"] == whole == len(tally.accepted) > 0,
            "nobody's memory grows beyond its bound": all(
                one["peak_mib"] - one["before_mib"] <= one["grew_at_most_mib"] for one in memory.values()
            ),
        },
    }


async def _ask(port: int, *, rate_per_s: float, load_s: float) -> _Tally:
    """Send requests at their times, for so long, and wait for the answers to all."""
    tally = _Tally()
    connections = _Connections(port)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate_per_s * load_s)):
            early_s = began + number / rate_per_s - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            group.create_task(_ask_once(connections, number, tally))
    connections.close()
    return tally


async def _ask_once(connections: "_Connections", number: int, tally: _Tally) -> None:
    question = f"Overload {number}? [tokens={TOKENS}] [pace={TOKENS / SERVICE_S:g}]"
    began = time.monotonic()
    try:
        async with asyncio.timeout(30):
            status, headers, body = await connections.post("/api/questions", {"question": question})
    except (OSError, EOFError, TimeoutError) as error:
        tally.statuses[type(error).__name__] += 1
        return
    took_ms = 1000 * (time.monotonic() - began)
    if status == "202":
        tally.accepted.append(TaskId(json.loads(body)["task_id"]))
        tally.accepted_ms.append(took_ms)
    else:
        status += " with Retry-After" if int(headers.get("retry-after", 0)) > 0 else " without Retry-After"
        tally.refused_ms.append(took_ms)
    tally.statuses[status] += 1


class _Connections:
    """Just enough of HTTP: httpx spends several times what the API does on a request, and on the same two cores."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, content: dict[str, str]) -> tuple[str, dict[str, str], bytes]:
        """Return status, headers (names in lower case) and body."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        try:
            body = json.dumps(content).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            answer = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return first.split()[1], headers, answer

    def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()
