"""What the benchmarks of faults and load are built from: a real Redis, real API and worker processes, raw logs."""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis import Redis

from sibyl.bridge.abort import Abort
from sibyl.core.event import Started
from sibyl.core.fold import Fold
from sibyl.core.task import LOCAL_OWNER, Message, Owner, SamplingParams, TaskId, TaskSpec
from sibyl.engines.base import GenerationRequest
from sibyl.engines.scripted import ScriptedEngine
from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.keys import Shard
from sibyl.store.queue import Limits, TaskQueue
from sibyl.store.redis_settings import Fsync
from sibyl.wire import record
from tests.processes import until
from tests.serving import LoopThread

SHARD = Shard(0)
LIMITS = Limits(queue_tasks=100_000, owner_tasks=100_000, deadline_s=3600, retention_s=3600)
MIB = 1 << 20

RawLog = list[tuple[str, dict[str, str]]]
"""A log as Redis holds it: stream ids and fields."""


# ---- figures


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float], *, unit: str = "") -> dict[str, Any]:
    """Return how many there are, p50, p99 and the largest."""
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        f"p50{unit}": percentile(values, 0.5),
        f"p99{unit}": percentile(values, 0.99),
        f"most{unit}": max(values),
    }


def rss_bytes(pid: int) -> int:
    """Return what the process has in memory."""
    return _status_bytes(pid, "VmRSS")


