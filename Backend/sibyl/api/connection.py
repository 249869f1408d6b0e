"""The HTTP connection under a response: uvicorn's own, with a way to break it and a limit for the head of a request.

Ending a response in the middle makes uvicorn close the connection, but a close waits until the reader has taken what is
buffered for it. One that takes nothing would keep its connection and its buffer for ever. So would one that sends half
of a request's head, for which uvicorn waits without a limit.

uvicorn parses HTTP with httptools where it is installed, and with h11, several times slower, where it is not.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from starlette.types import Scope
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_S = 20.0  # from the connection, or the first byte of a further request, to the end of its headers

_EXTENSION = "sibyl.connection"


class _Breakable(asyncio.Protocol):
    """What both kinds of connection have: it lets a response ``cut`` it and closes when a request's head is late."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection."""
        super().connection_made(transport)
        self._head_begins()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._head_is_here()
        super().connection_lost(exc)

    def _head_begins(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cut(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


class H11Connection(_Breakable, H11Protocol):
    """A connection that needs no compiled package."""

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            self._head_begins()
        super().data_received(data)

    def handle_events(self) -> None:
        """Answer the request whose head is whole."""
        before = self.scope
        super().handle_events()
        if self.scope is not before:  # its task was made and has yet to run
            self._head_is_here()
            self.scope["extensions"] = {_EXTENSION: {"cut": self._cut}}


Connection: type[asyncio.Protocol] = H11Connection
try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # there is no wheel for this Python
    pass
else:

    class HttptoolsConnection(_Breakable, HttpToolsProtocol):
        """A fast connection."""

        def on_message_begin(self) -> None:
            """Begin a request."""
            super().on_message_begin()
            self.scope["extensions"] = {_EXTENSION: {"cut": self._cut}}
            self._head_begins()

        def on_headers_complete(self) -> None:
            """Answer a request."""
            self._head_is_here()
            super().on_headers_complete()

    Connection = HttptoolsConnection


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket that can be cut."""

    async def run_asgi(self) -> None:
        """Serve the connection."""
        cast("dict[str, object]", self.scope["extensions"])[_EXTENSION] = {"cut": self.transport.abort}
        await super().run_asgi()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # a refusal is whole as well; uvicorn would log an error


def cut(scope: Scope) -> None:
    """Break the connection of a request at once; what its reader has not taken is dropped."""
    extension = scope.get("extensions", {}).get(_EXTENSION)
    if extension is not None:
        cast(Callable[[], None], extension["cut"])()
