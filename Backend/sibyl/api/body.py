"""Request bodies, read whole before anything else: bounded in size and time, JSON by their own word, UTF-8.

The paths of uploads are an exception: their routes read the body themselves, piece by piece (``upload``).
"""

import asyncio
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sibyl.api.errors import http_error

READ_S = 30.0  # a body that takes longer is given up


class BodyLimit:
    """Middleware that answers 400, 408, 413 and 415, and hands the application a body that is already there."""

    def __init__(self, app: ASGIApp, *, body_bytes: int, uploads: Collection[str] = ()) -> None:
        """Limit the bodies of all requests but of those to one of the paths ``uploads``."""
        self._app = app
        self._body_bytes = body_bytes
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, check, pass on."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self._app(scope, receive, send)
        if scope["path"] in self._uploads:
            return await self._app(scope, *_closing(receive, send))
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._body_bytes:
            return await self._refuse(scope, receive, send, self._too_large())
        body = bytearray()
        try:
            async with asyncio.timeout(READ_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > self._body_bytes:
                        return await self._refuse(scope, receive, send, self._too_large())
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            return await self._refuse(scope, receive, send, http_error(408))
        if body and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return await http_error(415)(scope, receive, send)
        if not _is_utf_8(body):
            return await http_error(400)(scope, receive, send)
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, receive_again, send)

    def _too_large(self) -> Response:
        return http_error(413, f"The body is larger than {self._body_bytes} bytes.")

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, response: Response) -> None:
        response.headers["Connection"] = "close"  # the rest of the body is not worth reading
        await response(scope, receive, send)


def _closing(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Have the connection closed behind an answer that came before the whole body was read."""
    whole = False

    async def receive_noted() -> Message:
        nonlocal whole
        message = await receive()
        whole = whole or not message.get("more_body")
        return message

    async def send_noted(message: Message) -> None:
        if message["type"] == "http.response.start" and not whole:
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return receive_noted, send_noted


def _is_utf_8(body: bytearray) -> bool:
    # The JSON parser would take UTF-16, UTF-32 and half letters, too. No JSON holds a NUL; UTF-16 and UTF-32 do.
    try:
        return "\0" not in body.decode("utf-8")
    except UnicodeDecodeError:
        return False
