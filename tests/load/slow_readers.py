"""A hundred readers that take one byte a second, with small receive buffers, beside a fast one.

A long answer is followed three times over: by the fast reader alone, by it beside the slow ones, and at last by each
slow one, which resumes at full speed with the last event that it had whole. Each slow reader reads a while like any
other before it slows down, so that it has something to resume from. What a slow reader costs is the growth of the API's
memory from the first time to the second, divided by their number, and what the kernel holds for it.
"""

import json
import random
import selectors
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sibyl.core.task import TaskId
from sibyl.wire.sse import Frame, Parser
from tests.load.rig import (
    Desk,
    Look,
    desk,
    fold,
    look,
    own_redis,
    peak_rss_bytes,
    rss_bytes,
    spec,
    spread,
    start_api,
    start_worker,
    wait_logged,
)
from tests.processes import free_port

READERS = 100
ANSWER = "[tokens={tokens}] [pace=1000]"
TOKENS = 30_000  # 30 s
RECEIVE_BUFFER_BYTES = 2048
HUNGRY_BYTES = 40_000  # at most, read at full speed before a reader slows down
BOUND_KIB = 384  # in the API: asyncio's mark, a chunk over it and the one in hand, 64 KiB each; as much for all else
KERNEL_BOUND_KIB = 256  # in its socket: twice what api/listening.py asks for, as the kernel counts
FAST_LIMIT = 1.25  # times what the fast reader took alone
PAUSE_LIMIT_S = 2.0
END_S = 120.0


