"""Zombies: workers that were stopped beyond ten leases, while another took over, and that then go on as if nothing was.

Three rounds. *Holders*: bare claims on a real Redis, so that a thousand zombies may try every write there is, also a
bare XADD past our scripts. *Engines*: real workers whose network stands still for ten leases, for the time from
learning of the loss to the end of the generation. *Processes*: real `sibyl worker` processes under SIGSTOP and SIGCONT.
Foreign entries are counted in the raw logs: outputs that do not count, or that the holder of their epoch did not write.
"""

import asyncio
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sibyl.core.errors import LeaseLost, StoreUnsuitable
from sibyl.core.event import Completed, Output
from sibyl.core.task import LOCAL_OWNER, Lease, TaskId, TaskSpec, Usage
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.scripted import ScriptedEngine
from sibyl.store.connection import Store
from sibyl.store.log import EventLog
from sibyl.store.queue import TaskQueue
from tests.faults import Proxy, proxy
from tests.load.rig import (
    LIMITS,
    SHARD,
    Look,
    Process,
    RawLog,
    fold,
    look,
    own_redis,
    require_alive,
    spec,
    spread,
    start_worker,
    twins,
    void_outputs,
    wait_logged,
    wait_working,
)
from tests.processes import until
from tests.serving import working

LEASES = 10  # a zombie sleeps for longer than this many of its leases
STOP_LIMIT_S = 0.5
BEFORE, AFTER = 3, 2  # outputs of the first holder, and of its successor
PACES = ("[tokens=150] [pace=30]", "[tokens=1000] [pace=400]")  # the second one is held up by its full buffer
COMPLETED = Completed(text_length=0, usage=Usage(prompt_tokens=1, completion_tokens=1), finish_reason="stop")


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return what the zombies tried, what became of it, and how soon they stopped."""
    count = max(20, round(1000 * scale))
    engines = max(10, round(100 * scale))
    processes = max(4, round(20 * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with own_redis(folder / "holders") as redis, look(redis.url) as seen:
            holders = asyncio.run(_holders(redis.url, seen, count))
        with own_redis(folder / "engines") as redis, look(redis.url) as seen:
            stopped = asyncio.run(_engines(redis.url, seen, folder, engines))
        with own_redis(folder / "processes") as redis, look(redis.url) as seen:
            real = asyncio.run(_processes(redis.url, seen, folder, processes))
    foreign = holders["foreign entries"] + stopped["foreign entries"] + real["foreign entries"]
    return {
        "what": f"{count} holders, {engines} engines and {processes} processes revived after more than {LEASES} leases",
        "holders": holders,
        "engines": stopped,
        "processes": real,
        "promises": {
            "every write of a zombie is refused": holders["writes accepted"] == 0,
            "0 foreign entries": foreign == 0,
            f"its engine stops within {STOP_LIMIT_S} s": stopped["stop"]["most_ms"] <= 1000 * STOP_LIMIT_S
            and real["stop, from SIGCONT"]["most_ms"] <= 1000 * STOP_LIMIT_S,
            "every answer is whole": not (holders["wrong"] or stopped["wrong"] or real["wrong"]),
        },
    }


# ---- holders


async def _holders(url: str, seen: Look, count: int) -> dict[str, Any]:
    """Claim, let the lease run out tenfold, take over, and let the first holder try every write, twice."""
    lease_s = 0.05
    store = Store(url)
    queue, log = TaskQueue(store), EventLog(store)
    try:
        for number in range(count):
            await queue.submit(spec(f"{number}", number), owner=LOCAL_OWNER, limits=LIMITS)
        old = [await _claim(queue, f"old:{number}") for number in range(count)]
        # What was claimed for long is renewed for little: else claiming the last would find the first run out.
        await _each(old, lambda lease: _say(log, lease, 1, BEFORE, lease_s))
        await asyncio.sleep(1.2 * LEASES * lease_s)
        overdue = (seen.now_ms() - max(seen.leases_ms())) / (1000 * lease_s)
        new = {lease.task_id: lease for lease in [await _claim(queue, f"new:{number}") for number in range(count)]}
        tally: Counter[str] = Counter()
        await _each(old, lambda lease: _haunt(store, queue, log, lease, tally))
        await _each(list(new.values()), lambda lease: _say(log, lease, BEFORE + 1, AFTER, 60))
        await _each(old, lambda lease: _haunt(store, queue, log, lease, tally))
        await _each(list(new.values()), lambda lease: _settle(queue, lease))
        await _each(old, lambda lease: _haunt(store, queue, log, lease, tally))
    finally:
        await store.close()
    foreign = wrong = 0
    for lease in old:
        raw = seen.log(lease.task_id)
        foreign += void_outputs(raw) + _not_by_the_holder(
            raw, {lease.epoch: lease, new[lease.task_id].epoch: new[lease.task_id]}
        )
        wrong += not fold(raw).terminal or fold(raw).outputs != BEFORE + AFTER
    return {
        "zombies": count,
        "asleep for, in leases, at least": overdue,
        "writes refused": sum(tally.values()) - tally["accepted"],
        **{f"  {what}": times for what, times in sorted(tally.items()) if what != "accepted"},
        "writes accepted": tally["accepted"],
        "foreign entries": foreign,
        "wrong": wrong + (overdue < LEASES),
    }


async def _claim(queue: TaskQueue, nonce: str) -> Lease:
    claim = await queue.claim(nonce=nonce, model="none", lease_s=60, max_attempts=5, floor=0)
    assert claim is not None
    return claim.lease


async def _say(log: EventLog, lease: Lease, first: int, count: int, lease_s: float) -> None:
    outputs = [Output(text=lease.nonce, token_ids=(number,)) for number in range(first, first + count)]
    await log.append(lease, first, outputs, lease_s=lease_s)


async def _settle(queue: TaskQueue, lease: Lease) -> None:
    assert await queue.settle(lease, BEFORE + AFTER, COMPLETED) is None


async def _haunt(store: Store, queue: TaskQueue, log: EventLog, lease: Lease, tally: "Counter[str]") -> None:
    """Try every write that a holder has, and one that no holder has."""
    foreign = [Output(text="zombie", token_ids=(0,))]
    bare = f"{lease.epoch}-{BEFORE + 1}"
    writes: dict[str, Callable[[], Awaitable[Any]]] = {
        "append": lambda: log.append(lease, BEFORE + 1, foreign, lease_s=60),
        "append again": lambda: log.append(lease, BEFORE, foreign, lease_s=60),
        "heartbeat": lambda: log.append(lease, BEFORE + 1, [], lease_s=60),
        "settle": lambda: queue.settle(lease, BEFORE, COMPLETED),
        "release": lambda: queue.release(lease),
        "bare XADD": lambda: store.command("XADD", SHARD.log(lease.task_id), bare, "t", "zombie", "i", "0"),
    }
    for what, write in writes.items():
        try:
            refused = await write() is False  # as release says it
        except (LeaseLost, StoreUnsuitable):  # the second one is Redis' own refusal
            refused = True
        tally[what if refused else "accepted"] += 1


async def _each(leases: list[Lease], act: Callable[[Lease], Awaitable[None]]) -> None:
    for first in range(0, len(leases), 50):
        await asyncio.gather(*map(act, leases[first : first + 50]))


def _not_by_the_holder(raw: RawLog, holders: dict[int, Lease]) -> int:
    """Count outputs whose text is not the name of whoever held their epoch."""
    return sum(
        "k" not in fields and fields["t"] != holders[int(stream_id.partition("-")[0])].nonce
        for stream_id, fields in raw
    )


# ---- engines


@dataclass(slots=True)
class _Stops:
    """When each generation learned that it is to stop, and when it had stopped."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    times_s: list[float] = field(default_factory=list)


