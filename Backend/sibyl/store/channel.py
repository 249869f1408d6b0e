"""One connection for all commands that answer at once: each is sent when it comes, and told its reply in its turn.

redis-py opens it: address, TLS, password, whether the server is a primary. From then on its bytes are ours, since a
pool, a lock and a task for every command would cost more than the command. What many callers ask in one turn of the
loop goes out as one write.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

Word = str | int | float

Answered = Callable[[Any], None]
"""Is told the reply: a value, or an exception; with a ConnectionError the command may have run. Must not raise."""

_INCOMPLETE: Final = object()
_error_of: Callable[[str], Exception] = BaseParser.parse_error


class Channel(asyncio.Protocol):
    """Questions and answers, in order."""

    def __init__(self, connection: AbstractConnection, *, limit_s: float) -> None:
        """Take over a connection of redis-py's that is open and has nothing under way.

        Args:
            limit_s: a question without an answer for so long ends the channel.
        """
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse, replyError=_error_of, encoding="utf-8", notEnoughData=_INCOMPLETE
        )
        self._waiting: deque[tuple[Answered, float]] = deque()  # with the time when it was asked
        self._unsent: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        # redis-py offers no way to hand over its connection, so we reach in: it must not close what is ours now.
        inside: Any = connection
        self._writer, inside._writer, inside._reader = inside._writer, None, None
        self._transport: asyncio.Transport = self._writer.transport
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether a question may be asked."""
        return not self._transport.is_closing()

    def ask(self, command: bytes, answered: Answered) -> None:
        """Send a command that does not block, and have its reply told; also when the channel ends before."""
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(command)
        self._waiting.append((answered, self._loop.time()))
        if self._watch is None:
            self._watch = self._loop.call_later(self._limit_s, self._look)

    def close(self) -> None:
        """End it; all who wait are told a ConnectionError."""
        self._transport.abort()
        self._end("The connection was closed.")

    def data_received(self, data: bytes) -> None:
        """Take a part of the replies."""
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not _INCOMPLETE:
                answered, _ = self._waiting.popleft()
                answered(reply)
        except (InvalidResponse, IndexError, UnicodeDecodeError):
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """The server is gone."""
        self._end("The connection was lost.")

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        self._transport.write(b"".join(unsent))

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        rest_s = self._waiting[0][1] + self._limit_s - self._loop.time()
        if rest_s <= 0:
            self.close()
        else:
            self._watch = self._loop.call_later(rest_s, self._look)

    def _end(self, why: str) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._waiting:
            answered, _ = self._waiting.popleft()
            answered(RedisConnectionError(why))


def packed(words: Sequence[Word | bytes]) -> bytes:
    """Return a command as Redis reads it."""
    command: bytes = hiredis.pack_command(tuple(words))  # type: ignore[arg-type]  # its stub knows one word only
    return command
