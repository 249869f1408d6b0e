"""The vendor's own SDK, sync and async, unmodified, as a client of our ``/v1/listen``; and what others may do."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.serving import LoopThread, RunningApi, run_api, wait_until
from tests.speech.fake_deepgram import KEY, FakeDeepgram, Script
from tests.speech.hearing import block, blocks
from tests.topology import Servers

# What the SDK itself imports and calls, and nothing else.
pytestmark = [
    pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:websockets.exceptions.InvalidStatusCode is deprecated:DeprecationWarning"),
]

QUERY = "/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000"
LIMIT_S = 10.0


@pytest.fixture(scope="module")
def hearing_api(redis_servers: Servers) -> Iterator[RunningApi]:
    """An API with the scripted recogniser; the native doors would take no file at once."""
    with run_api(
        redis_servers.url, speech_provider="scripted", speech_sessions=3, speech_idle_s=1.0, speech_backlog_s=3.0
    ) as api:
        yield api


@pytest.fixture
def api(hearing_api: RunningApi) -> Iterator[RunningApi]:
    """The API, which must be left as it was: no session, no thread that hears, no socket."""
    yield hearing_api
    context = hearing_api.context
    assert wait_until(lambda: not context.sessions.hearing and not context.sockets)
    assert wait_until(lambda: not len(context.sessions))


def environment(api: RunningApi) -> Any:
    """Return where the SDK finds our server."""
    from deepgram.environment import DeepgramClientEnvironment

    sockets = api.url.replace("http", "ws", 1)
    return DeepgramClientEnvironment(base=api.url, production=sockets, agent=sockets, agent_rest=api.url)


def wishes(**more: Any) -> dict[str, Any]:
    """Return the arguments of the SDK's ``connect`` that want to see all."""
    return {
        "model": "nova-3",
        "encoding": "linear16",
        "sample_rate": 16_000,
        "interim_results": True,
        "vad_events": True,
        "utterance_end_ms": 1000,
        "smart_format": True,
        "punctuate": True,
    } | more


def transcripts(messages: list[Any]) -> list[str]:
    """Return the texts of all finals that have one."""
    finals = [message for message in messages if message.type == "Results" and message.is_final]
    return [text for message in finals if (text := message.channel.alternatives[0].transcript)]


class Listening:
    """The SDK's sync client, with its listener in a thread."""

    def __init__(self, connection: Any) -> None:
        from deepgram.core.events import EventType

        self.connection = connection
        self.messages: list[Any] = []
        self.errors: list[Any] = []
        self.opened = threading.Event()
        connection.on(EventType.OPEN, lambda _: self.opened.set())
        connection.on(EventType.MESSAGE, self.messages.append)
        connection.on(EventType.ERROR, self.errors.append)
        self._thread = threading.Thread(target=connection.start_listening)
        self._thread.start()

    def until(self, kind: str, count: int = 1, **fields: Any) -> Any:
        """Wait for the message of this type and with these fields, and return it."""

        def found() -> list[Any]:
            return [
                message
                for message in self.messages
                if message.type == kind and all(getattr(message, name) == value for name, value in fields.items())
            ]

        assert wait_until(lambda: len(found()) >= count), self.messages
        return found()[count - 1]

    def rest(self) -> None:
        """Wait until the server has closed."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@contextmanager
def sdk(api: RunningApi, **more: Any) -> Iterator[Listening]:
    """Connect as the SDK's pages say."""
    from deepgram import DeepgramClient

    client = DeepgramClient(api_key="any-key", environment=environment(api))
    with client.listen.v1.connect(**wishes(**more)) as connection:
        listening = Listening(connection)
        yield listening
        listening.rest()


def test_the_sdk_hears_speech_while_it_is_said(api: RunningApi) -> None:
    """Open, media, interim, final with ``speech_final``, UtteranceEnd, CloseStream, Metadata, close (001-2)."""
    said = blocks(1, 2, 0, 0, 0, 3)
    with sdk(api) as listening:
        assert listening.opened.wait(LIMIT_S)
        listening.connection.send_media(said[: len(blocks(1))])
        listening.until("SpeechStarted", timestamp=0.0)
        assert listening.until("Results", is_final=False).channel.alternatives[0].transcript == "w1"
        listening.connection.send_media(said[len(blocks(1)) :])
        final = listening.until("Results", is_final=True, speech_final=True)
        assert listening.until("UtteranceEnd").last_word_end == pytest.approx(0.2)
        listening.connection.send_close_stream()
        listening.rest()

    alternative = final.channel.alternatives[0]
    assert alternative.transcript == "w1 w2"
    assert [(word.word, word.start, word.end) for word in alternative.words] == [("w1", 0.0, 0.1), ("w2", 0.1, 0.2)]
    assert transcripts(listening.messages) == ["w1 w2", "w3"]
    assert all(message is not None for message in listening.messages)  # the SDK knows every type
    summary = listening.messages[-1]
    assert summary.type == "Metadata"
    assert summary.duration == pytest.approx(0.6)
    assert summary.sha256 == hashlib.sha256(said).hexdigest()
    assert summary.request_id == final.metadata.request_id
    assert listening.errors == []  # a close with 1000


