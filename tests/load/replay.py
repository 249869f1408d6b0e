"""Reading a long answer again from its start: from the request to the end event, on a connection that is open already.

Each token is an entry by itself, which is the most work there can be. Nobody else follows the answer, so each replay
reads the log from Redis anew.
"""

import socket
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from redis import Redis

from tests.load.rig import desk, own_redis, percentile, spec, start_api, wait_logged
from tests.load.scribe import Scribe
from tests.load.usage import cpu_of
from tests.processes import free_port

TOKENS = 10_000
REPLAYS = 40
GOAL_MS = 30.0
_BODY_END = b"\r\n0\r\n\r\n"


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return how long a replay takes, and what it costs."""
    replays = max(8, round(REPLAYS * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with (
            own_redis(folder / "redis") as redis,
            desk(redis.url) as clerk,
            Redis.from_url(redis.url) as raw,
        ):
            port = free_port()
            api = start_api(folder, redis.url, port)
            try:
                wait_logged(api, "api_ready")
                task_id = clerk.submit(spec("x", 1))
                scribe = Scribe(raw, task_id)
                for start in range(0, TOKENS, 100):
                    scribe.say([f" word{number}" for number in range(start, start + 100)])
                scribe.end()
                with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                    for _ in range(3):
                        _replay(connection, task_id)  # warms up
                    before = cpu_of(api.pid)
                    took = [_replay(connection, task_id) for _ in range(replays)]
                    used = cpu_of(api.pid) - before
            finally:
                api.end()
    times_ms = [1000 * took_s for took_s, _ in took]
    median_ms = percentile(times_ms, 0.5)
    return {
        "what": f"{replays} replays of an answer of {TOKENS} tokens, one entry each, {took[0][1]} bytes",
        "median_ms": median_ms,
        "p95_ms": percentile(times_ms, 0.95),
        "least_ms": min(times_ms),
        "api cpu_ms": 1000 * used.total_s / replays,
        "reply parser": "hiredis" if find_spec("hiredis") else "redis-py's own, in Python",
        "goal": f"{GOAL_MS:g} ms or less",
        "goal reached": median_ms <= GOAL_MS,
    }


def _replay(connection: socket.socket, task_id: str) -> tuple[float, int]:
    """Read the whole answer; return the time it took and its bytes."""
    began = time.monotonic()
    connection.sendall(f"GET /api/tasks/{task_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    pieces: list[bytes] = []
    end = b""
    while not end.endswith(_BODY_END):
        piece = connection.recv(1 << 20)
        if not piece:
            raise RuntimeError("the replay was cut")
        pieces.append(piece)
        end = (end + piece)[-len(_BODY_END) :]
    took_s = time.monotonic() - began
    body = b"".join(pieces)
    assert body.count(b"event: llm_streaming") == TOKENS and b"event: completed" in body[-400:]
    return took_s, len(body)
