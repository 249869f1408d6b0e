"""The network between one process and Redis: a proxy that can lose, delay, half-close, hold and cut."""

import asyncio
import contextlib
import random


class _Connection:
    """Two ends of one forwarded connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near  #: towards the process
        self.far = far  #: towards Redis
        self.lost = False  #: the next reply goes nowhere
        self.deaf = False  #: the process was told that nothing comes any more

    def abort(self) -> None:
        self.near.transport.abort()
        self.far.transport.abort()


class Link:
    """One process' way to Redis. Healthy until told otherwise; ``heal`` takes all of it back but what is broken."""

    def __init__(self, name: str, target_port: int) -> None:
        self.name = name
        self.port = 0
        self.delay_s = 0.0  #: added to whatever passes, in each direction
        self.loss = 0.0  #: share of the requests whose reply is lost, and with it the connection
        self.refusing = False  #: new connections are closed at once
        self.replies_lost = 0
        self._target_port = target_port
        self._passing = asyncio.Event()
        self._passing.set()
        self._connections: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._draw = random.Random(name)

    async def open(self) -> None:
        """Listen on a port of its own."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        self.heal()
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def hold(self) -> None:
        """Let nothing pass, in no direction; connections stay and new ones are taken, as when packets get lost."""
        self._passing.clear()

    def heal(self) -> None:
        """Lose and delay nothing more, and let pass what was held."""
        self.delay_s, self.loss, self.refusing = 0.0, 0.0, False
        self._passing.set()

    def cut(self) -> int:
        """Break every connection; return how many. What was held in them is gone."""
        broken = len(self._connections)
        for connection in tuple(self._connections):
            connection.abort()
        return broken

    def half_close(self, *, towards_redis: bool) -> int:
        """End one direction of every connection and leave the other; return how many."""
        closed = 0
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError, RuntimeError):
                if towards_redis:
                    connection.far.write_eof()
                elif not connection.deaf:
                    connection.deaf = True
                    connection.near.write_eof()
                closed += 1
        return closed

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refusing:
                raise ConnectionRefusedError
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # Redis is away
            writer.transport.abort()
            return
        connection = _Connection(writer, far)
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._requests(reader, connection)),
            asyncio.create_task(self._replies(far_reader, connection)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._connections.discard(connection)
            connection.abort()

    async def _requests(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        while data := await reader.read(1 << 16):
            await self._travel()
            if self.loss and self._draw.random() < self.loss:
                connection.lost = True
            connection.far.write(data)
            await connection.far.drain()

    async def _replies(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        while data := await reader.read(1 << 16):
            await self._travel()
            if connection.lost:
                self.replies_lost += 1
                return
            if not connection.deaf:
                connection.near.write(data)
                await connection.near.drain()

    async def _travel(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._passing.wait()