def test_finalize_is_answered_and_the_session_goes_on(api: RunningApi) -> None:
    """With ``from_finalize``, also where nothing was left to tell."""
    with sdk(api) as listening:
        listening.connection.send_media(blocks(1, 2))
        listening.connection.send_finalize()
        final = listening.until("Results", from_finalize=True)
        assert final.channel.alternatives[0].transcript == "w1 w2"
        listening.connection.send_finalize()
        listening.until("Results", 2, from_finalize=True)
        listening.connection.send_media(blocks(3))
        listening.connection.send_close_stream()

    assert transcripts(listening.messages) == ["w1 w2", "w3"]


def test_keep_alive_keeps_it(api: RunningApi) -> None:
    """Beyond the limit for silence, which strikes without it."""
    with sdk(api) as listening:
        pause = threading.Event()
        for _ in range(8):
            listening.connection.send_keep_alive()
            pause.wait(0.2)
        listening.connection.send_media(blocks(1))
        listening.connection.send_close_stream()
    assert transcripts(listening.messages) == ["w1"]
    assert listening.errors == []

    with sdk(api) as silent:
        silent.connection.send_media(blocks(2))
    assert transcripts(silent.messages) == ["w2"]
    (closed,) = silent.errors
    assert (closed.rcvd.code, closed.rcvd.reason) == (1011, "NET-0001")
    assert [message.variant for message in silent.messages if message.type == "Error"] == ["idle_timeout"]


def test_configure_has_an_answer(api: RunningApi) -> None:
    """There are no keyterms here, and the client is told so."""
    from deepgram.listen.v1.types import ListenV1Configure

    with sdk(api) as listening:
        listening.connection.send_configure(ListenV1Configure(keyterms=["Sibyl"]))
        assert listening.until("ConfigureFailure").code == "CONFIGURE_KEYTERMS_NOT_SUPPORTED"
        listening.connection.send_configure(ListenV1Configure(features={"punctuate": True}))
        listening.until("ConfigureSuccess")
        listening.connection.send_close_stream()


def test_a_file_may_come_at_full_speed(api: RunningApi) -> None:
    """Its client knows no acks: a minute and a half in one go, in frames of any length, of which nothing is lost."""
    said = [1 + place % 800 if place % 10 < 7 else 0 for place in range(900)]
    audio = b"".join(map(block, said))
    with sdk(api, interim_results=False) as listening:
        for at in range(0, len(audio), 300_001):  # an odd length
            listening.connection.send_media(audio[at : at + 300_001])
        listening.connection.send_close_stream()

    assert " ".join(transcripts(listening.messages)) == " ".join(f"w{value}" for value in said if value)
    assert listening.messages[-1].duration == pytest.approx(90.0)
    assert not any(message.type == "Results" and not message.is_final for message in listening.messages)


def test_the_async_sdk_works_unmodified(api: RunningApi) -> None:
    """The same conversation on a loop."""
    from deepgram import AsyncDeepgramClient
    from deepgram.core.events import EventType

    messages: list[Any] = []
    errors: list[Any] = []

    async def converse() -> None:
        client = AsyncDeepgramClient(api_key="any-key", environment=environment(api))
        async with client.listen.v1.connect(**wishes()) as connection:
            finalized = asyncio.Event()

            def on_message(message: Any) -> None:
                messages.append(message)
                if message.type == "Results" and message.from_finalize:
                    finalized.set()

            connection.on(EventType.MESSAGE, on_message)
            connection.on(EventType.ERROR, errors.append)
            listening = asyncio.create_task(connection.start_listening())
            await connection.send_media(blocks(1, 2))
            await connection.send_keep_alive()
            await connection.send_finalize()
            await asyncio.wait_for(finalized.wait(), LIMIT_S)
            await connection.send_media(blocks(3))
            await connection.send_close_stream()
            await asyncio.wait_for(listening, LIMIT_S)

    asyncio.run(converse())

    assert transcripts(messages) == ["w1 w2", "w3"]
    assert messages[-1].type == "Metadata"
    assert any(message.type == "Results" and not message.is_final for message in messages)
    assert errors == []


def test_the_sdk_is_told_why_it_is_refused(api: RunningApi) -> None:
    """An encoding that is not decoded here: 400 with the reason, where the SDK's users look for it."""
    with pytest.raises(InvalidStatus) as caught, sdk(api, encoding="opus"):
        pass
    response = caught.value.response
    assert response.status_code == 400
    assert "linear16" in response.headers["dg-error"]
    assert response.headers["dg-request-id"]
    assert json.loads(response.body or b"")["err_msg"] == response.headers["dg-error"]


# Other clients -------------------------------------------------------------------------------------------------------


@contextmanager
def plain(api: RunningApi, more: str = "", **options: Any) -> Iterator[ClientConnection]:
    """Connect without the SDK."""
    with connect(api.url.replace("http", "ws", 1) + QUERY + more, compression=None, proxy=None, **options) as socket:
        yield socket


