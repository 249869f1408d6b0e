"""CPU time per token beyond the engine: worker, Redis and API together, with each process' share.

Sixteen streams go through REST, queue, Redis and SSE. The engine is the scripted one; what it costs by itself, in a
process of its own with the same threads and the same pace, is taken off the worker's share.
"""

import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.scripted import ScriptedEngine
from tests.load.usage import cpu_of
from tests.processes import Serve, serving

PARTS = {"worker": "sibyl worker", "redis": "redis-server", "api": "sibyl api"}
STREAMS = 16
PACE = 60  # tokens/s of one stream
PACED_TOKENS = 900
FLAT_OUT_TOKENS = 6000
ROUNDS = 3
GOAL_US = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So many streams of so many tokens; a pace of 0 is as fast as possible."""

    streams: int
    tokens: int
    pace: int

    @property
    def question(self) -> str:
        """What one stream asks."""
        return f"[tokens={self.tokens}] [pace={self.pace}]"

    @property
    def total(self) -> int:
        """Tokens of all streams."""
        return self.streams * self.tokens


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return microseconds of CPU per token, at a person's pace and as fast as it goes, by process."""
    paced = Load(streams=STREAMS, tokens=max(60, round(PACED_TOKENS * scale)), pace=PACE)
    flat_out = Load(streams=STREAMS, tokens=max(300, round(FLAT_OUT_TOKENS * scale)), pace=0)
    figures: dict[str, Any] = {"what": f"CPU us per token, {STREAMS} streams with a reader each, scripted engine"}
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder:
        flags = ("--engine", "scripted", "--slots", str(STREAMS))
        with serving(Path(folder), *flags) as serve:
            asyncio.run(_round(serve, Load(streams=STREAMS, tokens=30, pace=0)))  # warms up
            for name, load in ((f"{PACE} tokens/s a stream", paced), ("flat out", flat_out)):
                rounds = [asyncio.run(_round(serve, load)) for _ in range(max(1, round(ROUNDS * min(1.0, scale))))]
                best = min(rounds, key=lambda cost: sum(cost[part] for part in PARTS))
                engine = bare_engine_us(load)
                beyond = sum(best[part] for part in PARTS) - engine
                figures[name] = best | {"of worker, engine": engine, "beyond the engine": beyond}
    return figures | {"goal": GOAL_US}


async def _round(serve: Serve, load: Load) -> dict[str, float]:
    before = {part: cpu_of(serve.child(word)).total_s for part, word in PARTS.items()}
    began = time.monotonic()
    await asyncio.gather(*(_ask_and_read(serve.url, load.question) for _ in range(load.streams)))
    took_s = time.monotonic() - began
    cost = {part: 1e6 * (cpu_of(serve.child(word)).total_s - before[part]) / load.total for part, word in PARTS.items()}
    return cost | {"tokens_per_s": load.total / took_s}


async def _ask_and_read(url: str, question: str) -> None:
    """Ask and read to the end on bare sockets: the driver shares the machine, so it must be light."""
    body = json.dumps({"question": question})
    posted = await _head_of(url, "POST /api/questions", f"Content-Length: {len(body)}\r\n", body)
    task_id = json.loads(posted)["task_id"]
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"GET /api/tasks/{task_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
    rest = b""
    while chunk := await reader.read(1 << 18):
        rest = (rest + chunk)[-4096:]
        if b"event: completed" in rest:
            writer.close()
            return
    raise RuntimeError("a stream was cut")


async def _head_of(url: str, request: str, headers: str, body: str) -> str:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"{request} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n{headers}\r\n{body}".encode())
    reply = (await reader.read()).decode()
    writer.close()
    if " 202 " not in reply.splitlines()[0]:
        raise RuntimeError(reply)
    return reply.partition("\r\n\r\n")[2]


def bare_engine_us(load: Load) -> float:
    """Return what the engine alone costs per token, in a process of its own."""
    words = [str(load.streams), str(load.tokens), str(load.pace)]
    ran = subprocess.run([sys.executable, "-m", "tests.load.cpu_per_token", *words], capture_output=True, check=True)
    return float(ran.stdout)


def _engine_alone(load: Load) -> float:
    engine = ScriptedEngine()
    sys.setswitchinterval(1e-4)  # as in the worker

    def generate() -> None:
        request = GenerationRequest(
            messages=(Message(role="user", content=load.question),), sampling=SamplingParams(seed=1), abort=Abort()
        )
        engine.generate(request, _drop)

    threads = [threading.Thread(target=generate) for _ in range(load.streams)]
    with _cpu_of_this_process() as spent:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return 1e6 * spent[0] / load.total


def _drop(output: Output) -> None:
    pass


@contextlib.contextmanager
def _cpu_of_this_process() -> Iterator[list[float]]:
    spent: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    yield spent
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    print(_engine_alone(Load(streams=int(sys.argv[1]), tokens=int(sys.argv[2]), pace=int(sys.argv[3]))))
