"""A network that loses one kind of request: whoever sent it waits for ever, on this connection and on the next."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urlsplit


class Muffle:
    """Between a client and the unix socket of a Redis."""

    def __init__(self, lost: bytes) -> None:
        self.url = ""  #: for ``Store``
        self.on = False  #: whether requests that contain the word are lost
        self.swallowed = 0  #: requests lost so far
        self._lost = lost

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool) -> None:
        """Hand on what comes, to the end."""
        while data := await reader.read(1 << 16):
            if lossy and self.on and self._lost in data:
                self.swallowed += 1
                continue
            writer.write(data)


@contextlib.asynccontextmanager
async def muffled(redis_url: str, directory: Path, lost: bytes) -> AsyncIterator[Muffle]:
    """A muffle before this Redis, while the block runs; it is off at first."""
    muffle = Muffle(lost)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(urlsplit(redis_url).path)
        pumps = [
            asyncio.create_task(muffle.pump(reader, upstream_writer, lossy=True)),
            asyncio.create_task(muffle.pump(upstream_reader, writer, lossy=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            upstream_writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    path = directory / "muffle.sock"
    server = await asyncio.start_unix_server(connected, path)
    muffle.url = f"unix://{quote(str(path))}"
    try:
        yield muffle
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
