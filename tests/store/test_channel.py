"""The connection that all commands share: order, one write for many, silence, nonsense, and its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from sibyl.core.errors import StoreUnavailable
from sibyl.store import channel as channel_module
from sibyl.store import server as server_module
from sibyl.store.connection import Store
from sibyl.store.server import Server

Answers = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
Odd = Callable[[Answers], Awaitable[Server]]


@pytest.fixture
async def odd(tmp_path: Path) -> AsyncIterator[Odd]:
    """Connect to a server of our own that answers what a test says, after it has greeted redis-py as it should."""
    made: list[Server] = []
    listening: list[asyncio.Server] = []
    talks: set[asyncio.StreamWriter] = set()

    async def make(answer: Answers) -> Server:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            talks.add(writer)
            while data := await reader.read(1 << 16):
                greetings = data.count(b"SETINFO")
                if greetings:
                    writer.write(b"+OK\r\n" * greetings)
                else:
                    await answer(data, writer)

        path = tmp_path / "odd.sock"
        listening.append(await asyncio.start_unix_server(talk, path))
        made.append(Server(f"unix://{quote(str(path))}"))
        return made[-1]

    yield make
    for server in made:
        await server.close()
    for writer in talks:
        writer.close()
    for listener in listening:
        listener.close()
        await listener.wait_closed()


async def test_every_caller_gets_its_own_reply(store: Store) -> None:
    """A thousand at once over one connection, errors among them: in order, none mixed up."""
    server = await store.server_of("{q0}")

    async def one(number: int) -> Any:
        if number % 10 == 0:
            return (await server.ask(["NONSENSE", number]))[0]
        return (await server.ask(["ECHO", f"{number} ü\r\n"]))[0]

    replies = await asyncio.gather(*(one(number) for number in range(1000)))

    for number, reply in enumerate(replies):
        if number % 10 == 0:
            assert isinstance(reply, ResponseError)
        else:
            assert reply == f"{number} ü\r\n"


async def test_what_is_asked_in_one_turn_is_one_write(odd: Odd) -> None:
    """Ten callers, one packet."""
    packets: list[int] = []

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        packets.append(data.count(b"PING"))
        writer.write(b"+PONG\r\n" * packets[-1])

    server = await odd(answer)
    await server.ask(["PING"])

    await asyncio.gather(*(server.ask(["PING"]) for _ in range(10)))

    assert packets == [1, 10]


async def test_a_reply_in_pieces_is_put_together(odd: Odd) -> None:
    """Also one that ends in the middle of a character."""
    text = "wörd\r\n".encode()

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in b"*2\r\n$%d\r\n%b\r\n:7\r\n" % (len(text), text):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    server = await odd(answer)

    assert await server.ask(["ANYTHING"]) == [["wörd\r\n", 7]]


async def test_who_gave_up_costs_nobody_a_reply(odd: Odd) -> None:
    """A caller that was cancelled: its reply is not taken for that of the next."""
    asked = asyncio.Event()

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        if b"LAST" in data:
            writer.write(b"$5\r\nfirst\r\n$4\r\nlast\r\n")

    server = await odd(answer)
    first = asyncio.create_task(server.ask(["FIRST"]))
    await asked.wait()
    first.cancel()

    assert await server.ask(["LAST"]) == ["last"]


async def test_silence_ends_the_connection_and_the_next_question_opens_another(
    odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everyone who waits is told, within the limit; a server that answers again is asked again."""
    monkeypatch.setattr(server_module, "COMMAND_TIMEOUT_S", 0.1)
    silent = True

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        if not silent:
            writer.write(b"+OK\r\n")

    server = await odd(answer)
    async with asyncio.timeout(2):
        outcomes = await asyncio.gather(*(server.ask(["X"]) for _ in range(3)), return_exceptions=True)
    silent = False

    assert [type(outcome) for outcome in outcomes] == [RedisConnectionError] * 3
    assert await server.ask(["X"]) == ["OK"]


@pytest.mark.parametrize("nonsense", [b"hello\r\n", b"$4\r\n\xff\xfe\xfd\xfc\r\n", b"+OK\r\n+OK\r\n"])
async def test_nonsense_ends_the_connection(odd: Odd, nonsense: bytes) -> None:
    """No protocol, no text, more replies than questions: nothing that comes after it can be trusted."""
    first = True

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal first
        writer.write(nonsense if first else b"+fine\r\n")
        first = False

    server = await odd(answer)
    outcome = (await asyncio.gather(server.ask(["X"]), return_exceptions=True))[0]
    await asyncio.sleep(0.01)

    assert outcome == ["OK"] or isinstance(outcome, RedisConnectionError)
    assert await server.ask(["X"]) == ["fine"]


async def test_a_server_that_is_left_lets_go_of_who_waits(odd: Odd) -> None:
    """A primary that was cut off answers nothing and closes nothing: who waits for it is told at once."""

    async def never(data: bytes, writer: asyncio.StreamWriter) -> None:
        return

    server = await odd(never)
    waiting = asyncio.create_task(server.ask(["X"]))
    await asyncio.sleep(0.02)

    server.leave()

    with pytest.raises(RedisConnectionError):
        async with asyncio.timeout(1):
            await waiting
    with pytest.raises(RedisConnectionError):
        await server.ask(["X"])


async def test_a_server_that_cannot_be_reached_is_unavailable(tmp_path: Path) -> None:
    """For all who ask at once, and without a connection left behind."""
    store = Store(f"unix://{quote(str(tmp_path / 'nobody.sock'))}", patience_s=0.0)

    outcomes = await asyncio.gather(*(store.command("GET", "{q0}x") for _ in range(5)), return_exceptions=True)
    await store.close()

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 5


def test_a_command_is_packed_as_redis_reads_it() -> None:
    """Text in UTF-8, whole numbers and fractions as text."""
    assert channel_module.packed(["SET", "ü", 7, 0.5]) == (
        b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xbc\r\n$1\r\n7\r\n$3\r\n0.5\r\n"
    )
