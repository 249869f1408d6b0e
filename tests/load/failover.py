"""Another primary under streams: sentinels fail over, slots of a cluster move; who reads what, and when.

The primary is killed with -9, stands still (SIGSTOP), or is demoted while it lives, in turn. The time that counts is
the longest silence of any client: from its last event before to its first one after.
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sibyl.store.keys import Shard
from tests.load.clients import Client, words
from tests.load.fleet import Fleet, fleet
from tests.load.rig import spread
from tests.redis_nodes import Cluster, How, Sentinels, cluster, sentinel
from tests.system.reading import Reader

FAILOVERS = 20
MOVES = 20
WORKERS, SLOTS = 2, 4
SHARDS = 6
OUTPUTS, PACE = 240, 30  # an answer of eight seconds
GOAL_S = 8.0
LIMIT_S = 60.0
PAUSE_S = 0.02  # between batches of a moving slot's keys

HOWS: tuple[How, ...] = ("kill", "pause", "ask")


def measure(scale: float = 1.0) -> dict[str, Any]:
    """Return what clients read over failovers of sentinels, then over moves of slots in a cluster."""
    failovers = _with_sentinels(max(len(HOWS), round(FAILOVERS * scale)))
    moves = _with_cluster(max(2, round(MOVES * scale)))
    return {
        "what": f"{WORKERS * SLOTS} clients stream through two API nodes and {WORKERS} workers meanwhile",
        "sentinel": failovers,
        "cluster": moves,
        "promises": {
            "sentinel: 0 wrong answers": not failovers["wrong"],
            "sentinel: at most one reset a stream": failovers["resets_most"] <= 1,
            "sentinel: service back within 8 s each time": failovers["silence"]["most_s"] <= GOAL_S,
            "cluster: 0 wrong answers, 0 resets": not moves["wrong"] and not moves["resets_most"],
            "cluster: no CROSSSLOT": not moves["crossslot"],
        },
    }


def _with_sentinels(rounds: int) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder,
        sentinel(Path(folder) / "redis") as group,
        fleet(Path(folder) / "nodes", group.url, apis=2, workers=WORKERS, SIBYL_SLOTS=str(SLOTS)) as nodes,
    ):
        steps = [_failing_over(group, how) for how, _ in zip(itertools.cycle(HOWS), range(rounds), strict=False)]
        figures = asyncio.run(_streaming(nodes, steps))
    figures["failovers"] = rounds
    return figures


def _with_cluster(rounds: int) -> dict[str, Any]:
    settings = {"SIBYL_SLOTS": str(SLOTS), "SIBYL_SHARDS": str(SHARDS)}
    with (
        tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder,
        cluster(Path(folder) / "redis") as group,
        fleet(Path(folder) / "nodes", group.url, apis=2, workers=WORKERS, **settings) as nodes,
    ):
        figures = asyncio.run(_streaming(nodes, [_moving(group, round_ % SHARDS) for round_ in range(rounds)]))
        logs = [node.log for node in (*nodes.apis.values(), *nodes.workers.values())]
    figures["moves"] = rounds
    figures["crossslot"] = sum(log.count("CROSSSLOT") + log.count("same slot") for log in logs)
    return figures


Step = Callable[[], Awaitable[Callable[[], None]]]
"""Does the damage, and returns what makes everything whole again."""


def _failing_over(group: Sentinels, how: How) -> Step:
    async def step() -> Callable[[], None]:
        old = group.primary()
        await asyncio.to_thread(group.fail_over, how)

        def whole() -> None:
            if how == "pause":
                old.resume()
            elif how == "kill":
                old.start()
            group.settle()

        return whole

    return step


def _moving(group: Cluster, shard: int) -> Step:
    async def step() -> Callable[[], None]:
        await asyncio.to_thread(group.move_slot, group.slot(Shard(shard).bell), pause_s=PAUSE_S)
        return group.settle

    return step


async def _streaming(nodes: Fleet, steps: list[Step]) -> dict[str, Any]:
    over = asyncio.Event()
    clients = [Client(number, nodes.urls, outputs=OUTPUTS, pace=PACE) for number in range(WORKERS * SLOTS)]
    running = [asyncio.create_task(client.run(over)) for client in clients]
    await _all_read(clients, after=time.monotonic())
    silences: list[float] = []
    for step in steps:
        began_at = time.monotonic()
        whole = await step()
        await _all_read(clients, after=time.monotonic())
        silences.append(max(_silence_s(client, since=began_at) for client in clients))
        await asyncio.to_thread(whole)
        await _all_read(clients, after=time.monotonic())
    over.set()
    await asyncio.gather(*running)
    wrong = [why for client in clients for why in _wrong(client)]
    readers = [reader for client in clients for reader in client.readers]
    return {
        "silence": spread(silences, unit="_s"),
        "answers": len(readers),
        "resets": sum(reader.resets for reader in readers),
        "resets_most": max(reader.resets for reader in readers),
        "takeovers": sum(reader.count("started") > 1 for reader in readers),
        "cuts": sum(len(reader.cuts) for reader in readers),
        "wrong": wrong[:10],
    }


async def _all_read(clients: list[Client], *, after: float) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not all(client.newest_at > after for client in clients):  # noqa: ASYNC110 - they ring no common bell
            await asyncio.sleep(0.005)


def _silence_s(client: Client, *, since: float) -> float:
    """The longest pause between two events of a client, the later of which came after a moment."""
    times = sorted(moment for reader in client.readers for moment in reader.times)
    return max((later - earlier for earlier, later in itertools.pairwise(times) if later > since), default=0.0)


def _wrong(client: Client) -> list[str]:
    """What is wrong with a client's answers, when a reset counts as it is meant."""
    wrong = []
    for turn, reader in enumerate(client.readers):
        if reader.end != "completed":
            wrong.append(f"{reader.task_id}: ended with {reader.end}")
        elif _shown(reader) != words(client.number * 1000 + turn, OUTPUTS):
            wrong.append(f"{reader.task_id}: another text")
    return wrong


def _shown(reader: Reader) -> str:
    """What a client shows in the end."""
    text = ""
    for frame in reader.frames:
        data = json.loads(frame.data)
        if frame.event == "reset":
            text = data["text"]
        elif frame.event == "llm_streaming":
            text += data["token"]
    return text