def peak_rss_bytes(pid: int) -> int:
    """Return the most that the process ever had in memory."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


# ---- Redis


@contextlib.contextmanager
def own_redis(folder: Path, *, fsync: Fsync = "everysec") -> Iterator[EmbeddedRedis]:
    """Run an embedded Redis while the block runs, with a loop and a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="redis-of-the-bench", daemon=True)
    thread.start()
    embedded = EmbeddedRedis(folder, fsync=fsync)
    asyncio.run_coroutine_threadsafe(embedded.start(), loop).result(60)
    try:
        yield embedded
    finally:
        asyncio.run_coroutine_threadsafe(embedded.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@contextlib.contextmanager
def look(url: str) -> Iterator["Look"]:
    """Look into Redis past our own code, while the block runs."""
    with Redis.from_url(url, decode_responses=True) as redis:
        yield Look(redis)


class Look:
    """Raw looks at one shard, so that a figure does not rest on the code it is about."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def log(self, task_id: TaskId) -> RawLog:
        """Return the task's raw log."""
        return cast(RawLog, self.redis.xrange(SHARD.log(task_id)))

    def field(self, task_id: TaskId, name: str) -> str | None:
        """Return a field of the task."""
        return cast(str | None, self.redis.hget(SHARD.task(task_id), name))

    def fields(self, task_id: TaskId, *names: str) -> list[str | None]:
        """Return fields of the task."""
        return cast("list[str | None]", self.redis.hmget(SHARD.task(task_id), list(names)))

    def unfinished(self) -> int:
        """Return how many tasks have no terminal state."""
        return int(self.redis.zcard(SHARD.deadlines))

    def leases_ms(self) -> list[float]:
        """Return when the lease of each running task ends, by Redis' clock."""
        scored = cast("list[tuple[str, float]]", self.redis.zrange(SHARD.running, 0, -1, withscores=True))
        return [score for _, score in scored]

    def announced_ms(self) -> dict[str, int]:
        """Return when each worker announced itself last, by Redis' clock."""
        said = cast("dict[str, str]", self.redis.hgetall(SHARD.workers))
        return {name: int(text.split()[0]) for name, text in said.items()}

    def now_ms(self) -> float:
        """Return Redis' time."""
        seconds, micros = self.redis.time()
        return seconds * 1000 + micros / 1000


def fold(log: RawLog) -> Fold:
    """Fold a raw log."""
    return Fold(record.decode_entry(*entry) for entry in log)


def started_epochs_ms(log: RawLog) -> list[int]:
    """Return the epoch of each attempt, which is the time of its claim by Redis' clock."""
    entries = [record.decode_entry(*entry) for entry in log]
    return [entry.cursor.epoch for entry in entries if isinstance(entry.event, Started)]


def void_outputs(log: RawLog) -> int:
    """Return how many outputs of a raw log do not count: those of a zombie, or of writes that Redis lost."""
    return sum("k" not in fields for _, fields in log) - fold(log).outputs


# ---- questions


def spec(question: str, seed: int, max_tokens: int | None = None) -> TaskSpec:
    """Return a question with a fixed seed."""
    messages = (Message(role="user", content=question),)
    return TaskSpec(kind="question", messages=messages, sampling=SamplingParams(seed=seed, max_tokens=max_tokens))


def twins(asked: Sequence[TaskSpec]) -> list[str]:
    """Return what the scripted engine answers to each when nothing happens, at the pace that each names."""
    with ThreadPoolExecutor(max_workers=64) as pool:
        return list(pool.map(_twin, asked))


def _twin(asked: TaskSpec) -> str:
    texts: list[str] = []
    request = GenerationRequest(messages=asked.messages, sampling=asked.sampling, abort=Abort())
    ScriptedEngine().generate(request, lambda output: texts.append(output.text))
    return "".join(texts)


class Desk:
    """Submits tasks as the API does, for any owner, from code that does not wait on a loop."""

    def __init__(self, queue: TaskQueue, thread: LoopThread) -> None:
        self._queue = queue
        self._thread = thread

    def submit(self, asked: TaskSpec, owner: Owner = LOCAL_OWNER) -> TaskId:
        """Submit a task and return its id."""
        return self._thread.call(self._queue.submit(asked, owner=owner, limits=LIMITS))

    def cancel(self, task_id: TaskId, owner: Owner = LOCAL_OWNER) -> None:
        """Ask a task to stop."""
        self._thread.call(self._queue.request_cancel(task_id, owner))


@contextlib.contextmanager
def desk(url: str) -> Iterator[Desk]:
    """A desk at this Redis, while the block runs."""
    thread = LoopThread("desk")

    async def opened() -> Store:
        return Store(url)

    store = thread.call(opened())
    try:
        yield Desk(TaskQueue(store), thread)
    finally:
        thread.call(store.close())
        thread.close()


# ---- processes


@dataclass(slots=True)
class Process:
    """One `sibyl` process of its own, in a session of its own."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def stop(self) -> None:
        """Stop it as a debugger, a swapping machine or a paused container does."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it with kill -9."""
        self.process.kill()

    def end(self, limit_s: float = 10.0) -> None:
        """Ask it to end; kill it if it does not."""
        with contextlib.suppress(ProcessLookupError):
            self.go_on()
            self.process.terminate()
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def logged(self, action: str) -> list[str]:
        """Return its whole log lines with this action, as JSON text."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [line for line in text[: text.rfind("\n") + 1].splitlines() if f'"action": "{action}"' in line]


def start(name: str, folder: Path, redis_url: str, *command: str, **settings: Any) -> Process:
    """Start `sibyl <command>` with these settings; its log lines are JSON in ``<folder>/<name>.log``."""
    ours = {f"SIBYL_{key.upper()}": str(value) for key, value in settings.items()}
    others = {key: value for key, value in os.environ.items() if not key.startswith("SIBYL_")}
    environment = others | {"SIBYL_REDIS_URL": redis_url, "SIBYL_LOG_FORMAT": "json"} | ours
    path = folder / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sibyl", *command],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
        )
    return Process(name, process, path)


def start_worker(name: str, folder: Path, redis_url: str, **settings: Any) -> Process:
    """Start `sibyl worker` under this name; it is not ready yet."""
    return start(name, folder, redis_url, "worker", "--name", name, **settings)


def start_api(folder: Path, redis_url: str, port: int, **settings: Any) -> Process:
    """Start `sibyl api`; it is not ready yet."""
    return start("api", folder, redis_url, "api", "--port", str(port), **settings)


def wait_logged(process: Process, action: str, *, count: int = 1, limit_s: float = 60.0) -> list[str]:
    """Wait until a process has logged an action so many times; raise if it ends before."""

    def see() -> list[str]:
        lines = process.logged(action)
        if len(lines) < count:
            require_alive([process])
        return lines if len(lines) >= count else []

    return until(see, limit_s=limit_s, what=f"{action} of {process.name}")


def wait_working(seen: Look, *workers: Process, limit_s: float = 60.0) -> None:
    """Wait until these workers look for work, which is a moment after they have said that they are ready."""

    def all_announced() -> bool:
        require_alive(workers)
        return {worker.name for worker in workers} <= set(seen.announced_ms())

    until(all_announced, limit_s=limit_s, what="workers at work")


def require_alive(processes: Iterable[Process]) -> None:
    """Raise RuntimeError, with the log, if one of them has ended."""
    for process in processes:
        if process.process.poll() is not None:
            raise RuntimeError(f"{process.name} ended with {process.process.returncode}:\n{process.log.read_text()}")