class _TimedEngine(ScriptedEngine):
    """The scripted engine, with a watch in its hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = _Stops()
        self.running = 0

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Generate; note how long it took from the request to stop until the thread was free."""
        learned: list[float] = []
        with self.stops.lock:
            self.running += 1
        try:
            with request.abort.hook(lambda: learned.append(time.monotonic())):
                return super().generate(request, on_tokens)
        finally:
            with self.stops.lock:
                self.running -= 1
                if learned and isinstance(request.abort.reason, LeaseLost):
                    self.stops.times_s.append(time.monotonic() - learned[0])


async def _engines(url: str, seen: Look, folder: Path, count: int) -> dict[str, Any]:
    """Two workers; the network of one stands still until the other has taken over, then its bytes go on."""
    slots = 10
    lease_s = 0.2
    stop_s: list[float] = []
    notice_s: list[float] = []
    wrong = foreign = zombies = 0
    store = Store(url)
    queue = TaskQueue(store)
    try:
        async with proxy(url, folder) as network:
            while zombies < count:
                asked = [spec(f"Zombie {zombies + slot}? {PACES[slot % 2]}", slot) for slot in range(slots)]
                expected = asyncio.create_task(asyncio.to_thread(twins, asked))
                ids = await _haunted(network, url, seen, queue, asked, lease_s, stop_s, notice_s)
                zombies += len(ids)
                for task_id, text in zip(ids, await expected, strict=True):
                    raw = seen.log(task_id)
                    foreign += void_outputs(raw)
                    wrong += not fold(raw).terminal or fold(raw).text() != text
    finally:
        await store.close()
    return {
        "zombies": zombies,
        "stopped by the loss of their lease": len(stop_s),
        "stop": spread([1000 * value for value in stop_s], unit="_ms"),
        "from revival to all stopped": spread([1000 * value for value in notice_s], unit="_ms"),
        "foreign entries": foreign,
        "wrong": wrong + (len(stop_s) != zombies),
    }


