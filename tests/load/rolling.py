"""A rolling restart under load: three workers and two API nodes, one after the other by SIGTERM, while readers follow.

Nothing may be lost, every text must be exact, and no reader may be broken for more than a reconnect. The readers know
both addresses. A worker hands over what it cannot finish within its drain limit, which is shorter than an answer.
"""

import asyncio
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.load.clients import Client
from tests.load.fleet import Fleet, fleet
from tests.load.rig import spread
from tests.redis_nodes import single

READERS = 60
OUTPUTS = 90
PACE = 30  # outputs a second; an answer takes three seconds
APIS, WORKERS, SLOTS = 2, 3, 8
DRAIN_S = 1.0
GAP_GOAL_S = 2.0


def measure(scale: float = 1.0) -> dict[str, Any]:
    """Return the pauses that readers saw, over as many rounds as it takes to restart everybody."""
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder, single(Path(folder) / "redis") as redis:
        return roll(Path(folder), redis.url, readers=max(6, round(READERS * scale)), rounds=max(1, round(3 * scale)))


def roll(folder: Path, redis_url: str, *, readers: int, rounds: int) -> dict[str, Any]:
    """Restart every node ``rounds`` times under the load of so many readers at a time; return the figures."""
    env = {"SIBYL_SLOTS": str(SLOTS), "SIBYL_DRAIN_S": str(DRAIN_S)}
    with fleet(folder, redis_url, apis=APIS, workers=WORKERS, **env) as nodes:
        return asyncio.run(_roll(nodes, readers, rounds))


async def _roll(nodes: Fleet, most: int, rounds: int) -> dict[str, Any]:
    over = asyncio.Event()
    clients = [Client(number, nodes.urls, outputs=OUTPUTS, pace=PACE) for number in range(most)]
    running = [
        asyncio.create_task(_later(client.run(over), place * OUTPUTS / PACE / most))
        for place, client in enumerate(clients)
    ]
    began = time.monotonic()
    statuses = []
    for _ in range(rounds):
        for name in nodes.workers:
            statuses.append(await asyncio.to_thread(nodes.restart_worker, name))
        for url in nodes.urls:
            statuses.append(await asyncio.to_thread(nodes.restart_api, url))
    took_s = time.monotonic() - began
    over.set()
    await asyncio.gather(*running)
    readers = [reader for client in clients for reader in client.readers]
    wrong = [why for client in clients for why in client.wrong]
    cuts = [cut for client in clients for cut in client.cuts]
    gaps = [max(reader.gaps_s) for reader in readers]
    handed_over = sum(reader.count("started") - 1 for reader in readers)
    return {
        "what": f"{rounds} rolling restart(s) of {WORKERS} workers and {APIS} API nodes, {most} readers at a time",
        "took_s": took_s,
        "answers": len(readers),
        "handed_over": handed_over,
        "reconnect": spread([cut.reconnect_s for cut in cuts], unit="_s"),
        "longest_pause_of_an_answer": spread(gaps, unit="_s"),
        "wrong": wrong[:10],
        "promises": {
            "every answer whole and exact": not wrong,
            "all nodes ended with 0": set(statuses) == {0},
            "something was handed over and cut": handed_over > 0 and len(cuts) > 0,
            f"no reader paused for more than {GAP_GOAL_S:.0f} s": max(gaps) <= GAP_GOAL_S,
        },
    }


async def _later(work: Coroutine[Any, Any, None], pause_s: float) -> None:
    await asyncio.sleep(pause_s)  # so that not all answers end at the same time
    await work
