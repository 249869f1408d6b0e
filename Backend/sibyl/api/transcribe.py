"""Speech to text over a WebSocket: the socket's reader and writer, and the two native doors.

A reader is always in ``receive``: while nobody reads, uvicorn sees neither pongs nor closes, and would end a healthy
client. The writer waits for messages and closes the socket behind the last one. Whoever ends first ends the other.
"""

import asyncio
import json
import logging
from collections.abc import Mapping

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketDisconnected

from sibyl.api.connection import cut
from sibyl.api.context import Context
from sibyl.api.errors import error_response
from sibyl.api.origins import ForeignOrigin, is_foreign
from sibyl.speech.line import Line
from sibyl.wire.speech import query_fields

logger = logging.getLogger(__name__)

router = APIRouter()

WRITE_S = 10.0  # a client that takes nothing for so long is cut off; it may resume
SOCKETS = 1000  # most open speech connections of a process


@router.websocket("/ws/transcribe")
async def transcribe(socket: WebSocket) -> None:
    """Audio in, text out; the first message is the config."""
    await converse(socket, {})


@router.websocket("/api/speech-to-text/stream")
async def stream(socket: WebSocket) -> None:
    """The same; the config stands in the query, or comes first if that is empty."""
    await converse(socket, query_fields(socket.query_params))


async def converse(socket: WebSocket, fields: Mapping[str, object]) -> None:
    """Accept the connection and serve one session on it, until either side ends."""
    context = _context(socket)
    if is_foreign(socket.headers):
        error = ForeignOrigin()
        await socket.send_denial_response(error_response(error.status, error.code, error.message))
        return
    if context.sockets >= SOCKETS or context.sessions.draining:
        headers = {"Retry-After": "2"}
        refusal = error_response(503, "overloaded", "This node takes no further speech connections now.", headers)
        await socket.send_denial_response(refusal)
        return
    context.sockets += 1
    try:
        await socket.accept()
        line = Line(context.sessions, context.sessions.open())
        if fields:
            line.configure(dict(fields))
        await serve(socket, line)
    except (WebSocketDisconnect, OSError):
        pass  # before it was accepted
    finally:
        context.sockets -= 1


async def serve(socket: WebSocket, line: Line) -> None:
    """Carry frames and messages between an accepted socket and a line until one of them ends. Raises nothing."""
    code = 1006
    reading = asyncio.create_task(_read(socket, line), name="speech reader")
    writing = asyncio.create_task(_write(socket, line), name="speech writer")
    try:
        await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done() and not reading.cancelled() and reading.exception() is None:
            code = reading.result()
    finally:
        for task in (reading, writing):
            task.cancel()
        outcomes = await asyncio.gather(reading, writing, return_exceptions=True)
        line.ended(code)
        for outcome in outcomes:
            match outcome:
                case TimeoutError():
                    cut(socket.scope)
                case WebSocketDisconnect() | WebSocketDisconnected():
                    pass
                case Exception():
                    logger.error("Speech connection failed", extra={"action": "speech_failed"}, exc_info=outcome)


async def _read(socket: WebSocket, line: Line) -> int:
    """Hand all frames to the line; return the code of the client's close."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return int(message.get("code") or 1005)
        if (text := message.get("text")) is not None:
            line.text(text)
        elif (data := message.get("bytes")) is not None:
            line.binary(data)
        await asyncio.sleep(0)  # one packet may hold thousands of frames; others have their turn between them


async def _write(socket: WebSocket, line: Line) -> None:
    """Write all messages of the line, then close the socket."""
    while (message := await line.message()) is not None:
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        async with asyncio.timeout(WRITE_S):
            await socket.send_text(text)
    code, reason = line.closing
    async with asyncio.timeout(WRITE_S):
        await socket.close(code, reason)


def _context(socket: WebSocket) -> Context:
    found = socket.app.state.context
    assert isinstance(found, Context)
    return found
