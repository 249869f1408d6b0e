"""The HTTP connection under a response: uvicorn's own, and a way to break it that ASGI lacks.

Ending a response in the middle makes uvicorn close the connection, but a close waits until the reader has taken what is
buffered for it. One that takes nothing would keep its connection and its buffer for ever.
"""

from collections.abc import Callable
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_EXTENSION = "sibyl.connection"


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which lets a response ``cut`` it."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"cut": self._cut}}

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
