"""Five hundred followers on two API nodes, one of which is killed with -9: all of its followers go to the other one.

Every follower must resume where it was and end with the same bytes.
"""

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.load.asking import ask_all
from tests.load.clients import words
from tests.load.fleet import Fleet, fleet
from tests.load.rig import percentile, spread
from tests.redis_nodes import single
from tests.system.reading import Reader, broken

FOLLOWERS = 500
TASKS = 20
OUTPUTS, PACE = 150, 10  # an answer of fifteen seconds
SEEN = 20  # outputs that everybody has when the node is killed
GOAL_S = 1.0


def measure(scale: float = 1.0) -> dict[str, Any]:
    """Return how long the followers of the killed node needed to be connected, and to read something new."""
    followers = max(20, round(FOLLOWERS * scale))
    tasks = max(4, min(TASKS, followers // 5))
    with (
        tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder,
        single(Path(folder) / "redis") as redis,
        fleet(Path(folder) / "nodes", redis.url, apis=2, workers=1, SIBYL_SLOTS=str(tasks)) as nodes,
    ):
        return asyncio.run(_follow(nodes, followers, tasks))


async def _follow(nodes: Fleet, followers: int, tasks: int) -> dict[str, Any]:
    texts = [words(number, OUTPUTS) for number in range(tasks)]
    ids = await asyncio.to_thread(ask_all, nodes.urls[0], [f"[pace={PACE}] [text={text}]" for text in texts])
    readers = [Reader(nodes.urls, ids[number % tasks], first=number // tasks) for number in range(followers)]
    reading = [asyncio.create_task(reader.run()) for reader in readers]
    await asyncio.gather(*(reader.wait_for("llm_streaming", SEEN, limit_s=60) for reader in readers))
    killed = nodes.urls[0]
    os.kill(nodes.apis[killed].process.pid, signal.SIGKILL)
    began = time.monotonic()
    async with asyncio.timeout(120):
        await asyncio.gather(*reading)
    wrong = [why for number, reader in enumerate(readers) for why in broken([reader], texts[number % tasks])]
    cuts = [cut for reader in readers for cut in reader.cuts]
    reconnects = [cut.reconnect_s for cut in cuts]
    return {
        "what": f"{followers} followers of {tasks} tasks on 2 API nodes, one killed",
        "cut": len(cuts),
        "reconnect": {"p95_s": percentile(reconnects, 0.95), **spread(reconnects, unit="_s")},
        "next_event": {
            "p95_s": percentile([c.event_s for c in cuts], 0.95),
            **spread([c.event_s for c in cuts], unit="_s"),
        },
        "to_the_end_s": time.monotonic() - began,
        "wrong": wrong[:10],
        "promises": {
            "every follower resumed and ended byte-equal": not wrong,
            "half of them were cut": len(cuts) >= followers // 2 - tasks,
            "p95 of the reconnect within 1 s": percentile(reconnects, 0.95) <= GOAL_S,
        },
    }
