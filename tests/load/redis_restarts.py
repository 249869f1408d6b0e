"""Redis killed with -9 and started again, over and over, while eight slots stream: who is productive again, and when.

A slot counts as productive when the client that it answers has read something new. The workers must be the same
processes at the end: one that had gone deaf would have started itself anew.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.load.clients import Client
from tests.load.fleet import Fleet, fleet
from tests.load.rig import spread
from tests.processes import workers_alive
from tests.redis_nodes import RedisNode, single

RESTARTS = 100
WORKERS, SLOTS = 4, 2
OUTPUTS, PACE = 240, 30  # an answer of eight seconds, over several restarts
BETWEEN_S = 0.5
GOAL_S = 3.0
LIMIT_S = 30.0
DRY_S = 0.1  # in which clients read what was on its way before the kill


def measure(scale: float = 1.0) -> dict[str, Any]:
    """Return how long after each restart every client had read something new."""
    restarts = max(2, round(RESTARTS * scale))
    with (
        tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder,
        single(Path(folder) / "redis") as redis,
        fleet(Path(folder) / "nodes", redis.url, apis=1, workers=WORKERS, SIBYL_SLOTS=str(SLOTS)) as nodes,
    ):
        return asyncio.run(_restart_often(nodes, redis.node, restarts))


async def _restart_often(nodes: Fleet, redis: RedisNode, restarts: int) -> dict[str, Any]:
    over = asyncio.Event()
    clients = [Client(number, nodes.urls, outputs=OUTPUTS, pace=PACE) for number in range(WORKERS * SLOTS)]
    running = [asyncio.create_task(client.run(over)) for client in clients]
    await _all_read(clients, after=time.monotonic())
    productive: list[float] = []
    for _ in range(restarts):
        redis.kill()
        await asyncio.sleep(DRY_S)
        await asyncio.to_thread(redis.start)
        back_at = time.monotonic()
        productive.append(await _all_read(clients, after=back_at) - back_at)
        await asyncio.sleep(BETWEEN_S)
    over.set()
    await asyncio.gather(*running)
    alive = await asyncio.to_thread(workers_alive, nodes.urls[0])
    wrong = [why for client in clients for why in client.wrong]
    logs = [node.log for node in nodes.workers.values()]
    readers = [reader for client in clients for reader in client.readers]
    return {
        "what": f"kill -9 and restart of Redis, {restarts} times, {WORKERS} workers with {SLOTS} slots each",
        "all_productive": spread(productive, unit="_s"),
        "answers": len(readers),
        "attempts_more_than_one": sum(reader.count("started") > 1 for reader in readers),
        "wrong": wrong[:10],
        "promises": {
            "all productive within 3 s each time": max(productive) <= GOAL_S,
            "every answer whole and exact": not wrong,
            "nobody deaf, nobody restarted": alive == set(nodes.workers)
            and all(log.count("Worker ready") == 1 and "Deaf" not in log for log in logs),
        },
    }


async def _all_read(clients: list[Client], *, after: float) -> float:
    """Wait until every client has read something that came after a moment, and return when the last of them did."""
    async with asyncio.timeout(LIMIT_S):
        while not all(client.newest_at > after for client in clients):  # noqa: ASYNC110 - they ring no common bell
            await asyncio.sleep(0.005)
    return time.monotonic()
