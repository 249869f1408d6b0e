"""One campaign: start everything, let clients and faults loose on it, heal it, wait for the ends, write these down."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from sibyl.store.connection import Durability
from tests.chaos import programmed
from tests.chaos.broken import broken_tree
from tests.chaos.clients import Asking, Clients
from tests.chaos.history import Campaign, EngineName, Record, Writer
from tests.chaos.injection import Place, inject
from tests.chaos.keeper import Kept, environment, note_for
from tests.chaos.network import Link
from tests.chaos.plan import HEARTBEAT_S, LEASE_S, Planned, Topology, plan
from tests.chaos.server import FLAGS, HA_FLAGS, Server
from tests.processes import free_port
from tests.redis_nodes import Sentinels, sentinel, single

WORKERS: Final = 3
APIS: Final = 2
START_S: Final = 30.0
SETTLE_S: Final = 30.0  # after the last fault everything must come to its end within this
SWEEPERS: Final = 8
SETTINGS: Final[dict[str, object]] = {
    "slots": 6,
    "lease_s": LEASE_S,
    "heartbeat_s": HEARTBEAT_S,
    "drain_s": 2,
    "keep_alive_s": 2,
    "deadline_s": 1800,  # nothing may expire
    "max_attempts": 20,  # an unlucky task may be killed often before its first token
    "log_format": "json",
}
ENGINE_SETTINGS: Final[Mapping[EngineName, dict[str, object]]] = {
    "scripted": {},
    "llama": {"threads": 1, "context_tokens": programmed.CONTEXT_TOKENS},
}
CROWDED_TOKENS: Final = (
    programmed.CONTEXT_TOKENS * 3 // 2
)  # shared by all slots of one of the workers: prefixes left there are evicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be run."""

    seed: int
    seconds: float
    faults: tuple[str, ...]
    topology: Topology = "single"
    durability: Durability = "safe"
    clients: int = 20
    broken: str | None = None
    engine: EngineName = "scripted"


async def run(options: Options, directory: Path, stop: asyncio.Event, say: Callable[[str], None]) -> None:
    """Run the campaign and leave its history in ``directory``. ``stop`` ends it early, and in order."""
    writer = Writer(directory)
    began = time.monotonic()

    def now() -> float:
        return time.monotonic() - began

    writer.note(
        Campaign(
            seed=options.seed,
            seconds=options.seconds,
            topology=options.topology,
            faults=list(options.faults),
            durability=options.durability,
            broken=options.broken,
            engine=options.engine,
        )
    )
    try:
        async with _place(options, directory, now, writer.note) as (place, nodes):
            await _ready(nodes)
            say(f"ready after {now():.1f} s: Redis, {WORKERS} workers, {APIS} APIs, {options.clients} clients")
            clients = Clients(nodes, engine=options.engine, seed=options.seed, now=now, note=writer.note)
            try:
                await _storm(options, place, clients, stop, say)
                await _settle(place, clients, say)
            finally:
                await clients.close()
    finally:
        writer.close()


async def _storm(
    options: Options, place: Place, clients: Clients, stop: asyncio.Event, say: Callable[[str], None]
) -> None:
    """Clients and faults at the same time; return when the faults are over and the clients had time to end."""
    planned = plan(
        options.seed,
        options.seconds,
        kinds=options.faults,
        topology=options.topology,
        workers=len(place.workers),
        apis=len(place.apis),
    )
    over = asyncio.Event()
    asking = [asyncio.create_task(clients.run(number, over)) for number in range(options.clients)]
    telling = asyncio.create_task(_tell(clients, say))
    lanes: dict[str, list[Planned]] = {}
    for fault in planned:
        lanes.setdefault(fault.lane, []).append(fault)
    began = asyncio.get_running_loop().time()
    failing = asyncio.gather(*(_lane(place, faults, began, stop) for faults in lanes.values()))
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(began + options.seconds):
                await stop.wait()
        await failing
        over.set()
        _heal(place)
        done, late = await asyncio.wait(asking, timeout=SETTLE_S)
        if late:
            say(f"{len(late)} clients are stuck")
        clients.limit.set()
        await asyncio.gather(*done, *late)
    finally:
        failing.cancel()
        for client in (telling, *asking):
            client.cancel()
        await asyncio.gather(failing, telling, *asking, return_exceptions=True)


async def _lane(place: Place, faults: Sequence[Planned], began: float, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for fault in faults:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, began + fault.at_s - loop.time())):
                await stop.wait()
        if stop.is_set():
            return
        await inject(place, fault)


def _heal(place: Place) -> None:
    place.all_links(Link.heal)