async def _haunted(
    network: Proxy,
    url: str,
    seen: Look,
    queue: TaskQueue,
    asked: list[TaskSpec],
    lease_s: float,
    stop_s: list[float],
    notice_s: list[float],
) -> list[TaskId]:
    engine = _TimedEngine()
    slots, heartbeat_s = len(asked), lease_s / 4
    async with working(network.url, engine, name="zombie", slots=slots, lease_s=lease_s, heartbeat_s=heartbeat_s):
        ids = [await queue.submit(one, owner=LOCAL_OWNER, limits=LIMITS) for one in asked]
        await _until(lambda: all(int(seen.field(task_id, "offset") or 0) >= BEFORE for task_id in ids))
        network.hold()
        await asyncio.sleep(1.2 * LEASES * lease_s)
        async with working(url, name="successor", slots=slots, lease_s=lease_s, heartbeat_s=heartbeat_s):
            await _until(lambda: all((seen.field(task_id, "nonce") or "").startswith("successor") for task_id in ids))
            network.release()
            revived = time.monotonic()
            await _until(lambda: engine.running == 0)
            notice_s.append(time.monotonic() - revived)
            await _until(lambda: seen.unfinished() == 0)
    stop_s += engine.stops.times_s
    return ids


async def _until(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    await asyncio.to_thread(until, holds, limit_s=limit_s, what="the next step")


# ---- processes


async def _processes(url: str, seen: Look, folder: Path, count: int) -> dict[str, Any]:
    """Two worker processes in turn: one runs everything and is stopped, the other takes over, the first is woken."""
    at_once, lease_s = 4, 0.5
    settings = {"engine": "scripted", "slots": at_once, "lease_s": lease_s, "heartbeat_s": lease_s / 4}
    store = Store(url)
    queue = TaskQueue(store)
    workers = [start_worker(name, folder, url, **settings) for name in ("left", "right")]
    stop_s: list[float] = []
    zombies = wrong = foreign = refused = 0
    try:
        await asyncio.to_thread(wait_working, seen, *workers)
        while zombies < count:
            zombie, successor = workers
            successor.stop()
            asked = [spec(f"Process {zombies + slot}? [tokens=100] [pace=20]", slot) for slot in range(at_once)]
            expected = asyncio.create_task(asyncio.to_thread(twins, asked))
            ids = [await queue.submit(one, owner=LOCAL_OWNER, limits=LIMITS) for one in asked]
            await _until(lambda ids=ids: all(int(seen.field(one, "offset") or 0) >= BEFORE for one in ids))  # type: ignore[misc]
            zombie.stop()
            await asyncio.sleep(1.2 * LEASES * lease_s)
            successor.go_on()
            await _until(lambda ids=ids, by=successor: _holds_all(seen, ids, by))  # type: ignore[misc]
            ended = len(zombie.logged("attempt_ends"))
            revived = time.time()
            zombie.go_on()
            lines = await asyncio.to_thread(wait_logged, zombie, "attempt_ends", count=ended + at_once)
            for line in map(json.loads, lines[ended:]):
                refused += line["how"] == "lease_lost"
                stop_s.append(_seconds(line["time"]) - revived)
            await _until(lambda: seen.unfinished() == 0)
            for task_id, text in zip(ids, await expected, strict=True):
                raw = seen.log(task_id)
                foreign += void_outputs(raw)
                wrong += not fold(raw).terminal or fold(raw).text() != text
            zombies += at_once
            workers.reverse()
    finally:
        for worker in workers:
            worker.end()
        await store.close()
    return {
        "zombies": zombies,
        "ended as lease_lost": refused,
        "stop, from SIGCONT": spread([1000 * value for value in stop_s], unit="_ms"),
        "foreign entries": foreign,
        "wrong": wrong + (refused != zombies),
    }


def _holds_all(seen: Look, ids: list[TaskId], worker: Process) -> bool:
    require_alive([worker])
    return all((seen.field(task_id, "nonce") or "").startswith(f"{worker.name}:") for task_id in ids)


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
