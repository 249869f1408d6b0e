"""A faulty network between a client and Redis: a proxy that forwards requests and loses the replies it is told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from tests.topology import needs_one_server


class Proxy:
    """Forwards bytes between a unix socket of its own and Redis' one."""

    def __init__(self) -> None:
        self.url = ""  #: for ``Store``
        self.dropped = 0  #: replies lost so far
        self._marker = b""
        self._times = 0
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.StreamWriter] = set()

    def drop(self, marker: bytes, times: int) -> None:
        """Let the next requests that contain ``marker`` reach Redis, and cut the connection instead of answering."""
        self._marker, self._times, self.dropped = marker, times, 0

    def hold(self) -> None:
        """Keep everything back, in both directions, until ``release``: a network that stalls."""
        self._open.clear()

    def release(self) -> None:
        """Let pass what was kept back."""
        self._open.set()

    @property
    def connected(self) -> int:
        """Open connections."""
        return len(self._connections)

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for writer in tuple(self._connections):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_unix_connection(target)
        except OSError:  # Redis is away
            writer.close()
            return
        self._connections.add(writer)
        lost = asyncio.Event()

        async def requests() -> None:
            while data := await reader.read(1 << 16):
                await self._open.wait()
                if self._times and self._marker in data:
                    self._times -= 1
                    lost.set()
                upstream_writer.write(data)

        async def replies() -> None:
            while data := await upstream_reader.read(1 << 16):
                await self._open.wait()
                if lost.is_set():
                    self.dropped += 1
                    return
                writer.write(data)

        pumps = [asyncio.create_task(requests()), asyncio.create_task(replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(writer)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, upstream_writer):
                end.close()
            for end in (writer, upstream_writer):
                with contextlib.suppress(OSError):
                    await end.wait_closed()


@contextlib.asynccontextmanager
async def proxy(redis_url: str, directory: Path) -> AsyncIterator[Proxy]:
    """A proxy before the Redis at this unix socket, while the block runs."""
    needs_one_server("its network is faulty")
    target = urlsplit(redis_url).path
    faulty = Proxy()
    path = directory / "proxy.sock"
    serving: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(faulty._connected(reader, writer, target)))

    server = await asyncio.start_unix_server(connected, path)
    faulty.url = f"unix://{quote(str(path))}"
    try:
        yield faulty
    finally:
        server.close()
        faulty.release()
        faulty.cut()
        await asyncio.gather(*serving, return_exceptions=True)
