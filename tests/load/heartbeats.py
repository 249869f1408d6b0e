"""Renewals of leases while llama.cpp uses every core: the largest pause between two of them, by Redis' clock.

Two slots with as many threads each as there are cores: first both evaluate a long prompt, when nothing but the
heartbeat renews, then both decode, when every append renews as well.
"""

import asyncio
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from redis import Redis

from tests.load.asking import ask_all
from tests.load.fleet import fleet
from tests.load.make_random_gguf import CHAT_TEMPLATE, write_random
from tests.load.rig import spread
from tests.redis_nodes import single
from tests.system.reading import Reader

HEARTBEAT_S, LEASE_S = 1.0, 5.0
CONTEXT = 4096
SLOTS = 2
PROMPT_TOKENS = 3600
LATE_S = 1.0  # so much late, a heartbeat is still harmless: three fit into a lease


def measure(scale: float = 1.0) -> dict[str, Any]:
    """Return the pauses between renewals while prompts are evaluated, and while answers are decoded."""
    prompt_tokens = max(1200, round(PROMPT_TOKENS * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder:
        return renewals(Path(folder), preset="30m", prompt_tokens=prompt_tokens, tokens=150)


def renewals(folder: Path, *, preset: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """Run two generations on a random model of this size and return the figures."""
    model = folder / "random.gguf"
    write_random(model, preset, context=CONTEXT, kind="q8_0", seed=1, template=CHAT_TEMPLATE)
    env = {
        "SIBYL_ENGINE": "llama",
        "SIBYL_MODEL": str(model),
        "SIBYL_SLOTS": str(SLOTS),
        "SIBYL_THREADS": str(os.cpu_count()),
        "SIBYL_HEARTBEAT_S": str(HEARTBEAT_S),
        "SIBYL_LEASE_S": str(LEASE_S),
    }
    with (
        single(folder / "redis") as redis,
        fleet(folder / "nodes", redis.url, apis=1, workers=1, **env) as nodes,
    ):
        return asyncio.run(_watched(redis.url, nodes.urls[0], preset, prompt_tokens, tokens))


async def _watched(redis_url: str, url: str, preset: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    # A byte is a token, with these models.
    questions = [str(number) * prompt_tokens for number in range(SLOTS)]
    ids = await asyncio.to_thread(ask_all, url, questions, sampling={"max_tokens": tokens})
    readers = [Reader([url], task_id) for task_id in ids]
    reading = [asyncio.create_task(reader.run()) for reader in readers]
    over = asyncio.Event()
    looking = asyncio.create_task(asyncio.to_thread(_leases, redis_url, ids, over))
    firsts = [await reader.wait_for("llm_streaming", limit_s=120) for reader in readers]
    begun = [reader.times[[frame.event for frame in reader.frames].index("started")] for reader in readers]
    async with asyncio.timeout(120):
        await asyncio.gather(*reading)
    over.set()
    phases = await looking
    prompt = [gap for gaps, _ in phases.values() for gap in gaps]
    decoding = [gap for _, gaps in phases.values() for gap in gaps]
    most = max(prompt + decoding)
    return {
        "what": f"{SLOTS} slots with {os.cpu_count()} threads each on {os.cpu_count()} cores, random {preset} q8_0, "
        f"prompts of {prompt_tokens} tokens; heartbeat {HEARTBEAT_S} s, lease {LEASE_S} s",
        "prompt_s": max(first - begin for first, begin in zip(firsts, begun, strict=True)),
        "between_renewals_prompt": spread(prompt, unit="_s"),
        "between_renewals_decoding": spread(decoding, unit="_s"),
        "attempts": sum(reader.count("started") for reader in readers),
        "promises": {
            "renewed within a second of the heartbeat's time": most <= HEARTBEAT_S + LATE_S,
            "one attempt each": all(reader.count("started") == 1 for reader in readers),
            "all completed": all(reader.end == "completed" for reader in readers),
        },
    }


def _leases(redis_url: str, ids: list[str], over: asyncio.Event) -> dict[str, tuple[list[float], list[float]]]:
    """Look at the ends of the leases until it is over; return for each task the pauses between renewals in seconds, of
    those before its first output and of those after."""
    seen: dict[str, list[tuple[float, bool]]] = {task_id: [] for task_id in ids}
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        while not over.is_set():
            time.sleep(0.005)  # the cores are for others
            for task_id in ids:
                state, lease, offset = redis.hmget(f"sibyl:{{q0}}:task:{task_id}", "state", "lease_ms", "offset")
                if state == "running" and (not seen[task_id] or seen[task_id][-1][0] != int(lease or 0)):
                    seen[task_id].append((int(lease or 0), int(offset or 0) > 0))
    return {
        task_id: (
            [(later[0] - earlier[0]) / 1000 for earlier, later in pairwise(leases) if not earlier[1]],
            [(later[0] - earlier[0]) / 1000 for earlier, later in pairwise(leases) if earlier[1]],
        )
        for task_id, leases in seen.items()
    }
