"""Redis memory of a stored token: what an answer adds to ``used_memory``, less what an answer of one token adds.

As a worker stores it at a fast model's pace; when it makes them faster than Redis takes them, so that many share an
entry; and, written by hand, when each is an entry by itself, which is the worst. A task is stated apart.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from redis import Redis

from sibyl.engines.scripted import WORDS
from tests.load.rig import Desk, Look, desk, fold, look, own_redis, spec, start_worker, wait_logged, wait_working
from tests.load.scribe import Scribe
from tests.processes import until

ANSWERS = 16
TOKENS = 2000
PACE = 200
GOAL_BYTES = 25.0


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return bytes a token and bytes a task."""
    tokens = max(500, round(TOKENS * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with own_redis(folder / "redis") as redis, look(redis.url) as seen, desk(redis.url) as clerk:
            worker = start_worker("worker", folder, redis.url, engine="scripted", slots=ANSWERS)
            try:
                wait_logged(worker, "worker_ready")
                wait_working(seen, worker)
                _answers(clerk, seen, "[tokens=1]", 20 * ANSWERS)  # warms up
                task, _ = _answers(clerk, seen, "[tokens=1]", 20 * ANSWERS)
                paced, paced_entries = _answers(clerk, seen, f"[tokens={tokens}] [pace={PACE}]", ANSWERS)
                rushed, rushed_entries = _answers(clerk, seen, f"[tokens={tokens}]", ANSWERS)
            finally:
                worker.end()
            alone_bytes = _alone(clerk, seen, tokens)
    paced_bytes, rushed_bytes = ((each - task) / (tokens - 1) for each in (paced, rushed))
    return {
        "what": f"{ANSWERS} answers of {tokens} tokens at a time; memory of Redis that a token adds",
        f"at {PACE} tokens/s": {"bytes a token": paced_bytes, "tokens an entry": tokens / paced_entries},
        "flat out": {"bytes a token": rushed_bytes, "tokens an entry": tokens / rushed_entries},
        "by hand": {"bytes a token": alone_bytes, "tokens an entry": 1.0},
        "bytes a task with one token": task,
        "goal": f"{GOAL_BYTES:g} B a token or less",
        "goal reached": max(paced_bytes, rushed_bytes, alone_bytes) <= GOAL_BYTES,
    }


def _answers(clerk: Desk, seen: Look, asked: str, count: int) -> tuple[float, float]:
    """Have answers given; return the bytes that each has added, and its outputs."""
    before = _used_bytes(seen.redis)
    with ThreadPoolExecutor(ANSWERS) as pool:
        ids = list(pool.map(lambda seed: clerk.submit(spec(asked, seed)), range(count)))
    until(lambda: not seen.unfinished(), limit_s=120, what="answers")
    added = _used_bytes(seen.redis) - before
    return added / count, sum(fold(seen.log(task_id)).outputs for task_id in ids) / count


def _alone(clerk: Desk, seen: Look, tokens: int) -> float:
    """Write answers with one token an entry; return the bytes that a token adds."""
    scribes = [Scribe(seen.redis, clerk.submit(spec("x", seed))) for seed in range(ANSWERS)]
    words = [" " + WORDS[number % len(WORDS)] for number in range(tokens)]
    for scribe in scribes:
        scribe.say(words[:100])
    before = _used_bytes(seen.redis)
    for scribe in scribes:
        scribe.say(words[100:])
    return (_used_bytes(seen.redis) - before) / ANSWERS / (tokens - 100)


def _used_bytes(redis: Redis) -> int:
    """Return what the data take: all memory less the buffers of clients and of the append-only file."""
    memory = redis.info("memory")
    buffers = ("mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer")
    return int(memory["used_memory"]) - sum(int(memory[name]) for name in buffers)
