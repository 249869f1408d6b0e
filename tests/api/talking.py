"""A client of a speech door, for tests: blocking, and careless where a test wants it to be."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.speech.hearing import blocks

LIMIT_S = 10.0
# This client logs an error when a test breaks its connection; what counts is what the server logs.
_UNHEARD = logging.getLogger("tests.talking")
_UNHEARD.disabled = True


class Talking:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    def send(self, **message: Any) -> None:
        """Send a text frame."""
        self.socket.send(json.dumps(message))

    def audio(self, *values: int) -> None:
        """Send blocks of the scripted recogniser, a frame each."""
        for value in values:
            self.socket.send(blocks(value))

    def next(self, *types: str) -> dict[str, Any]:
        """Return the next message of one of these types; all on the way are kept in ``messages``."""
        while True:
            message = json.loads(self.socket.recv(LIMIT_S))
            self.messages.append(message)
            if not types or message["type"] in types:
                return dict(message)

    def rest(self) -> list[dict[str, Any]]:
        """Return all messages until the close, which must come."""
        messages = []
        try:
            while True:
                messages.append(self.next())
        except ConnectionClosed:
            return messages

    @property
    def closed_with(self) -> tuple[int | None, str | None]:
        """Code and reason of the close."""
        return self.socket.close_code, self.socket.close_reason

    @property
    def texts(self) -> list[str]:
        """The finals so far."""
        return [message["text"] for message in self.messages if message["type"] == "final"]


@contextmanager
def talk(
    url: str, path: str = "/ws/transcribe", *, config: dict[str, Any] | None = None, **options: Any
) -> Iterator[Talking]:
    """Connect; send the config, unless it is None, and wait for ``ready``."""
    with connect(
        url.replace("http", "ws", 1) + path, compression=None, proxy=None, logger=_UNHEARD, **options
    ) as socket:
        talking = Talking(socket)
        if config is not None:
            talking.send(type="config", **config)
            talking.next("ready")
        yield talking
