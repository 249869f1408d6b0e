"""How each planned fault is done, and undone."""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tests.chaos.history import Fault, Loss, Record
from tests.chaos.keeper import Kept
from tests.chaos.network import Link
from tests.chaos.plan import KINDS, Planned
from tests.chaos.server import Server

T = TypeVar("T")
Figures = dict[str, int]


@dataclass(slots=True, kw_only=True)
class Place:
    """Where the faults happen."""

    workers: Sequence[Kept]
    apis: Sequence[Kept]
    links: Mapping[str, Link]  #: by the name of the process; empty under sentinels
    server: Server
    ha: bool  #: a failover must lose nothing
    server_thread: ThreadPoolExecutor  #: of one thread: the kernel ends Redis with the thread that started it
    now: Callable[[], float]
    note: Callable[[Record], None]

    async def on_server(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """Do what blocks, in the server's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.server_thread, functools.partial(work, *args, **options))

    def all_links(self, act: Callable[[Link], object]) -> None:
        """Do something with every link."""
        for link in self.links.values():
            act(link)


async def inject(place: Place, fault: Planned) -> None:
    """Do it, wait as long as it lasts, undo it, and take it down in the history."""
    began = place.now()
    figures = await _HOW[fault.kind](place, fault, random.Random(fault.seed))
    target = fault.lane if fault.lane == "redis" else fault.lane.removesuffix("-link")
    place.note(
        Fault(t=round(began, 3), kind=fault.kind, target=target, lasts_s=round(place.now() - began, 3), figures=figures)
    )


def _process(place: Place, fault: Planned) -> Kept:
    return (place.workers if KINDS[fault.kind].lane == "worker" else place.apis)[fault.target]


def _link(place: Place, fault: Planned) -> Link:
    return place.links[fault.lane.removesuffix("-link")]


async def _kill(place: Place, fault: Planned, draw: random.Random) -> Figures:
    _process(place, fault).kill(fault.lasts_s)
    await asyncio.sleep(fault.lasts_s)
    return {}


async def _drain(place: Place, fault: Planned, draw: random.Random) -> Figures:
    await _process(place, fault).drain(fault.lasts_s)
    return {}


async def _freeze(place: Place, fault: Planned, draw: random.Random) -> Figures:
    process = _process(place, fault)
    process.freeze()
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        process.thaw()
    return {}


async def _partition(place: Place, fault: Planned, draw: random.Random) -> Figures:
    link = _link(place, fault)
    link.hold()
    try:
        await asyncio.sleep(fault.lasts_s)
        # What was under way arrives late, as after a short outage; or never, as after a long one.
        return {"connections_cut": link.cut() if draw.random() < 0.5 else 0}
    finally:
        link.heal()


async def _lose_replies(place: Place, fault: Planned, draw: random.Random) -> Figures:
    link = _link(place, fault)
    before = link.replies_lost
    link.loss = draw.uniform(0.02, 0.4)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        link.heal()
    return {"replies_lost": link.replies_lost - before}


async def _delay(place: Place, fault: Planned, draw: random.Random) -> Figures:
    link = _link(place, fault)
    link.delay_s = draw.uniform(0.02, 0.3)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        link.heal()
    return {}


async def _half_close(place: Place, fault: Planned, draw: random.Random) -> Figures:
    link = _link(place, fault)
    closed = 0
    times = max(1, round(fault.lasts_s / 0.3))
    for _ in range(times):
        closed += link.half_close(towards_redis=draw.random() < 0.5)
        await asyncio.sleep(fault.lasts_s / times)
    return {"connections": closed}


async def _kill_redis(place: Place, fault: Planned, draw: random.Random) -> Figures:
    await place.on_server(place.server.node.kill)
    await asyncio.sleep(fault.lasts_s)
    await place.on_server(place.server.start)
    return {}


async def _power_loss(place: Place, fault: Planned, draw: random.Random) -> Figures:
    await place.on_server(place.server.power_off)
    # Nobody reaches it before it is repaired: the embedded Redis shows its socket only then.
    place.all_links(lambda link: setattr(link, "refusing", True))
    try:
        cut = await place.on_server(place.server.cut_tail, draw)
        place.note(Loss(t=round(place.now(), 3), bytes=cut.bytes, tasks=list(cut.tasks)))
        await asyncio.sleep(fault.lasts_s)
        await place.on_server(place.server.start)
        twice = draw.random() < 0.4
        if twice:  # a torn end that was not repaired well would come back now
            await place.on_server(place.server.node.kill)
            await place.on_server(place.server.start)
    finally:
        place.all_links(lambda link: setattr(link, "refusing", False))
    return {"bytes": cut.bytes, "tasks": len(cut.tasks), "within_multi": cut.within_multi, "second_restart": twice}


async def _freeze_redis(place: Place, fault: Planned, draw: random.Random) -> Figures:
    place.server.node.pause()
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        place.server.node.resume()
    return {}


async def _full_disk(place: Place, fault: Planned, draw: random.Random) -> Figures:
    await place.on_server(place.server.fill_disk, refuse=draw.random() < 0.5)
    await asyncio.sleep(fault.lasts_s)
    return {"ended": await place.on_server(place.server.empty_disk)}


def _fail_over(how: str) -> Callable[[Place, Planned, random.Random], Awaitable[Figures]]:
    async def fail_over(place: Place, fault: Planned, draw: random.Random) -> Figures:
        began = place.now()
        await place.on_server(place.server.fail_over, how, fault.lasts_s)
        if not place.ha:
            # What the old primary had and the new one had not is unknown: any task may be concerned.
            place.note(Loss(t=round(began, 3), bytes=0, tasks=None))
        return {}

    return fail_over


_HOW: Final[Mapping[str, Callable[[Place, Planned, random.Random], Awaitable[Figures]]]] = {
    "kill-worker": _kill,
    "drain-worker": _drain,
    "freeze-worker": _freeze,
    "kill-api": _kill,
    "drain-api": _drain,
    "freeze-api": _freeze,
    "partition-worker": _partition,
    "partition-api": _partition,
    "lose-replies": _lose_replies,
    "lose-api-replies": _lose_replies,
    "delay": _delay,
    "delay-api": _delay,
    "half-close": _half_close,
    "half-close-api": _half_close,
    "kill-redis": _kill_redis,
    "power-loss": _power_loss,
    "freeze-redis": _freeze_redis,
    "full-disk": _full_disk,
    "fail-over-kill": _fail_over("kill"),
    "fail-over-freeze": _fail_over("freeze"),
    "fail-over-ask": _fail_over("ask"),
}
assert _HOW.keys() == KINDS.keys()
