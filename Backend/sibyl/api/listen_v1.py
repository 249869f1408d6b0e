"""``/v1/listen``: Deepgram's door to our speech sessions, for programs that were written for it.

The socket's reader and writer are those of the native doors; only the line between them and the session translates
(``wire/deepgram.py``). Deepgram's clients know neither acks nor resume: they send a file as fast as the network takes
it, so ten minutes may wait here, and a client that is cut off has lost its session. A key in the request is accepted
and not looked at: there are no accounts.
"""

from datetime import UTC, datetime
from secrets import token_hex

from fastapi import APIRouter, WebSocket
from starlette.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from sibyl.api.context import Context
from sibyl.api.origins import ForeignOrigin, is_foreign
from sibyl.api.transcribe import SOCKETS, serve
from sibyl.speech.hosted import HostedSession
from sibyl.speech.line import Line
from sibyl.speech.outbox import Message
from sibyl.speech.sessions import Sessions
from sibyl.wire.deepgram import Dialect, ListenRefused, read_query, refusal

router = APIRouter()

BACKLOG_S = 600.0
STATUS = {"bad_config": 400, "unsupported": 400, "overloaded": 429, "server_shutdown": 503}  # by the code of our error
EMBEDDED = "pocketsphinx"


class ListenLine(Line):
    """A line that speaks Deepgram's dialect to the socket."""

    def __init__(self, sessions: Sessions, hosted: HostedSession, dialect: Dialect) -> None:
        super().__init__(sessions, hosted)
        self._dialect = dialect
        self._waiting: list[Message] = []

    def text(self, text: str) -> None:
        """Take a text frame."""
        super().text(self._dialect.text(text))

    def binary(self, data: bytes) -> None:
        """Take a binary frame of any length."""
        for piece in self._dialect.audio(data):
            super().binary(piece)

    async def message(self) -> Message | None:
        """Return the next message to write, or None."""
        while not self._waiting:
            message = await super().message()
            if message is None:
                return None
            self._waiting = self._dialect.messages(message)
        return self._waiting.pop(0)

    @property
    def closing(self) -> tuple[int, str]:
        """Close code and reason."""
        return self._dialect.closing(*super().closing)


@router.websocket("/v1/listen")
async def listen(socket: WebSocket) -> None:
    """Audio in, Deepgram's messages out."""
    context = socket.app.state.context
    assert isinstance(context, Context)
    request_id = token_hex(16)
    if is_foreign(socket.headers):
        await _refuse(socket, 403, ForeignOrigin().message, request_id)
        return
    if context.sockets >= SOCKETS or context.sessions.draining:
        await _refuse(socket, 503, "This node takes no further speech connections now.", request_id)
        return
    try:
        wishes = read_query(socket.query_params)
    except ListenRefused as refused:
        await _refuse(socket, 400, str(refused), request_id)
        return
    dialect = Dialect(wishes, request_id=request_id, created=datetime.now(UTC).isoformat(timespec="milliseconds"))
    context.sockets += 1
    hosted = context.sessions.open(backlog_s=BACKLOG_S, resumable=False)
    line = ListenLine(context.sessions, hosted, dialect)
    try:
        line.configure(wishes.config | _provider(context))
        if hosted.session.closing is not None:
            error = hosted.session.outbox.take() or {}
            line.ended(1000)
            await _refuse(socket, STATUS.get(error["code"], 500), error["message"], request_id)
            return
        await socket.accept(_subprotocol(socket), [(b"dg-request-id", request_id.encode())])
        await serve(socket, line)
    except (WebSocketDisconnect, OSError):
        line.ended(1006)  # before it was accepted
    finally:
        context.sockets -= 1


def _provider(context: Context) -> dict[str, str]:
    """Return our provider for this door: the settings' own choice, but Deepgram only if it was chosen by name.

    Whoever points a program of Deepgram's at this server wants it heard here; and where our own Deepgram is this very
    server, a session would call itself.
    """
    chosen = context.settings.speech_provider
    return {"provider": EMBEDDED if chosen == "auto" else chosen}


def _subprotocol(socket: WebSocket) -> str | None:
    """Return what a browser's SDK must be answered, which sends ``token, KEY`` there, as it can set no header."""
    offered = socket.scope.get("subprotocols") or [None]
    return offered[0] if offered[0] in ("token", "bearer") else None


async def _refuse(socket: WebSocket, status: int, message: str, request_id: str) -> None:
    headers = {"dg-error": message, "dg-request-id": request_id}
    await socket.send_denial_response(JSONResponse(refusal(message, request_id), status, headers))
