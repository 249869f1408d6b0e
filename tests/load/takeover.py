"""How long an answer stands still when its worker is killed with -9: until its reader sees that the next attempt began.

Under ``serve --workers 2`` the supervisor gives back what the dead one held, and the other worker goes on. Under
``--workers 1`` the successor has to start first. Across machines nobody sees the death: the lease has to run out.
"""

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis import Redis

from tests.load.asking import ask
from tests.load.rig import spread
from tests.processes import Node, Serve, api_node, serving, until, worker_node, workers_alive
from tests.redis_nodes import single
from tests.system.reading import Reader, broken

KILLS = {"two_workers": 40, "one_worker": 10, "other_host": 10}
GOAL_S = 0.5
LEASE_S = 5.0
STEADY_S = 10.5  # who lived so long is started again without a pause
PACE = 50  # outputs a second

Victim = Callable[[str], int]


def measure(scale: float = 1.0) -> dict[str, Any]:
    """Return the times from the kill to the next ``started`` event, in the three ways to be taken over."""
    figures: dict[str, Any] = {"what": "kill -9 of the worker to the next `started` at its reader, scripted engine"}
    kills = {way: max(2, round(count * scale)) for way, count in KILLS.items()}
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder, single(Path(folder) / "redis") as redis:
        for way, workers in (("two_workers", 2), ("one_worker", 1)):
            with _served(Path(folder) / way, redis.url, workers) as (url, pid_of):
                names = set(workers_alive(url))
                figures[way] = _measured(redis.url, url, pid_of, names, kills[way], steady=workers == 1)
            redis.flush()
        with _apart(Path(folder), redis.url) as (url, pid_of):
            figures["other_host"] = _measured(redis.url, url, pid_of, {"first", "second"}, kills["other_host"])
    figures["promises"] = {
        "two workers: p99 within 0.5 s": figures["two_workers"]["p99_s"] <= GOAL_S,
        "other host: within lease + 1 s": figures["other_host"]["most_s"] <= LEASE_S + 1,
        "every text whole": not any(figures[way].pop("broken") for way in KILLS),
    }
    return figures


@contextlib.contextmanager
def _served(folder: Path, redis_url: str, workers: int) -> Iterator[tuple[str, Victim]]:
    with serving(folder, "--engine", "scripted", "--redis-url", redis_url, "--workers", str(workers)) as serve:
        until(lambda: len(workers_alive(serve.url)) == workers, limit_s=20, what="workers")
        yield serve.url, lambda name: _pid_of(serve, name)


def _pid_of(serve: Serve, name: str) -> int:
    return serve.child(f"--name {name} ")


@contextlib.contextmanager
def _apart(folder: Path, redis_url: str) -> Iterator[tuple[str, Victim]]:
    """An API and two workers that know nothing of each other; a killed one is started again a second later."""
    api, url = api_node(folder, redis_url)
    nodes = {name: worker_node(folder, redis_url, name=name) for name in ("first", "second")}
    try:
        until(lambda: len(workers_alive(url)) == 2, limit_s=20, what="workers")
        yield url, lambda name: _restarted(nodes[name])
    finally:
        for node in (*nodes.values(), api):
            node.end(signal.SIGKILL)


def _restarted(node: Node) -> int:
    if node.process.poll() is not None:
        node.start()
    return node.process.pid


def _measured(
    redis_url: str, url: str, pid_of: Victim, names: set[str], kills: int, *, steady: bool = False
) -> dict[str, Any]:
    return asyncio.run(_kill_often(redis_url, url, pid_of, names, kills, steady=steady))


async def _kill_often(
    redis_url: str, url: str, pid_of: Victim, names: set[str], kills: int, *, steady: bool
) -> dict[str, Any]:
    """Kill whoever holds the answer, again and again, and return the figures. One answer for every kill."""
    took: list[float] = []
    wrong: list[str] = []
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        killed_ms = 0.0
        for number in range(kills):
            await asyncio.to_thread(_wait_for_all, url, names, pid_of)
            # A dead worker is listed for a while: what counts is that its successor has spoken.
            await asyncio.to_thread(_wait_for_words, redis, names, after_ms=killed_ms)
            if steady:
                await asyncio.sleep(STEADY_S)
            task_id = await asyncio.to_thread(ask, url, f"Answer {number}. [tokens={PACE * 2}] [pace={PACE}]")
            reader = Reader([url], task_id)
            reading = asyncio.create_task(reader.run())
            await reader.wait_for("llm_streaming", 3)
            holder = str(redis.hget(f"sibyl:{{q0}}:task:{task_id}", "nonce")).rpartition(":")[0]
            pid = pid_of(holder)
            began, killed_ms = time.monotonic(), time.time() * 1000
            os.kill(pid, signal.SIGKILL)
            took.append(await reader.wait_for("started", 2, limit_s=LEASE_S + 15) - began)
            await reading
            wrong += broken([reader])
    return {**spread(took, unit="_s"), "broken": wrong}


def _wait_for_words(redis: Any, names: set[str], *, after_ms: float) -> None:
    def spoken() -> bool:
        said = redis.hgetall("sibyl:{q0}:workers")
        return all(float(said.get(name, "0 ").partition(" ")[0]) > after_ms + 50 for name in names)

    until(spoken, limit_s=30, what="a word of every worker")


def _wait_for_all(url: str, names: set[str], pid_of: Victim) -> None:
    """Wait until everybody is there, and does not merely seem to be."""
    for name in names:
        pid_of(name)
    until(lambda: workers_alive(url) >= names, limit_s=30, what="all workers")
