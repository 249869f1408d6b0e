"""The queue alone against taskiq-redis, SAQ and Celery: no-op tasks per second, and one task's round trip.

Each peer is its published package in an environment of its own, with one worker process and the same concurrency, on
the same Redis; the sides take turns. A task counts when its result was read. Sibyl's tasks do more meanwhile: a lease,
a fenced log with its own readers, fair shares, limits; that is not taken off.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from sibyl.store.redis_binary import find_redis_binary
from tests.load.peers.environments import Unavailable, environment, versions
from tests.load.rig import percentile
from tests.processes import free_port, until

SIDES = Path(__file__).parent / "queue_sides"
AT_A_TIME = 16
ROUNDS = 5
BURST_TASKS = 2000
TRIPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A queue that we are compared with."""

    name: str
    packages: tuple[str, ...]  #: the first is the one whose version is told
    worker: tuple[str, ...]  #: words after its Python
    driver: tuple[str, ...]


PEERS = (
    Peer(
        name="taskiq",
        packages=("taskiq-redis",),
        worker=("-m", "taskiq", "worker", "taskiq_side:broker", "--workers", "1", "--max-async-tasks", str(AT_A_TIME)),
        driver=("taskiq_side.py",),
    ),
    Peer(
        name="saq",
        packages=("saq", "saq[redis]", "typing-extensions"),  # which it imports and does not declare
        worker=("saq_side.py", "worker", str(AT_A_TIME)),
        driver=("saq_side.py", "driver", str(AT_A_TIME)),
    ),
    Peer(
        name="celery",
        packages=("celery", "celery[redis]"),
        worker=(
            *("-m", "celery", "-A", "celery_side", "worker", "--pool", "threads", "--concurrency", str(AT_A_TIME)),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
        ),
        driver=("celery_side.py",),
    ),
)


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return each side's tasks per second and round trip, and our ratio to each peer."""
    rounds = max(2, round(ROUNDS * scale))
    tasks, trips = max(100, round(BURST_TASKS * min(scale, 1.0))), max(20, round(TRIPS * min(scale, 1.0)))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sibyl-bench-")))
        port = stack.enter_context(_redis(folder))
        sides = {"sibyl": stack.enter_context(_sibyl(folder, port))}
        missing: dict[str, str] = {}
        about: dict[str, str] = {}
        for number, peer in enumerate(PEERS, 1):
            try:
                python = environment(f"queue-{peer.name}", *peer.packages)
            except Unavailable as reason:
                missing[peer.name] = f"left out: {reason}"
                continue
            about |= versions(python, peer.packages[0])
            sides[peer.name] = stack.enter_context(_peer(peer, python, folder, port, number))
        rates: dict[str, list[float]] = {name: [] for name in sides}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(-1, rounds):
            for name, side in sides.items():
                rate = side.order(f"burst {tasks if number >= 0 else 50} {AT_A_TIME}")["tasks_per_s"]
                took = side.order(f"trips {trips if number >= 0 else 5}")["times_ms"]
                if number >= 0:  # the first round warms all up
                    rates[name].append(rate)
                    times[name] += took
    figures: dict[str, Any] = {
        name: {
            "tasks_per_s": statistics.median(rates[name]),
            "round_trip_p50_ms": percentile(times[name], 0.5),
            "round_trip_p99_ms": percentile(times[name], 0.99),
        }
        for name in sides
    }
    ours = figures["sibyl"]
    ratios = {
        f"sibyl against {name}": {
            "tasks per second": statistics.median(a / b for a, b in zip(rates["sibyl"], rates[name], strict=True)),
            "round trip, median": figures[name]["round_trip_p50_ms"] / ours["round_trip_p50_ms"],
            "round trip, p99": figures[name]["round_trip_p99_ms"] / ours["round_trip_p99_ms"],
        }
        for name in sides
        if name != "sibyl"
    }
    what = f"{tasks} no-op tasks, {AT_A_TIME} at a time, one worker each, {rounds} rounds; ratios above 1: we are ahead"
    return {"what": what, **figures, **missing, **ratios, "versions": about, "goal": "above 1 everywhere"}


class _Side:
    """A driver that takes orders."""

    def __init__(
        self, name: str, driver: "subprocess.Popen[str]", worker: "subprocess.Popen[bytes]", log: Path
    ) -> None:
        self._name = name
        self._driver = driver
        self._worker = worker
        self._log = log

    def order(self, words: str) -> dict[str, Any]:
        """Give an order and return the answer."""
        assert self._driver.stdin is not None
        self._driver.stdin.write(f"{words}\n")
        self._driver.stdin.flush()
        return json.loads(self.line())  # type: ignore[no-any-return]

    def line(self) -> str:
        """Return the next line that it says."""
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line or self._worker.poll() is not None:
            raise RuntimeError(f"{self._name} ended:\n{self._log.read_text()[-3000:]}")
        return line


def _sibyl(folder: Path, port: int) -> contextlib.AbstractContextManager[_Side]:
    module = ("-m", "tests.load.queue_sides.sibyl_side")
    words = ((*module, "worker", str(AT_A_TIME)), (*module, "driver", str(AT_A_TIME)))
    return _side("sibyl", sys.executable, *words, folder, f"redis://127.0.0.1:{port}/0", cwd=Path.cwd())


def _peer(peer: Peer, python: Path, folder: Path, port: int, database: int) -> contextlib.AbstractContextManager[_Side]:
    url = f"redis://127.0.0.1:{port}/{database}"
    return _side(peer.name, str(python), peer.worker, peer.driver, folder, url, cwd=SIDES)


@contextlib.contextmanager
def _side(
    name: str, python: str, worker: Sequence[str], driver: Sequence[str], folder: Path, url: str, *, cwd: Path
) -> Iterator[_Side]:
    environment = os.environ | {"QUEUE_URL": url}
    if cwd == SIDES:
        environment["PYTHONPATH"] = str(SIDES)
    log = folder / f"{name}.log"
    with log.open("ab") as file:
        working = subprocess.Popen([python, *worker], cwd=cwd, env=environment, stdout=file, stderr=file)
        driving = subprocess.Popen(
            [python, *driver],
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        side = _Side(name, driving, working, log)
        side.line()
        yield side
    finally:
        for process in (driving, working):
            process.kill()
            process.wait()


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[int]:
    """Run one Redis for all, on a port since not every peer knows unix sockets. It syncs to disk every second."""
    binary, port = asyncio.run(find_redis_binary()), free_port()
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "appendonly": "yes",
        "save": "",
        "logfile": "redis.log",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([str(binary.path), *words])
    try:
        with Redis(port=port) as redis:
            until(lambda: _answers(redis), limit_s=10, what="redis")
            yield port
    finally:
        process.terminate()
        process.wait(20)


def _answers(redis: Redis) -> bool:
    with contextlib.suppress(RedisConnectionError):
        return bool(redis.ping())
    return False


if __name__ == "__main__":
    print(json.dumps(measure(scale=0.2), indent=2))
