"""A Deepgram on loopback: what its streaming API does, and every way in which it may misbehave.

It hears as the scripted recogniser does: audio is cut into blocks of 100 ms; a block of zeros is silence, one whose
samples are all v is the word ``w<v>``, any other the word ``garbled``. Around that it does what Deepgram's pages say:
interim results, a final at each pause (``speech_final``) and at least every ``segment_s``, UtteranceEnd a second after
the last word, ``from_finalize`` only if something was buffered, the rest and a summary after CloseStream, 1011 after
``idle_s`` without audio or KeepAlive. It lives on the loop of the test and keeps every byte of every connection.
"""

import array
import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

BLOCK_S = 0.1
KEY = "a-key"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one connection is like."""

    refuse: int | None = None  #: HTTP status instead of an upgrade
    words: str = ""  #: the header dg-error then
    fault: str | None = None  #: see ``_Line._misbehave``
    after_s: float = 0.0  #: of audio on this connection until the fault
    at_end: bool = False  #: the fault comes with CloseStream instead
    odd: bool = False  #: strange messages between the good ones
    finalizes: bool = True  #: whether Finalize has any effect
    tells_end: bool = True  #: whether speech_final and UtteranceEnd are told
    interim: bool = True
    summaries: bool = False  #: a Metadata with everything that is told
    closes: bool = True  #: the connection, behind the summary
    idle_s: float = 10.0
    segment_s: float = 2.0


@dataclass(slots=True)
class Connection:
    """What came over one connection."""

    query: dict[str, str]
    headers: dict[str, str]
    audio: bytearray = field(default_factory=bytearray)
    binary_frames: int = 0
    empty_frames: int = 0
    controls: list[str] = field(default_factory=list)
    told: list[Json] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeDeepgram:
    """The vendor. Its connections follow the scripts, one after the other; the last one is for all that come after."""

    def __init__(self, *scripts: Script) -> None:
        self.connections: list[Connection] = []
        self.upgrades = 0
        self._news = asyncio.Event()
        self._scripts: Sequence[Script] = scripts or (Script(),)
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that taking nothing is felt soon
        listening.bind(("127.0.0.1", 0))
        self._server = await serve(self._serve, sock=listening, process_request=self._look, close_timeout=0.2)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close(close_connections=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it is."""
        assert self._server is not None
        return f"http://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def until(self, look: Callable[[], bool]) -> None:
        """Wait until ``look`` finds what it looks for in what came here."""
        while not look():
            self._news.clear()
            await self._news.wait()

    @property
    def _script(self) -> Script:
        return self._scripts[min(self.upgrades, len(self._scripts)) - 1]

    def _look(self, connection: ServerConnection, request: Request) -> Response | None:
        accepted = request.headers.get("Authorization") == f"Token {KEY}"
        if urlsplit(request.path).path == "/v1/projects":
            status = HTTPStatus.OK if accepted else HTTPStatus.UNAUTHORIZED
            return connection.respond(status, json.dumps({"projects": []}))
        self.upgrades += 1
        self._news.set()
        refuse, words = (self._script.refuse, self._script.words) if accepted else (401, "Invalid credentials.")
        if refuse is None:
            return None
        response = connection.respond(HTTPStatus(refuse), words)
        response.headers["dg-error"] = words
        response.headers["dg-request-id"] = f"request-{self.upgrades}"
        return response

    async def _serve(self, line: ServerConnection) -> None:
        assert line.request is not None
        query = {name: values[-1] for name, values in parse_qs(urlsplit(line.request.path).query).items()}
        connection = Connection(query=query, headers=dict(line.request.headers.raw_items()))
        script = self._script
        self.connections.append(connection)
        try:
            await _Line(line, connection, script, self._news).run()
        except ConnectionClosed:
            pass
        finally:
            connection.closed.set()