def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """Return all messages until the close, which must come."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(LIMIT_S)))
    except ConnectionClosed:
        return messages


@pytest.mark.parametrize(
    "more", ["&channels=2", "&language=12", "&sample_rate=1", "&redact=pci", "&endpointing=soon", "&encoding=mulaw"]
)
def test_a_query_that_cannot_be_served_fails_the_upgrade(api: RunningApi, more: str) -> None:
    """400, with the reason in a header, and no session."""
    with pytest.raises(InvalidStatus) as caught, plain(api, more):
        pass
    assert caught.value.response.status_code == 400
    assert caught.value.response.headers["dg-error"]


def test_too_many_sessions_fail_the_upgrade(api: RunningApi) -> None:
    """429, as Deepgram says it, and whoever is heard already goes on."""
    with plain(api) as first, plain(api) as second, plain(api) as third:
        with pytest.raises(InvalidStatus) as caught, plain(api):
            pass
        assert caught.value.response.status_code == 429
        assert caught.value.response.headers["dg-error"]
        for socket in (first, second, third):
            socket.send(blocks(1))
            socket.send('{"type": "CloseStream"}')
            assert rest(socket)[-1]["type"] == "Metadata"


def test_a_browser_gives_its_key_as_a_subprotocol(api: RunningApi) -> None:
    """It cannot set a header, and breaks the connection off if it gets no subprotocol back. Keys are not looked at."""
    with plain(api, subprotocols=["token", "any-key"], origin=api.url) as socket:
        assert socket.subprotocol == "token"
        assert socket.response is not None
        assert socket.response.headers["dg-request-id"]
        socket.send('{"type": "CloseStream"}')
        assert rest(socket)[-1]["type"] == "Metadata"


def test_a_page_of_another_site_may_not_listen(api: RunningApi) -> None:
    """As at the native doors."""
    with pytest.raises(InvalidStatus) as caught, plain(api, origin="https://example.org"):
        pass
    assert caught.value.response.status_code == 403


def test_what_is_no_message_is_answered_and_forgiven(api: RunningApi) -> None:
    """An Error message; too many of them close with Deepgram's code. Unknown types and empty frames are passed over."""
    with plain(api) as socket:
        socket.send("no JSON")
        assert json.loads(socket.recv(LIMIT_S))["type"] == "Error"
        socket.send('{"type": "New"}')
        socket.send(b"")
        socket.send(blocks(1))
        socket.send('{"type": "CloseStream"}')
        assert [message["type"] for message in rest(socket)] == ["Results", "Metadata"]
    with plain(api) as socket:
        for _ in range(30):
            socket.send("[]")
        rest(socket)
        assert (socket.close_code, socket.close_reason) == (1008, "DATA-0000")


def test_a_recogniser_that_fails_closes_with_deepgrams_code(api: RunningApi) -> None:
    """An Error message without its words, then 1011."""
    with plain(api) as socket:
        socket.send(blocks(1, -1))
        messages = rest(socket)
        assert (socket.close_code, socket.close_reason) == (1011, "NET-0000")
    assert [message["variant"] for message in messages if message["type"] == "Error"] == ["internal"]


def test_a_client_that_is_gone_leaves_nothing(api: RunningApi) -> None:
    """Without a word, in the middle of speech, also while the recogniser is stuck: it cannot come back, so all ends."""
    with plain(api) as socket:
        socket.send(blocks(1, -3))
        assert wait_until(lambda: api.context.sessions.hearing == 1)
        socket.socket.close()
        assert wait_until(lambda: not len(api.context.sessions))


def test_the_sdk_is_heard_by_the_vendor_through_us(redis_servers: Servers) -> None:
    """The SDK as a client of ours and as what hears for us: nothing is lost on the way, nor with a connection."""
    thread = LoopThread("vendor")
    vendor = FakeDeepgram(Script(fault="abort", after_s=1.0), Script())
    thread.call(vendor.__aenter__())
    try:
        settings = {"deepgram_api_key": KEY, "deepgram_url": vendor.url}
        with run_api(redis_servers.url, speech_provider="deepgram", **settings) as api, sdk(api) as listening:
            listening.connection.send_media(blocks(1, 2, 3, 0, 0, 0, 0, 4, 5, 0, 0, 0, 0, 6))
            listening.connection.send_close_stream()
            listening.rest()
    finally:
        thread.call(vendor.__aexit__(None, None, None))
        thread.close()

    assert vendor.upgrades == 2
    assert " ".join(transcripts(listening.messages)) == "W1. W2. W3. W4. W5. W6."
    assert listening.messages[-1].duration == pytest.approx(1.4)
    assert listening.errors == []


def test_deepgram_hears_for_its_own_dialect_only_where_it_was_chosen(
    redis_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key, and nothing else said, what comes in here is heard on this machine: a session could call itself."""
    with run_api(redis_servers.url, speech_provider="auto", deepgram_api_key="k") as api:
        asked: list[str | None] = []

        def recogniser(name: str | None = None) -> Any:
            asked.append(name)
            raise LookupError

        monkeypatch.setattr(api.context.sessions._catalogue, "recogniser", recogniser)
        with plain(api) as socket:
            rest(socket)
    assert asked == ["pocketsphinx"]
