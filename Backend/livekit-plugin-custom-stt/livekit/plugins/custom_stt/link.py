"""One WebSocket connection: opened, read and written, and closed within a bound, also when nobody answers any more."""

import asyncio
import contextlib
import json
import socket

import aiohttp
from aiohttp import ClientWebSocketResponse, ClientWSTimeout, WSMsgType
from livekit.agents import APIStatusError, APITimeoutError, create_api_error_from_http

from .faults import closed, unreachable
from .log import logger
from .options import Options
from .wire import Message, read

CLOSE_S = 1.0
_CLOSES = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)


class Link:
    """A connection to the server."""

    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self._ws = ws
        self._socket = ws.get_extra_info("socket")  # a lost connection does not tell it any more

    @classmethod
    async def open(cls, http: aiohttp.ClientSession, options: Options, timeout_s: float) -> "Link":
        """Connect.

        Raises:
            APIStatusError: the server answered, but not with a WebSocket.
            APITimeoutError, APIConnectionError: it did not answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                ws = await http.ws_connect(
                    options.url,
                    headers=dict(options.headers),
                    heartbeat=options.heartbeat_s,
                    timeout=ClientWSTimeout(ws_close=CLOSE_S),
                )
        except TimeoutError as error:
            raise APITimeoutError(f"no connection to {options.url} within {timeout_s:g} s") from error
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(f"no connection to {options.url}") from error
        return cls(ws)

    async def say(self, message: dict[str, object]) -> None:
        """Send a message.

        Raises:
            ConnectionError, aiohttp.ClientError: the connection is gone; reading says why.
        """
        await self._ws.send_str(json.dumps(message))

    async def send(self, pcm: bytes) -> None:
        """Send audio; waits while the connection takes no more. Raises like ``say``."""
        await self._ws.send_bytes(pcm)

    async def hear(self, session_id: str) -> Message:
        """Return the server's next message. Frames that are none are left out.

        Raises:
            LinkLost: the connection is gone, or nobody is at its other end.
            APIError: it was closed with a code that says more.
        """
        while True:
            frame = await self._ws.receive()
            if frame.type is WSMsgType.TEXT:
                message = read(frame.data)
                if message is not None:
                    return message
                logger.warning("the server sent a text that is no message", extra={"action": "bad_message"})
            elif frame.type in _CLOSES:
                code, why = self._ws.close_code, str(frame.extra or "")
                logger.debug("closed", extra={"action": "closed", "code": code, "reason": why})
                raise closed(code, why, session_id)
            elif frame.type is WSMsgType.ERROR:
                self._abandon()
                raise closed(1006, str(self._ws.exception()), session_id)

    async def close(self, code: int) -> None:
        """Close it, within a bound. With 1000 the server forgets the session. Raises nothing; twice is once."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._ws.close(code=code)
        except (TimeoutError, OSError, aiohttp.ClientError):
            self._abandon()

    def _abandon(self) -> None:
        # Nobody answers. Without this the transport would wait for ever for what it still has to send to be taken.
        # Loops other than asyncio's may hand out a socket that is none (uvloop's has no shutdown and raises one of
        # these); then the transport's own close has to do.
        if self._socket is not None:
            with contextlib.suppress(OSError, TypeError, NotImplementedError, AttributeError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _refused(error: aiohttp.WSServerHandshakeError) -> APIStatusError:
    return create_api_error_from_http(error.message, status=error.status)
