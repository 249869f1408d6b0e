"""A server on loopback that does what a test wants, also what ours never does. It keeps all that it got."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

LIMIT_S = 10.0
LIMITS = {"keepalive_s": 5.0, "max_frame_bytes": 65536, "max_backlog_s": 30.0, "drain_s": 30.0}


class Visit:
    """One connection of the plugin, seen by the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self.audio = bytearray()

    async def say(self, type: str, **fields: Any) -> None:
        """Send a message."""
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def hear(self, *types: str, audio_bytes: int = 0) -> dict[str, Any]:
        """Take frames in until a message of these types came and so much audio; return the message."""
        found: dict[str, Any] = {}
        async with asyncio.timeout(LIMIT_S):
            while not (found or not types) or len(self.audio) < audio_bytes:
                frame = await self.socket.recv()
                if isinstance(frame, bytes):
                    self.audio += frame
                    continue
                message = json.loads(frame)
                self.messages.append(message)
                if message["type"] in types:
                    found = message
        return found

    async def greet(self, **fields: Any) -> dict[str, Any]:
        """Take the config and be ready; return the config."""
        config = await self.hear("config")
        ready = {
            "session_id": "session-1",
            "resume_token": "token-1",
            "provider": "fake",
            "model": "fake-model",
            "resumed": False,
            "seq": 0,
            "audio_received_s": 0.0,
            "final_s": 0.0,
            **fields,
        }
        await self.say("ready", **{**ready, "limits": LIMITS | ready.get("limits", {})})
        return config

    async def end(self, reason: str = "end_of_stream", *, code: int = 1000, **fields: Any) -> None:
        """Say that the session ended, and close."""
        heard_s = len(self.audio) / 32_000
        totals = {"audio_received_s": heard_s, "audio_processed_s": heard_s}
        await self.say("session_ended", reason=reason, **{"totals": totals, **fields})
        await self.socket.close(code)

    def count(self, type: str) -> int:
        """How many messages of this type came."""
        return sum(message["type"] == type for message in self.messages)


Script = Callable[[Visit], Awaitable[None]]


class FakeServer:
    """What it got: one visit for each connection."""

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self.visits: list[Visit] = []
        self.port = 0
        self.failures: list[BaseException] = []
        self._scripts = scripts

    @property
    def url(self) -> str:
        """Its door."""
        return f"ws://127.0.0.1:{self.port}/ws/transcribe"

    async def handle(self, socket: ServerConnection) -> None:
        """Follow the script for this connection; the last one is for all that come after."""
        visit = Visit(socket)
        self.visits.append(visit)
        script = self._scripts[min(len(self.visits), len(self._scripts)) - 1]
        try:
            await script(visit)
        except ConnectionClosed:
            pass  # the plugin may leave whenever it likes
        except (Exception, pytest.fail.Exception) as failure:
            self.failures.append(failure)


@contextlib.asynccontextmanager
async def fake_server(*scripts: Script) -> AsyncIterator[FakeServer]:
    """Serve these scripts, one for each connection in turn."""
    server = FakeServer(scripts)
    async with serve(server.handle, "127.0.0.1", 0, compression=None) as listening:
        server.port = next(iter(listening.sockets)).getsockname()[1]
        yield server
    assert not server.failures, server.failures