@dataclass(slots=True)
class Reader:
    """An SSE client that owns its socket."""

    socket: socket.socket
    hungry_bytes: int = 0  #: read at full speed, before it slows down
    raw: bytearray = field(default_factory=bytearray)
    closed: bool = False
    slow_bytes: int = 0  #: read one by one

    @property
    def frames(self) -> list[Frame]:
        """The whole frames so far."""
        return _frames(bytes(self.raw))


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return what slow readers cost, what the fast one felt of them, and whether they resume exactly."""
    readers = max(10, round(READERS * scale))
    tokens = max(5000, round(TOKENS * scale))
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as name:
        folder = Path(name)
        with own_redis(folder / "redis") as redis, look(redis.url) as seen, desk(redis.url) as clerk:
            port = free_port()
            api = start_api(folder, redis.url, port)
            worker = start_worker("worker", folder, redis.url, engine="scripted", slots=2)
            try:
                wait_logged(api, "api_ready")
                wait_logged(worker, "worker_ready")
                _follow(clerk, port, tokens=500, readers=0)  # warms up
                empty = rss_bytes(api.pid)
                alone = _follow(clerk, port, tokens=tokens, readers=0)
                before = peak_rss_bytes(api.pid)
                beside = _follow(clerk, port, tokens=tokens, readers=readers)
                peak, unsent = peak_rss_bytes(api.pid), _unsent_bytes(port)
                figures = _resumed(seen, port, beside)
            finally:
                worker.end()
                api.end()
    each_kib = (peak - before) / readers / 1024
    return {
        "what": f"{readers} readers at 1 byte/s beside a fast one; {tokens} tokens, {len(beside.fast.raw)} bytes",
        "fast reader": {
            "alone_s": alone.took_s,
            "beside_s": beside.took_s,
            "ratio": beside.took_s / alone.took_s,
            "longest_pause_alone_s": alone.longest_pause_s,
            "longest_pause_beside_s": beside.longest_pause_s,
        },
        "api": {
            "before_mib": empty / (1 << 20),
            "peak_with_the_fast_one_mib": before / (1 << 20),
            "peak_with_all_mib": peak / (1 << 20),
            "a_reader_kib": each_kib,
            "unsent_in_the_kernel_for_a_reader_kib": unsent / readers / 1024,
        },
        **figures,
        "promises": {
            f"a slow reader costs at most {BOUND_KIB} KiB in the API": each_kib <= BOUND_KIB,
            f"and {KERNEL_BOUND_KIB} KiB in the kernel": unsent / readers / 1024 <= KERNEL_BOUND_KIB,
            "the fast reader is not slowed down": beside.took_s <= FAST_LIMIT * alone.took_s
            and beside.longest_pause_s <= PAUSE_LIMIT_S,
            "every slow reader resumes exactly": figures["resumed exactly"] == readers,
            "they were slow": figures["behind when the answer ended"] == readers,
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """One answer, followed to its end by the fast reader."""

    task_id: TaskId
    fast: Reader
    slow: list[Reader]
    took_s: float
    longest_pause_s: float


def _follow(clerk: Desk, port: int, *, tokens: int, readers: int) -> Following:
    """Ask; read with the fast reader as it comes, with the slow ones one byte a second each."""
    dice = random.Random(1)
    task_id = clerk.submit(spec(f"Slowly? {ANSWER.format(tokens=tokens)}", readers))
    slow = [_connect(port, task_id, small=True, hungry_bytes=dice.randint(500, HUNGRY_BYTES)) for _ in range(readers)]
    began = time.monotonic()
    fast = _connect(port, task_id)
    with selectors.DefaultSelector() as hungry:
        for reader in (fast, *slow):
            hungry.register(reader.socket, selectors.EVENT_READ, reader)
        heard = began
        longest_s = 0.0
        bite_at = began + 1.0
        while not fast.closed:
            for key, _ in hungry.select(timeout=0.05):
                reader = key.data
                _take(reader, 65536 if reader is fast else min(1024, reader.hungry_bytes))
                now = time.monotonic()
                if reader is fast:
                    longest_s, heard = max(longest_s, now - heard), now
                if reader.closed or (reader is not fast and len(reader.raw) >= reader.hungry_bytes):
                    hungry.unregister(reader.socket)
            if time.monotonic() >= bite_at:
                bite_at += 1.0
                for reader in slow:
                    if not reader.closed and len(reader.raw) >= reader.hungry_bytes:
                        reader.slow_bytes += _take(reader, 1, wait=False)
            if time.monotonic() - began > END_S:
                raise TimeoutError("the answer does not end")
    took_s = time.monotonic() - began
    return Following(task_id=task_id, fast=fast, slow=slow, took_s=took_s, longest_pause_s=longest_s)


def _resumed(seen: Look, port: int, following: Following) -> dict[str, Any]:
    """Let every slow reader leave and come back with its last whole event; compare with what the fast one has."""
    text = fold(seen.log(following.task_id)).text()
    whole = [(frame.id, frame.data) for frame in following.fast.frames if frame.id]
    exact = behind = cut = 0
    had: list[float] = []
    for reader in following.slow:
        cut += reader.closed
        reader.socket.close()
        first = [frame for frame in reader.frames if frame.id]
        behind += not any(frame.event == "completed" for frame in first)
        had.append(len(first))
        again = _connect(port, following.task_id, after=first[-1].id if first else None)
        while not again.closed:
            _take(again, 65536)
        again.socket.close()
        rest = [frame for frame in again.frames if frame.id]
        exact += [(frame.id, frame.data) for frame in first + rest] == whole and _text(first + rest) == text
    following.fast.socket.close()
    return {
        "events before the resume": spread(had),
        "bytes taken one by one": spread([float(reader.slow_bytes) for reader in following.slow]),
        "behind when the answer ended": behind,
        "cut by the send timeout before": cut,
        "resumed exactly": exact,
    }


def _connect(
    port: int, task_id: TaskId, *, small: bool = False, hungry_bytes: int = 0, after: str | None = None
) -> Reader:
    connection = socket.socket()
    if small:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # before it connects
    connection.settimeout(END_S)
    connection.connect(("127.0.0.1", port))
    resume = f"Last-Event-ID: {after}\r\n" if after else ""
    head = f"GET /api/tasks/{task_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{resume}\r\n"
    connection.sendall(head.encode())
    return Reader(connection, hungry_bytes)


def _take(reader: Reader, most_bytes: int, *, wait: bool = True) -> int:
    """Read what is there, at most so much; return how much it was."""
    try:
        piece = reader.socket.recv(most_bytes, 0 if wait else socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0
    except ConnectionResetError:
        piece = b""
    reader.raw += piece
    reader.closed = not piece
    return len(piece)


def _frames(raw: bytes) -> list[Frame]:
    """Undo the chunks of HTTP, whether they are whole or not, and parse the frames that are."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert not head or head.startswith(b"HTTP/1.1 200"), head
    body = bytearray()
    while rest:
        size, found, rest = rest.partition(b"\r\n")
        length = int(size, 16) if found else 0
        body += rest[:length]
        rest = rest[length + 2 :]
    return Parser().feed(bytes(body))


def _text(frames: list[Frame]) -> str:
    return "".join(json.loads(frame.data)["token"] for frame in frames if frame.event == "llm_streaming")


def _unsent_bytes(port: int) -> int:
    """Return what the kernel holds for the readers of this port."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            found += int(fields[4].partition(":")[0], 16)
    return found
