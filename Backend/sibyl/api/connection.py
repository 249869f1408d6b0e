"""The HTTP connection under a response: uvicorn's own, with a way to break it and a limit for the head of a request.

Ending a response in the middle makes uvicorn close the connection, but a close waits until the reader has taken what is
buffered for it. One that takes nothing would keep its connection and its buffer for ever. So would one that sends half
of a request's head, for which uvicorn waits without a limit.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0  # from the connection, or the first byte of a further request, to the end of its headers

_EXTENSION = "sibyl.connection"


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which lets a response ``cut`` it and closes when a request's head is late."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._head_is_here()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"cut": self._cut}}
        if self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def on_headers_complete(self) -> None:
        """Answer a request."""
        self._head_is_here()
        super().on_headers_complete()

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cut(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


def cut(scope: Scope) -> None:
    """Break the connection of a request at once; what its reader has not taken is dropped."""
    extension = scope.get("extensions", {}).get(_EXTENSION)
    if extension is not None:
        cast(Callable[[], None], extension["cut"])()
