"""What one core of each part carries: CPU time per token, and memory per task and per reader.

CPU time, unlike speed, hardly depends on what else the machine does. The engine is the scripted one, so the worker's
share is the path alone: bridge, append, lease. README's page on growing is made from these figures.
"""

import asyncio
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.load.usage import cpu_of
from tests.processes import Serve, serving

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PARTS = {"api": "sibyl api", "worker": "sibyl worker", "redis": "redis-server"}
TOKENS_PER_S = 50  # a stream's pace; about what a person reads, five times over


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a process used so far."""

    cpu_s: float
    rss_bytes: int


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return CPU time per token for each part, without readers, with one reader a task and with many."""
    streams = max(2, round(40 * scale))
    tokens = max(20, round(400 * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder:
        with serving(Path(folder), "--engine", "scripted", "--slots", str(streams)) as serve:
            asyncio.run(_round(serve, streams=2, readers=1, tokens=20))  # warms up
            rounds = {
                f"{readers} reader(s) a task": asyncio.run(
                    _round(serve, streams=streams, readers=readers, tokens=tokens)
                )
                for readers in (0, 1, 10)
            }
            idle = asyncio.run(_idle_readers(serve, count=max(20, round(500 * scale))))
    none, one, ten = rounds.values()
    return {
        "what": f"{streams} tasks at a time, {TOKENS_PER_S} tokens/s each, {tokens} tokens; CPU ms per 1,000 tokens",
        **rounds,
        "api, per 1,000 tokens sent to a further reader": (ten["api_cpu_ms"] - one["api_cpu_ms"]) / 9,
        "streams that one core of each part carries": {
            "worker": 1e6 / none["worker_cpu_ms"] / TOKENS_PER_S,
            "api, one reader a task": 1e6 / one["api_cpu_ms"] / TOKENS_PER_S,
            "redis, one reader a task": 1e6 / one["redis_cpu_ms"] / TOKENS_PER_S,
        },
        **idle,
    }


async def _round(serve: Serve, *, streams: int, readers: int, tokens: int) -> dict[str, float]:
    before = {part: _use(serve, part) for part in PARTS}
    question = f"Capacity. [tokens={tokens}] [pace={TOKENS_PER_S}]"
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=serve.url, timeout=60, trust_env=False) as client:
        submitted = await asyncio.gather(
            *(client.post("/api/questions", json={"question": question}) for _ in range(streams))
        )
        task_ids = [response.raise_for_status().json()["task_id"] for response in submitted]
        if readers:
            await asyncio.gather(*(_read(serve, task_id) for task_id in task_ids for _ in range(readers)))
        for task_id in task_ids:
            await _completed(client, task_id)
    after = {part: _use(serve, part) for part in PARTS}
    thousands = streams * tokens / 1000
    cost = {f"{part}_cpu_ms": 1000 * (after[part].cpu_s - before[part].cpu_s) / thousands for part in PARTS}
    return cost | {"seconds": time.monotonic() - began}


async def _completed(client: httpx.AsyncClient, task_id: str) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if (await client.get(f"/api/tasks/{task_id}")).raise_for_status().json()["state"] == "completed":
            return
        await asyncio.sleep(0.5)  # looked at rarely, so that looking costs little
    raise TimeoutError(f"{task_id} did not complete")


async def _idle_readers(serve: Serve, *, count: int) -> dict[str, float]:
    """Memory of readers that wait for a task that has yet to say something."""
    async with httpx.AsyncClient(base_url=serve.url, timeout=60, trust_env=False) as client:
        body = {"question": "Wait. [prompt_s=60] [tokens=1]"}
        task = (await client.post("/api/questions", json=body)).raise_for_status().json()
        before = _use(serve, "api")
        opened = [await _open(serve, task["task_id"]) for _ in range(count)]
        for reader, _ in opened:
            await reader.readuntil(b"queued")
        after = _use(serve, "api")
        await client.post(f"/api/tasks/{task['task_id']}/cancel")
    for _, writer in opened:
        writer.close()
    return {f"api memory per reader, KiB, {count} readers": (after.rss_bytes - before.rss_bytes) / count / 1024}


async def _read(serve: Serve, task_id: str) -> None:
    reader, writer = await _open(serve, task_id)
    rest = b""
    while chunk := await reader.read(1 << 16):
        rest = (rest + chunk)[-4096:]
        if b"event: completed" in rest:
            break
    else:
        raise RuntimeError("a stream was cut")
    writer.close()


async def _open(serve: Serve, task_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Follow a task on a bare socket: the driver shares the machine, so it must be light."""
    address = urlsplit(serve.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    request = f"GET /api/tasks/{task_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n"
    writer.write(request.encode())
    return reader, writer


def _use(serve: Serve, part: str) -> Use:
    pid = serve.child(PARTS[part])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Use(cpu_s=cpu_of(pid).total_s, rss_bytes=int(fields[21]) * PAGE_BYTES)


if __name__ == "__main__":
    print(json.dumps(measure(scale=0.25), indent=2))
