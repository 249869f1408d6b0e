"""The supervisor's own connection, with a real server and with one that only listens."""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from sibyl.core.errors import ProcessError
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.redis_admin import Answer, RedisAdmin
from sibyl.store.socket_place import SocketPlace


@pytest.fixture
async def silent(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of a server that takes connections and says nothing."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    place = SocketPlace.choose(tmp_path / ("x" * 100))
    server = await asyncio.start_unix_server(listen, place.serving)
    yield place.serving
    server.close()
    await server.wait_closed()
    place.remove()


async def test_no_server_is_an_answer(tmp_path: Path) -> None:
    """A socket that does not exist yet is no error."""
    async with RedisAdmin.connected(tmp_path / "none", "hush") as admin:
        assert await admin.ping() is Answer.NOTHING
        assert await admin.loaded_percent() is None
        await admin.shutdown()


@pytest.mark.parametrize("turns", range(1, 16))
async def test_a_cancellation_is_never_swallowed(silent: Path, turns: int) -> None:
    """Whatever step of connecting and sending is under way, a cancelled call ends at once, and leaves no connection."""

    async def ping() -> None:
        async with RedisAdmin.connected(silent, "hush") as admin:
            await admin.ping()

    pinging = asyncio.create_task(ping())
    for _ in range(turns):
        await asyncio.sleep(0)  # one turn of the loop: the moment is the fault
    pinging.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(2):
            await pinging


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A running server."""
    embedded = EmbeddedRedis(tmp_path)
    await embedded.start()
    yield embedded
    await embedded.stop(limit_s=2)


@pytest.fixture
async def admin(redis: EmbeddedRedis) -> AsyncIterator[RedisAdmin]:
    """The connection to the running server, with the name and password that its URL has."""
    parts = urlsplit(redis.admin_url)
    assert parts.password is not None
    async with RedisAdmin.connected(Path(unquote(parts.path)), parts.password) as connected:
        yield connected


async def test_a_loaded_server_is_ready(admin: RedisAdmin) -> None:
    """It answers, and has no percentage any more."""
    assert await admin.ping() is Answer.READY
    assert await admin.loaded_percent() is None


async def test_a_rewrite_that_succeeds_has_ended_on_return(admin: RedisAdmin) -> None:
    """One after the other is possible, because none is still under way."""
    await admin.rewrite()
    await admin.rewrite()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a limit be set on another process")
async def test_a_rewrite_that_fails_is_told(redis: EmbeddedRedis, admin: RedisAdmin) -> None:
    """A server that may not write any byte says so, and is not believed to have repaired anything."""
    assert redis.pid is not None
    resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    with pytest.raises(ProcessError, match="rewrite failed"):
        await admin.rewrite()


async def test_shutdown_ends_the_server(redis: EmbeddedRedis, admin: RedisAdmin) -> None:
    """The server ends by itself, and asking once more is no error."""
    await admin.shutdown()
    assert await redis.exited() == 0
    await admin.shutdown()
