"""A TCP cable between the plugin and a server that a test can cut, freeze, and plug in elsewhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

LIMIT_S = 10.0


class Cable:
    """Forwards connections to a port on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port  #: of the server; the next connection goes to this one
        self.plugged = True  #: whether new connections are forwarded, or cut at once
        self.connections = 0
        self.up_bytes = 0  #: forwarded from clients, on all connections
        self._cut_up: list[int] = []
        self._cut_down: list[int] = []
        self._down_bytes = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The server's door, through the cable."""
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws/transcribe"

    def cut(self) -> None:
        """Cut all connections, as a router does that forgot them."""
        for writer in self._writers:
            writer.transport.abort()

    def cut_at(self, *, up: list[int] | None = None, down: list[int] | None = None) -> None:
        """Cut all connections each time that so many bytes have been forwarded, counted over all of them."""
        self._cut_up, self._cut_down = sorted(up or []), sorted(down or [])

    def freeze(self) -> None:
        """Forward nothing more on the connections there are, and close none of them."""
        for flow in self._flows:
            flow.cancel()

    async def connected(self, count: int) -> None:
        """Wait until so many connections were made."""
        async with asyncio.timeout(LIMIT_S), self._news:
            await self._news.wait_for(lambda: self.connections >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        async with self._news:
            self._news.notify_all()
        if not self.plugged:
            writer.transport.abort()
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.add(there)
        for flow in (self._flow(reader, there, up=True), self._flow(there_reader, writer, up=False)):
            task = asyncio.create_task(flow)
            self._flows.add(task)
            task.add_done_callback(self._flows.discard)

    async def _flow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                cuts, passed = (self._cut_up, self.up_bytes) if up else (self._cut_down, self._down_bytes)
                cut = bool(cuts) and passed + len(data) >= cuts[0]
                if cut:
                    data = data[: cuts.pop(0) - passed]
                if up:
                    self.up_bytes += len(data)
                else:
                    self._down_bytes += len(data)
                writer.write(data)
                await writer.drain()
                if cut:
                    self.cut()
                    return
        writer.close()


@contextlib.asynccontextmanager
async def cable_to(port: int) -> AsyncIterator[Cable]:
    """Lay a cable to a port; all its connections are cut at the end."""
    cable = Cable(port)
    cable._server = await asyncio.start_server(cable._serve, "127.0.0.1", 0)
    try:
        yield cable
    finally:
        cable._server.close()
        cable.cut()
        flows = set(cable._flows)
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        await cable._server.wait_closed()
