"""Readers by the hundred: an SSE client on raw sockets, which knows several addresses and takes the time of its pauses.

Light, since whatever the driver of a benchmark needs is missing from what it measures.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sibyl.wire.sse import Frame, Parser

TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})
RETRY_S = 0.05  # pause of a client before it tries the next address
SILENCE_S = 30.0  # longer than the pause between two keep-alive comments


class Refused(Exception):
    """The server said no, or said nothing."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A connection that broke, and how long it took to have another, and then to read something new."""

    reconnect_s: float
    event_s: float


class Reader:
    """One reader of one task, from its first event to its last."""

    def __init__(self, urls: Sequence[str], task_id: str, *, first: int = 0) -> None:
        """Prepare it; ``run`` reads. ``first`` is the number of the address that it tries first."""
        self._addresses = [(part.hostname or "", part.port or 80) for part in map(urlsplit, urls)]
        self._turn = first
        self.task_id = task_id
        self.ids: list[str] = []
        self.frames: list[Frame] = []  #: those with an id
        self.times: list[float] = []  #: when each came, monotonic
        self.resets = 0
        self.refused = 0  #: tries that found nobody, or a 429 or 503
        self.cuts: list[Cut] = []
        self._news = asyncio.Event()

    @property
    def text(self) -> str:
        """The answer as it was seen."""
        return "".join(json.loads(frame.data)["token"] for frame in self.frames if frame.event == "llm_streaming")

    @property
    def end(self) -> str | None:
        """The terminal event's type, if it came."""
        return self.frames[-1].event if self.frames and self.frames[-1].event in TERMINAL else None

    @property
    def gaps_s(self) -> list[float]:
        """The pauses between its events."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]

    def count(self, event: str) -> int:
        """Return how many events of a type came."""
        return sum(frame.event == event for frame in self.frames)

    async def wait_for(self, event: str, count: int = 1, *, limit_s: float = 30.0) -> float:
        """Wait until so many events of a type came and return when the newest event did."""
        async with asyncio.timeout(limit_s):
            while self.count(event) < count:
                self._news.clear()
                await self._news.wait()
        return next(
            moment
            for number, moment in enumerate(self.times)
            if sum(frame.event == event for frame in self.frames[: number + 1]) == count
        )

    async def run(self) -> None:
        """Read to the end, over as many connections as it takes."""
        cut_at: float | None = None
        while self.end is None:
            try:
                async for _ in self._read(cut_at):
                    pass
            except (OSError, Refused, EOFError, ValueError, TimeoutError):
                self._turn += 1
            if self.end is None:
                if cut_at is None or (self.times and self.times[-1] > cut_at):
                    cut_at = time.monotonic()
                await asyncio.sleep(RETRY_S)

    async def _read(self, cut_at: float | None) -> AsyncIterator[None]:
        async with _get(*self._address(), f"/api/tasks/{self.task_id}/events", self.ids[-1:]) as (status, chunks):
            if status != 200:
                self.refused += 1
                raise Refused(status)
            connected_at = time.monotonic()
            parser = Parser()
            async for chunk in chunks:
                for frame in parser.feed(chunk):
                    self.resets += frame.event == "reset"
                    if frame.id is None or frame.id in self.ids[-1:]:
                        continue
                    now = time.monotonic()
                    if cut_at is not None:
                        self.cuts.append(Cut(connected_at - cut_at, now - cut_at))
                        cut_at = None
                    self.ids.append(frame.id)
                    self.frames.append(frame)
                    self.times.append(now)
                    self._news.set()
                yield

    def _address(self) -> tuple[str, int]:
        return self._addresses[self._turn % len(self._addresses)]


@contextlib.asynccontextmanager
async def _get(
    host: str, port: int, path: str, last_id: Iterable[str]
) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(host, port)
    try:
        headers = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *(f"Last-Event-ID: {one}" for one in last_id)]
        writer.write("\r\n".join([*headers, "", ""]).encode())
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        yield int(head.split()[1]), _chunks(reader)
    finally:
        writer.close()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The parts of a chunked body. Raises EOFError when it is cut before its end."""
    while True:
        async with asyncio.timeout(SILENCE_S):
            line = await reader.readline()
            if not line.endswith(b"\r\n"):
                raise EOFError
            size = int(line, 16)
            data = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield data[:-2]


def share(values: Sequence[float], part: float) -> float:
    """Return the value below which ``part`` of them lie; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def broken(readers: Sequence[Reader], text: str | None = None) -> list[str]:
    """Return in words what is wrong with what readers saw: no end, a repeat, a number missing, another text."""
    wrong = []
    for reader in readers:
        indexes = [json.loads(frame.data)["index"] for frame in reader.frames if frame.event == "llm_streaming"]
        if reader.end != "completed":
            wrong.append(f"{reader.task_id}: ended with {reader.end}")
        if indexes != list(range(len(indexes))):
            wrong.append(f"{reader.task_id}: outputs {indexes[:3]}... of {len(indexes)} are not in order")
        if len(set(reader.ids)) != len(reader.ids):
            wrong.append(f"{reader.task_id}: an event came twice")
        if text is not None and reader.text != text:
            wrong.append(f"{reader.task_id}: another text")
        if reader.resets:
            wrong.append(f"{reader.task_id}: {reader.resets} resets")
    return wrong
