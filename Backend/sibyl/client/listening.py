"""Speech to text over the server's WebSocket: the protocol is in `listener`; here it gets sockets and a clock.

The one file that knows the WebSocket library, and the door of its errors.
"""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from sibyl import __version__
from sibyl.client.blocking_client import DEFAULT_URL
from sibyl.client.errors import CannotConnect, reply_error
from sibyl.client.listener import Listener, SpeechWish, Told
from sibyl.client.reconnect import Pause
from sibyl.client.transport import CONNECT_S, Server
from sibyl.core.errors import SibylError

PING_S = 10.0  # a server that answers no ping for so long is gone, although its connection stands
READ_AHEAD_S = 2.0
MESSAGE_BYTES = 1 << 20


class _Refused(Exception):
    """Whoever is told raised its cause; it must not be taken for a fault of the network, which it may look like."""


class Listening:
    """What is said in one source of audio, told as it is heard."""

    def __init__(
        self,
        source: AsyncIterator[bytes],
        wish: SpeechWish,
        url: str = DEFAULT_URL,
        *,
        on_told: Callable[[Told], None],
        on_pause: Callable[[Pause], None] | None = None,
        retry_s: float | None = 30.0,
        give_up_s: float | None = 60.0,
        read_ahead_s: float = READ_AHEAD_S,
    ) -> None:
        """Connect when `run` is called.

        Args:
            source: audio as ``wish`` describes it, in pieces of any length.
            on_told: gets each message of the server once and in order; a replay after a cut is not told again. What it
                raises ends `run`.
            on_pause: is told when there is no connection for the moment.
            retry_s: how long to try for the first session; 0 tries once, None is for ever.
            give_up_s: how long nothing may be heard from the server later. What is kept reaches back a minute.
            read_ahead_s: audio that is taken from the source and not yet sent. A live source that nobody reads loses
                audio: give it a minute.

        Raises:
            InvalidRequest: the URL cannot be used.
        """
        self._source = source
        self._server = Server.parse(url)
        self._on_told, self._on_pause = on_told, on_pause
        self._read_ahead_s = read_ahead_s
        self._listener = Listener(wish, retry_s=retry_s, give_up_s=give_up_s)
        self._room, self._work = asyncio.Event(), asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._unreadable: BaseException | None = None

    @property
    def processed_s(self) -> float:
        """Audio that was heard."""
        return self._listener.processed_s

    @property
    def lost_s(self) -> float:
        """Audio that nobody heard, since the server was away for too long."""
        return self._listener.lost_s

    async def run(self) -> None:
        """Return when all was told.

        Raises:
            CannotConnect: the server is out of reach, and stayed so.
            RecogniserUnavailable, RecogniserBusy, VendorRefused, RecogniserFailed: it cannot hear.
            Refused, ServerFailed, UnexpectedReply: as for every call.
            Exception: what the source raised, after all that it gave was told.

        Cancelling it leaves the session to the server, which throws it away after a moment.
        """
        self._reading = asyncio.create_task(self._read())
        try:
            while not self._listener.over:
                pause = await self._connection()
                if pause is not None:
                    await asyncio.sleep(pause.wait_s)
        finally:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._unreadable is not None:
            raise self._unreadable

    def stop(self, *, drop_unsent: bool = False) -> None:
        """Take no more audio; `run` returns when the rest was told.

        Args:
            drop_unsent: what was read from the source and not yet sent is left out as well.
        """
        if self._reading is not None:
            self._reading.cancel()
        self._listener.end(drop_unsent=drop_unsent)
        self._work.set()

    async def _read(self) -> None:
        try:
            async for audio in self._source:
                self._listener.put(audio)
                self._work.set()
                while self._listener.unsent_s > self._read_ahead_s:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            self._unreadable = error
        self._listener.end()
        self._work.set()

    async def _connection(self) -> Pause | None:
        """Use one connection. None: all was told."""
        error: SibylError | None = None
        try:
            async with self._connect() as socket:
                await socket.send(self._listener.config())
                await self._converse(socket)
                if self._listener.over:
                    return None
        except _Refused as refusal:
            assert refusal.__cause__ is not None
            raise refusal.__cause__ from None
        except InvalidStatus as refused:
            reply = refused.response
            headers = {name.lower(): value for name, value in reply.headers.raw_items()}
            error = reply_error(reply.status_code, headers, bytes(reply.body or b""))
        except (OSError, TimeoutError, WebSocketException) as fault:
            error = self._cannot_connect(fault)
        pause = self._listener.cut(time.monotonic(), error)
        if self._on_pause is not None:
            self._on_pause(pause)
        return pause

    def _connect(self) -> connect:
        url = self._server.url
        scheme = {"http": "ws", "https": "wss"}[url.scheme]
        return connect(
            str(url.copy_with(scheme=scheme, path=url.path.rstrip("/") + "/ws/transcribe", query=None)),
            user_agent_header=f"sibyl/{__version__}",
            compression=None,  # audio does not shrink
            proxy=True if self._server.options["trust_env"] else None,
            open_timeout=CONNECT_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=1.0,
            max_size=MESSAGE_BYTES,
        )

    async def _converse(self, socket: ClientConnection) -> None:
        sending = asyncio.create_task(self._send(socket))
        try:
            async for text in socket:
                told = self._listener.receive(text)
                if told is not None:
                    self._tell(told)
                self._room.set()
                self._work.set()
                if self._listener.over:
                    return
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    def _tell(self, told: Told) -> None:
        try:
            self._on_told(told)
        except Exception as error:
            raise _Refused from error

    async def _send(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # who receives learns of it too
            while True:
                self._work.clear()
                frame = self._listener.take(time.monotonic())
                if frame is not None:
                    await socket.send(frame)
                    self._room.set()
                    continue
                # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the event.
                until = self._listener.quiet_until
                wait_s = None if until == math.inf else until - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._work.wait()

    def _cannot_connect(self, fault: Exception) -> CannotConnect:
        place = self._server.url.copy_with(username=None, password=None)
        match fault:
            case ConnectionClosed():
                reason = "the connection broke"
            case TimeoutError():
                reason = f"nobody answered within {CONNECT_S:g} s"
            case OSError():
                reason = os.strerror(fault.errno) if fault.errno else "the connection broke"
            case InvalidHandshake():
                reason = "who answers there speaks no WebSocket"
            case _:
                reason = str(fault).rstrip(".")
        return CannotConnect(f"No connection to {place}: {reason}. Does `sibyl serve` run there?")
