"""The proxy between a process and Redis does what it is told, and nothing when it is told nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.chaos.network import Link


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link to a server that answers each line with its echo."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(b"echo " + line)
        writer.write(b"bye\n")
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link("test", server.sockets[0].getsockname()[1])
    await link.open()
    yield link
    await link.close()
    server.close()


async def connect(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has been answered once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    await ask(reader, writer, b"hello\n")
    return reader, writer


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
    """Send a line and return the next one."""
    writer.write(line)
    return await reader.readline()


async def test_a_healthy_link_passes_everything_on(link: Link) -> None:
    """Both directions, and the end."""
    reader, writer = await connect(link)

    assert await ask(reader, writer, b"one\n") == b"echo one\n"
    writer.close()


async def test_a_lost_reply_takes_its_connection_with_it(link: Link) -> None:
    """The request arrives; whoever asked learns nothing but that the connection broke."""
    reader, writer = await connect(link)
    link.loss = 1.0

    with pytest.raises(ConnectionError):
        assert await ask(reader, writer, b"two\n") == b""
        raise ConnectionResetError  # an end in order would be as good
    assert link.replies_lost == 1
    writer.close()


async def test_a_partition_holds_what_is_sent_and_delivers_it_late(link: Link) -> None:
    """Nothing passes while it lasts; then all of it does."""
    reader, writer = await connect(link)
    link.hold()
    answer = asyncio.create_task(ask(reader, writer, b"late\n"))

    done, _ = await asyncio.wait([answer], timeout=0.1)
    assert not done
    link.heal()
    assert await answer == b"echo late\n"
    writer.close()


async def test_a_partition_may_end_with_every_connection_gone(link: Link) -> None:
    """What was under way is lost then."""
    reader, writer = await connect(link)
    link.hold()
    answer = asyncio.create_task(ask(reader, writer, b"lost\n"))
    await asyncio.wait([answer], timeout=0.05)

    assert link.cut() == 1
    link.heal()
    with pytest.raises(ConnectionError):
        assert await answer == b""
        raise ConnectionResetError
    writer.close()


async def test_a_half_closed_connection_is_told_an_end_on_one_side_only(link: Link) -> None:
    """Towards the process: it reads an end. Towards Redis: Redis does."""
    reader, writer = await connect(link)
    assert link.half_close(towards_redis=False) == 1
    assert await reader.read() == b""
    writer.close()

    reader, writer = await connect(link)
    link.half_close(towards_redis=True)
    assert await reader.readline() == b"bye\n"
    writer.close()


async def test_a_delay_lengthens_both_ways(link: Link) -> None:
    """A round trip takes twice the delay."""
    reader, writer = await connect(link)
    link.delay_s = 0.05
    began = asyncio.get_running_loop().time()

    assert await ask(reader, writer, b"slow\n") == b"echo slow\n"
    assert asyncio.get_running_loop().time() - began >= 0.1
    writer.close()


async def test_a_refusing_link_takes_nobody(link: Link) -> None:
    """Who comes is sent away at once; who is there stays."""
    reader, writer = await connect(link)
    link.refusing = True

    with pytest.raises((ConnectionError, AssertionError)):
        other_reader, other = await asyncio.open_connection("127.0.0.1", link.port)
        other.write(b"hello\n")
        assert await other_reader.readline() != b""
    assert await ask(reader, writer, b"still\n") == b"echo still\n"
    writer.close()