async def _settle(place: Place, clients: Clients, say: Callable[[str], None]) -> None:
    """Ask again for what Redis lost after its clients had gone; then write down every task as it stands."""
    clients.limit = asyncio.Event()
    waiting = list(clients.accepted)
    again = 0

    async def sweep() -> None:
        nonlocal again
        while waiting:
            key = waiting.pop()
            asking = Asking(clients, clients.asks[key], random.Random(key))
            task = clients.accepted[key]
            while (state := await asking.look("final")) is None and not clients.limit.is_set():
                pass
            if state == "gone" and task not in clients.erased:
                again += 1
                if await asking.submit(lost=task) is not None:
                    await asking.follow(9)
            elif state in ("queued", "running"):  # its end was lost after its clients had seen it
                again += 1
                await asking.follow(9)

    sweeping = [asyncio.create_task(sweep()) for _ in range(SWEEPERS)]
    total = len(waiting)
    _, late = await asyncio.wait(sweeping, timeout=SETTLE_S + total / 50)
    clients.limit.set()
    await asyncio.gather(*sweeping)
    if late:
        say("some tasks had no end within the limit")
    say(f"settled: {total} keys looked at, {again} gone on after Redis had lost their end")
    await place.on_server(place.server.dump, list(clients.known), clients.note)
    for leftover in await place.on_server(place.server.leftovers):
        clients.note(leftover)


async def _tell(clients: Clients, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(30)
        say(f"{clients.now():6.0f} s: {clients.ended} tasks seen to their end")


async def _ready(nodes: Sequence[str]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=2) as http, asyncio.timeout(START_S):
        for node in nodes:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    response = await http.get(f"{node}/readyz")
                    if response.status_code == 200 and len(response.json()["workers"]) == WORKERS:
                        break
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _place(
    options: Options, directory: Path, now: Callable[[], float], note: Callable[[Record], None]
) -> AsyncIterator[tuple[Place, list[str]]]:
    """All processes, while the block runs; and the URLs of the APIs."""
    settings = {
        **SETTINGS,
        **ENGINE_SETTINGS[options.engine],
        "engine": options.engine,
        "durability": options.durability,
        "data_dir": directory / "data",
    }
    if options.engine == "llama":
        settings["model"] = directory / "programmed.gguf"
        await asyncio.to_thread(programmed.write_model, directory / "programmed.gguf")
    if options.broken is not None:
        tree = await asyncio.to_thread(broken_tree, options.broken, directory / "broken")
    with _redis(options, directory) as (thread, server, url):
        links: dict[str, Link] = {}
        kept: list[Kept] = []

        async def add(name: str, *words: str, **own: object) -> Kept:
            target = url
            if options.topology == "single":
                links[name] = link = Link(name, server.node.port)
                await link.open()
                target = f"redis://127.0.0.1:{link.port}/0"
            surroundings = environment(**{**settings, **own}, redis_url=target)
            if options.broken is not None:
                surroundings["PYTHONPATH"] = str(tree)

            process = Kept(name, *words, environment=surroundings, directory=directory, note=note_for(name, now, note))
            kept.append(process)
            await process.start()
            return process

        try:
            ports = [free_port() for _ in range(APIS)]
            crowded = {"pool_tokens": CROWDED_TOKENS} if options.engine == "llama" else {}
            workers = [
                await add(f"worker-{n}", "worker", "--name", f"worker-{n}", **(crowded if n == 0 else {}))
                for n in range(WORKERS)
            ]
            apis = [await add(f"api-{n}", "api", "--port", str(port)) for n, port in enumerate(ports)]
            place = Place(
                workers=workers,
                apis=apis,
                links=links,
                server=server,
                ha=options.durability == "ha",
                server_thread=thread,
                now=now,
                note=note,
            )
            yield place, [f"http://127.0.0.1:{port}" for port in ports]
        finally:
            server.node.resume()
            await asyncio.gather(*(process.end() for process in kept), return_exceptions=True)
            for link in links.values():
                await link.close()


@contextlib.contextmanager
def _redis(options: Options, directory: Path) -> Iterator[tuple[ThreadPoolExecutor, Server, str]]:
    """Redis, started and ended in a thread of its own."""
    with ThreadPoolExecutor(1, thread_name_prefix="redis") as thread, contextlib.ExitStack() as stack:

        def start() -> tuple[Server, str]:
            if options.topology == "sentinel":
                flags = (*FLAGS, *HA_FLAGS) if options.durability == "ha" else FLAGS
                group: Sentinels = stack.enter_context(sentinel(directory / "redis", 1, 3, *flags))
                return Server([group.primary()], group), group.url
            alone = stack.enter_context(single(directory / "redis", *FLAGS))
            return Server([alone.node]), alone.url

        server, url = thread.submit(start).result()
        try:
            yield thread, server, url
        finally:
            thread.submit(stack.close).result()
