"""The clients come to an end, whatever a server does."""

import asyncio
import random

from tests.chaos.clients import Clients, Following
from tests.chaos.history import Record

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
COMMENT = b"7\r\n: on\r\n\r\n\r\n"


async def test_a_follower_that_hears_only_comments_is_stuck_when_the_limit_is_over() -> None:
    """Keep-alives must not keep a campaign from its verdict."""
    heard = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        try:
            while True:
                writer.write(COMMENT)
                await writer.drain()
                heard.set()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    notes: list[Record] = []
    clients = Clients([f"http://127.0.0.1:{port}"], engine="scripted", seed=1, now=lambda: 0.0, note=notes.append)
    follower = Following(clients, random.Random(1), "0." + "a" * 32)
    try:
        following = asyncio.create_task(follower.run())
        await heard.wait()
        clients.limit.set()
        async with asyncio.timeout(5):
            assert await following == "stuck"
    finally:
        await clients.close()
        server.close()
        await server.wait_closed()

    assert [step.kind for step in follower.steps] == ["connect", "cut"]