class _Line:
    """One connection."""

    def __init__(self, socket: ServerConnection, connection: Connection, script: Script, news: asyncio.Event) -> None:
        self._news = news
        self._socket = socket
        self._connection = connection
        self._script = script
        self._rate_hz = int(connection.query["sample_rate"])
        self._ear = _Ear(self._rate_hz, int(connection.query["endpointing"]) / 1000, script)
        self._mute = False
        self._misbehaved = False

    async def run(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self._socket.recv(), self._script.idle_s)
            except TimeoutError:
                await self._socket.close(1011, "NET-0001")
                return
            if isinstance(message, str):
                await self._control(json.loads(message)["type"])
            elif message:
                await self._hear(message)
            else:
                self._connection.empty_frames += 1
                await self._socket.close(1011, "DATA-0000")

    async def _hear(self, pcm: bytes) -> None:
        self._connection.binary_frames += 1
        self._connection.audio += pcm
        await self._tell(self._ear.hear(pcm))
        heard_s = len(self._connection.audio) / 2 / self._rate_hz
        if not self._script.at_end and heard_s >= self._script.after_s:
            await self._misbehave()

    async def _control(self, kind: str) -> None:
        self._connection.controls.append(kind)
        self._news.set()
        if kind == "Finalize" and self._script.finalizes:
            await self._tell(self._ear.finalize())
        elif kind == "CloseStream":
            if self._script.at_end:
                await self._misbehave()
            if not self._mute:
                await self._tell([*self._ear.finish(), self._summary()])
                if self._script.closes:
                    await self._socket.close(1000)

    async def _tell(self, messages: list[Json]) -> None:
        if self._mute:
            return
        if self._script.odd:
            await self._tell_odd_things()
        if self._script.summaries:
            messages = [*messages, self._summary()]
        for message in messages:
            self._connection.told.append(message)
            await self._socket.send(json.dumps(message))

    async def _tell_odd_things(self) -> None:
        odd_things: list[Json] = [
            {"type": "NewInVersion9", "channel": {"alternatives": [{"transcript": "not for you"}]}},
            {"type": "Results"},
            {"type": "Results", "is_final": True, "start": 0, "duration": 1},
            {"type": "Results", "start": None, "duration": "long", "channel": {"alternatives": []}},
            {"type": "UtteranceEnd"},
            {"type": "SpeechStarted", "channel": [0]},
            {"no": "type"},
        ]
        for odd in odd_things:
            await self._socket.send(json.dumps(odd))
        await self._socket.send(b"\x00\x01")

    async def _misbehave(self) -> None:
        if self._script.fault is None or self._misbehaved:
            return
        self._misbehaved = True
        match self._script.fault:
            case "1011":
                await self._socket.close(1011, "NET-0000")
            case "1000":
                await self._socket.close(1000)
            case "abort":
                self._socket.transport.abort()
            case "garbage":  # no JSON; the connection stays open
                await self._socket.send("{never closed")
                for _ in range(64):  # which nobody reads: more than the SDK's side takes in
                    await self._socket.send(json.dumps({"type": "UtteranceEnd"}))
            case "stall":  # reads nothing any more
                self._socket.transport.pause_reading()
                await self._socket.wait_closed()
            case "mute":  # reads, and answers nothing any more
                self._mute = True
            case "error":
                error = {"type": "Error", "variant": "X", "description": "Y", "code": "NET-0002"}
                await self._socket.send(json.dumps(error))
                await self._socket.close(1011, "NET-0002")

    def _summary(self) -> Json:
        return {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": "request",
            "sha256": "0" * 64,
            "created": "2026-01-01T00:00:00Z",
            "duration": len(self._connection.audio) / 2 / self._rate_hz,
            "channels": 1,
        }


class _Ear:
    """From bytes to Deepgram's messages. Pure."""

    def __init__(self, rate_hz: int, endpointing_s: float, script: Script) -> None:
        self._rate_hz = rate_hz
        self._endpointing_s = endpointing_s
        self._script = script
        self._block = 2 * round(rate_hz * BLOCK_S)
        self._rest = b""
        self._read = 0
        self._final_s = 0.0
        self._words: list[Json] = []  # since the last final
        self._open = False  # a SpeechStarted without speech_final
        self._word_end_s: float | None = None  # of the last word, until its UtteranceEnd is told

    @property
    def _at_s(self) -> float:
        return self._read / 2 / self._rate_hz

    def hear(self, pcm: bytes) -> list[Json]:
        whole = self._rest + pcm
        end = len(whole) - len(whole) % self._block
        self._rest = whole[end:]
        told = [told for at in range(0, end, self._block) for told in self._take(whole[at : at + self._block])]
        if self._script.interim and self._at_s > self._final_s:
            told.append(self._results(final=False))
        return told

    def finalize(self) -> list[Json]:
        return [self._results(final=True, from_finalize=True)] if self._at_s > self._final_s else []

    def finish(self) -> list[Json]:
        told = self._take(self._rest) if self._rest else []
        return [*told, self._results(final=True)] if self._at_s > self._final_s else told

    def _take(self, block: bytes) -> list[Json]:
        values = set(array.array("h", block))
        value = values.pop() if len(values) == 1 else None
        start_s = self._at_s
        self._read += len(block)
        told: list[Json] = []
        if value != 0:
            if not self._open:
                self._open = True
                told.append({"type": "SpeechStarted", "channel": [0], "timestamp": start_s})
            text = "garbled" if value is None else f"w{value}"
            self._words.append(
                {
                    "word": text,
                    "start": start_s,
                    "end": self._at_s,
                    "confidence": 0.9,
                    "punctuated_word": f"{text.capitalize()}.",
                }
            )
            self._word_end_s = self._at_s
        silent_s = self._at_s - (self._word_end_s or 0.0)
        if value == 0 and self._open and self._word_end_s is not None and silent_s >= self._endpointing_s - 1e-6:
            self._open = False
            told.append(self._results(final=True, speech_final=self._script.tells_end))
        elif self._at_s - self._final_s >= self._script.segment_s - 1e-6:
            told.append(self._results(final=True))
        if self._word_end_s is not None and not self._words and silent_s >= 1.0 - 1e-6:
            if self._script.tells_end:
                told.append({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": self._word_end_s})
            self._word_end_s = None
        return told

    def _results(self, *, final: bool, speech_final: bool = False, from_finalize: bool = False) -> Json:
        start_s, words = self._final_s, list(self._words)
        if final:
            self._final_s = self._at_s
            self._words.clear()
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "start": start_s,
            "duration": self._at_s - start_s,
            "is_final": final,
            "speech_final": speech_final,
            "from_finalize": from_finalize,
            "channel": {
                "alternatives": [
                    {
                        "transcript": " ".join(str(word["punctuated_word"]) for word in words),
                        "confidence": 0.9 if words else 0.0,
                        "words": words,
                    }
                ]
            },
            "metadata": {"request_id": "request", "model_uuid": "uuid", "model_info": {}},
        }
