"""How many events one core hands out to the followers of one answer, beside a plain sse-starlette app, and nchan.

All sides send the same events to the same bare sockets, in turns. Ours come from Redis, one entry an event; the peers'
come from their own memory, which is in their favour. Counted is the CPU time of the one process that serves, as the
kernel counts it, from when all are connected until all have the end.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from tests.load.crowd import gathered
from tests.load.nchan import Nchan, available, nchan
from tests.load.rig import Desk, desk, own_redis, percentile, spec, start_api, wait_logged
from tests.load.scribe import Scribe
from tests.load.usage import cpu_of
from tests.processes import free_port, until

FOLLOWERS = 500
PACE = 100  # events/s, as of a fast model
PACED_EVENTS = 500
FLAT_OUT_EVENTS = 2000
ROUNDS = 3
GOAL = 5.0
BATCH = 32  # events that our writer hands to Redis at once when it writes flat out, as a worker does


@dataclass(frozen=True, slots=True)
class Side:
    """One server, and how to have it publish."""

    port: int
    pid: Callable[[], int]
    path: Callable[[], str]  #: of a fresh answer
    publish: Callable[[int, float], None]


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return events per second and core of each side, and their ratios."""
    followers = FOLLOWERS  # also in the short form: with fewer the sides differ by less
    loads = {
        f"{PACE} events/s": (max(100, round(PACED_EVENTS * scale)), float(PACE)),
        "flat out": (max(200, round(FLAT_OUT_EVENTS * scale)), 0.0),
    }
    rounds = ROUNDS if scale >= 0.5 else 1
    found: dict[str, dict[str, list[float]]] = {name: {} for name in loads}
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name, contextlib.ExitStack() as stack:
        sides = _sides(Path(name), stack)
        for side in sides.values():
            _events_per_core(side, followers=20, events=50, rate=0.0)  # warms up
        for _ in range(rounds):
            for load, (events, rate) in loads.items():
                for who, side in sides.items():
                    each = _events_per_core(side, followers=followers, events=events, rate=rate)
                    found[load].setdefault(who, []).append(each)
    figures: dict[str, Any] = {
        "what": f"{followers} followers of one answer; events handed out for a second of CPU, median of {rounds} rounds"
    }
    ratios: dict[str, dict[str, float]] = {}
    for load, by_side in found.items():
        medians = {who: percentile(values, 0.5) for who, values in by_side.items()}
        ratios[load] = {
            who: percentile([ours / theirs for ours, theirs in zip(by_side["sibyl"], values, strict=True)], 0.5)
            for who, values in by_side.items()
            if who != "sibyl"
        }
        figures[load] = {f"{who}, events/s and core": value for who, value in medians.items()} | {
            f"sibyl against {who}": ratio for who, ratio in ratios[load].items()
        }
    if "nchan" not in sides:
        figures["nchan"] = "skipped: apt-get install nginx libnginx-mod-nchan"
    return figures | {
        "goal": f"{GOAL:g} times plain sse-starlette or more",
        "goal reached": {load: each["plain sse-starlette"] >= GOAL for load, each in ratios.items()},
    }


def _events_per_core(side: Side, *, followers: int, events: int, rate: float) -> float:
    with gathered(side.port, side.path(), followers) as gathering:
        before = cpu_of(side.pid())
        side.publish(events, rate)
        crowd = gathering.leave()
        used = cpu_of(side.pid()) - before
    assert crowd.whole == followers and crowd.events == followers * events, (crowd.whole, crowd.events)
    return crowd.events / max(used.total_s, 0.01)


def _sides(folder: Path, stack: contextlib.ExitStack) -> dict[str, Side]:
    sides = {"sibyl": stack.enter_context(_sibyl(folder)), "plain sse-starlette": stack.enter_context(_plain(folder))}
    if available():
        sides["nchan"] = _of_nchan(stack.enter_context(nchan(folder / "nchan")))
    return sides


@contextlib.contextmanager
def _sibyl(folder: Path) -> Iterator[Side]:
    with own_redis(folder / "redis") as redis, desk(redis.url) as clerk, Redis.from_url(redis.url) as raw:
        port = free_port()
        api = start_api(folder, redis.url, port)
        answers = _Answers(clerk, raw)
        try:
            wait_logged(api, "api_ready")
            yield Side(port, lambda: api.pid, answers.fresh, answers.publish)
        finally:
            api.end()


class _Answers:
    """Answers that are written by hand."""

    def __init__(self, clerk: Desk, redis: Redis) -> None:
        self._clerk = clerk
        self._redis = redis
        self._scribe: Scribe | None = None

    def fresh(self) -> str:
        """Begin an answer and return the path of its events."""
        task_id = self._clerk.submit(spec("x", 1))
        self._scribe = Scribe(self._redis, task_id)
        return f"/api/tasks/{task_id}/events"

    def publish(self, events: int, rate: float) -> None:
        """Write the answer."""
        assert self._scribe is not None
        began = time.monotonic()
        if rate:
            for number in range(events):
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
                self._scribe.say([" word"])
        else:
            for start in range(0, events, BATCH):
                self._scribe.say([" word"] * min(BATCH, events - start))
        self._scribe.end()


@contextlib.contextmanager
def _plain(folder: Path) -> Iterator[Side]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "plain.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tests.load.plain_sse", str(port)], stdout=log, stderr=log)

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/openapi.json", trust_env=False).status_code == 200
        return False

    def publish(events: int, rate: float) -> None:
        asked = {"events": events, "rate": rate}
        httpx.post(f"{url}/publish", params=asked, timeout=180, trust_env=False).raise_for_status()

    try:
        until(answers, limit_s=30, what="the plain app")
        yield Side(port, lambda: process.pid, lambda: "/events", publish)
    finally:
        process.terminate()
        process.wait(20)


def _of_nchan(server: Nchan) -> Side:
    def path() -> str:
        server.open()
        return "/events"

    return Side(server.port, lambda: server.worker, path, server.publish)
