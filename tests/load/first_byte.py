"""From the POST to the first SSE byte, on an idle Sibyl: what REST, queue, Redis and SSE add to the engine's own time.

The engine is the scripted one, whose first token takes microseconds; so all that is measured is the path. Bare sockets
on one thread: a client library would add as much as the path.
"""

import json
import socket
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.scripted import ScriptedEngine
from tests.load.rig import spread
from tests.processes import serving

RUNS = 300
PAUSE_S = 0.02  # between two questions: the machine is idle, not busy with the last one
QUESTION = "[tokens=2]"
TOKEN = b"event: llm_streaming"


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return milliseconds from the POST to the first token's first byte, on a kept connection and on new ones."""
    runs = max(20, round(RUNS * scale))
    with (
        tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder,
        serving(Path(folder), "--engine", "scripted") as serve,
    ):
        ways: dict[str, list[tuple[float, float]]] = {"kept connection": [], "new connections": []}
        for run in range(-10, runs):
            for way, times in ways.items():  # the ways alternate
                client = _Client(serve.url, keep=way == "kept connection")
                if client.keep:
                    client.ready()  # connected before the clock starts
                took = client.ask(f"{QUESTION} {run}")
                if run >= 0:
                    times.append(took)
                time.sleep(PAUSE_S)
        engine_ms = 1000 * _engine_s()
    return {
        "what": f"POST to the first token's first byte, idle, {runs} questions each way",
        **{way: spread([token_ms - engine_ms for _, token_ms in times], unit="_ms") for way, times in ways.items()},
        "accepted (202)": spread([posted_ms for posted_ms, _ in ways["kept connection"]], unit="_ms"),
        "engine_ms": engine_ms,
        "goal": "median 5 ms, p99 15 ms",
    }


class _Client:
    """A client that asks once."""

    def __init__(self, url: str, *, keep: bool) -> None:
        self.keep = keep
        address = urlsplit(url)
        self._address = (str(address.hostname), int(address.port or 0))
        self._host = address.netloc
        self._socket: socket.socket | None = None

    def ready(self) -> None:
        """Connect, and have one request answered."""
        self._socket = self._connected()
        self._send("GET /healthz")
        self._reply()

    def ask(self, question: str) -> tuple[float, float]:
        """Return the milliseconds until the question was accepted, and until the first token's first byte."""
        body = json.dumps({"question": question})
        began = time.perf_counter()
        self._send("POST /api/questions", f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n", body)
        task = json.loads(self._reply())
        posted = time.perf_counter()
        self._send(f"GET {task['events_url']}")
        received = b""
        while TOKEN not in received:
            received += self._receive()
        took = time.perf_counter()
        assert self._socket is not None
        self._socket.close()
        return 1000 * (posted - began), 1000 * (took - began)

    def _connected(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _send(self, request: str, headers: str = "", body: str = "") -> None:
        if self._socket is None or not self.keep:
            if self._socket is not None:
                self._socket.close()
            self._socket = self._connected()
        self._socket.sendall(f"{request} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n{body}".encode())

    def _reply(self) -> bytes:
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._receive()
        return body

    def _receive(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(1 << 16)
        if not data:
            raise RuntimeError("the connection was cut")
        return data


def _engine_s() -> float:
    """Return the engine's own time to its first token."""
    engine = ScriptedEngine()
    times: list[float] = []

    def first(output: Output) -> None:
        times.append(time.perf_counter() - began)

    for _ in range(20):
        request = GenerationRequest(
            messages=(Message(role="user", content="[tokens=1]"),), sampling=SamplingParams(seed=1), abort=Abort()
        )
        began = time.perf_counter()
        engine.generate(request, first)
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    print(json.dumps(measure(scale=0.2), indent=2))
