"""Speech over a real server and a network that breaks: every word is told once and in order, or it says why not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from urllib.parse import urlsplit

import pytest

from sibyl.client import listening as listening_module
from sibyl.client.errors import CannotConnect, Refused, UnexpectedReply
from sibyl.client.listener import SpeechWish, Told
from sibyl.client.listening import Listening
from sibyl.client.reconnect import Pause
from sibyl.core.errors import InvalidRequest, RecogniserBusy, RecogniserFailed
from tests.serving import RunningApi, run_api, wait_until
from tests.speech.hearing import blocks
from tests.topology import Servers

SILENCE = (0, 0, 0, 0)
FAIL = -1
WISH = SpeechWish()


@pytest.fixture(scope="module")
def hearing_api(redis_servers: Servers) -> Iterator[RunningApi]:
    """An API that hears scripted words, forgets a cut session after a moment, and takes no great backlog."""
    patience = {"speech_grace_s": 0.5, "speech_backlog_s": 12.0, "speech_sessions": 4}
    with run_api(redis_servers.url, speech_provider="scripted", **patience) as api:
        yield api


@pytest.fixture
def api(hearing_api: RunningApi) -> Iterator[RunningApi]:
    """The API, which forgets every session before the next test."""
    yield hearing_api
    assert wait_until(lambda: not len(hearing_api.context.sessions), limit_s=5)


class Network:
    """A proxy before a server, whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.refuses = False
        self.frozen = False
        self.cut_each_bytes: int | None = None  # towards the server; then the connection ends
        self.url = ""

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        if self.refuses:
            writer.transport.abort()
            return
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        ends = (writer, upstream_writer)
        self._writers.update(ends)
        pumps = [
            asyncio.create_task(self._pump(reader, upstream_writer, self.cut_each_bytes)),
            asyncio.create_task(self._pump(upstream_reader, writer, None)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
        passed = 0
        while data := await reader.read(4096):
            if self.frozen:
                continue
            passed += len(data)
            if most is not None and passed > most:
                writer.write(data[: len(data) // 2])  # in the middle of a frame
                return
            writer.write(data)

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, api: RunningApi) -> AsyncIterator["Network"]:
        """A network before this API."""
        network = cls(api.port)
        serving: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.add(asyncio.create_task(network.serve(reader, writer)))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        network.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield network
        finally:
            server.close()
            network.cut()
            await asyncio.gather(*serving, return_exceptions=True)


async def source(values: Sequence[int], *, pace_s: float = 0.0) -> AsyncIterator[bytes]:
    """Blocks of the scripted recogniser, in pieces that are no whole blocks."""
    audio = blocks(*values)
    for at in range(0, len(audio), 3001):
        await asyncio.sleep(pace_s)
        yield audio[at : at + 3001]


class Heard:
    """What a listening told."""

    def __init__(self) -> None:
        self.messages: list[Told] = []
        self.pauses: list[Pause] = []
        self.news, self.cut = asyncio.Event(), asyncio.Event()

    def told(self, told: Told) -> None:
        """Take a message."""
        self.messages.append(told)
        self.news.set()

    def listening(self, url: str, pieces: AsyncIterator[bytes], **options: object) -> Listening:
        """Listen."""
        patience = {"retry_s": 0.0, "give_up_s": 20.0}
        return Listening(
            pieces,
            WISH,
            url,
            on_told=self.told,
            on_pause=self.paused,
            **(patience | options),  # type: ignore[arg-type]
        )

    @property
    def words(self) -> list[str]:
        """All words of finals."""
        return " ".join(told.text for told in self.messages if told.type == "final").split()

    def count(self, kind: str) -> int:
        """Messages of this type."""
        return sum(told.type == kind for told in self.messages)

    def paused(self, pause: Pause) -> None:
        """Take a cut."""
        self.pauses.append(pause)
        self.cut.set()

    async def until_cut(self) -> None:
        """Wait for a cut."""
        async with asyncio.timeout(10):
            await self.cut.wait()

    async def until(self, kind: str) -> None:
        """Wait for a message of this type."""
        async with asyncio.timeout(10):
            while not self.count(kind):
                self.news.clear()
                await self.news.wait()


def said(values: Sequence[int]) -> list[str]:
    """The words of these blocks."""
    return [f"w{value}" for value in values if value > 0]


SPEECH = [*range(1, 60), *SILENCE, *range(60, 90), *SILENCE, *range(90, 200), *SILENCE]


async def test_a_recording_is_told_utterance_by_utterance_as_fast_as_it_is_heard(api: RunningApi) -> None:
    """Twenty seconds, more than the server lets wait; nothing is too fast for it, and nothing is garbled."""
    heard = Heard()

    await heard.listening(api.url, source(SPEECH)).run()

    assert heard.words == said(SPEECH)
    assert heard.count("final") == 3
    assert (heard.count("error"), heard.count("session_ended"), heard.pauses) == (0, 1, [])


async def test_no_byte_is_lost_or_doubled_when_every_connection_breaks(api: RunningApi) -> None:
    """Each after so many bytes, in the middle of a frame; one session goes on over all of them (003-7)."""
    heard = Heard()
    async with Network.before(api) as network:
        network.cut_each_bytes = 90_000

        await heard.listening(network.url, source(SPEECH)).run()

        assert network.connections > 5
    assert heard.words == said(SPEECH)
    assert {told.message["resumed"] for told in heard.messages if told.type == "ready"} == {False, True}


async def test_another_session_gets_what_a_forgotten_one_had_not_told(api: RunningApi) -> None:
    """The network is away for longer than the server remembers; the clock of the words goes on."""
    heard = Heard()
    async with Network.before(api) as network:
        listening = heard.listening(network.url, source(SPEECH, pace_s=0.004))
        running = asyncio.create_task(listening.run())
        await heard.until("final")
        network.refuses = True
        network.cut()
        await asyncio.to_thread(wait_until, lambda: not len(api.context.sessions))  # its grace is over
        network.refuses = False
        await running

    assert heard.words == said(SPEECH)
    assert [told.message["resumed"] for told in heard.messages if told.type == "ready"] == [False, False]
    starts = [told.seconds("start") for told in heard.messages if told.type == "final"]
    assert starts == [pytest.approx(SPEECH.index(first) / 10) for first in (1, 60, 90)]
    assert listening.lost_s == 0


async def test_a_server_that_takes_and_says_nothing_is_left(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open connection answers no ping."""
    monkeypatch.setattr(listening_module, "PING_S", 0.5)
    heard = Heard()
    async with Network.before(api) as network:
        running = asyncio.create_task(heard.listening(network.url, source(SPEECH, pace_s=0.002)).run())
        await heard.until("final")
        network.frozen = True
        await heard.until_cut()
        network.frozen = False
        await running

    assert heard.words == said(SPEECH)


async def test_a_speech_is_longer_than_a_session(redis_servers: Servers) -> None:
    """The server ends each after a moment; the next one takes the rest: together they heard every sample, once."""
    heard = Heard()
    with run_api(redis_servers.url, speech_provider="scripted", speech_session_s=0.4) as api:
        await heard.listening(api.url, source(SPEECH, pace_s=0.006), read_ahead_s=60.0).run()

    totals = [told.message["totals"] for told in heard.messages if told.type == "session_ended"]
    samples = [round(float(total["audio_processed_s"]) * 16_000) for total in totals if isinstance(total, dict)]
    assert len(samples) > 2
    assert sum(samples) == len(SPEECH) * 1600


async def test_what_breaks_the_source_comes_out_after_what_it_gave(api: RunningApi) -> None:
    """A file that is damaged in the middle."""

    async def damaged() -> AsyncIterator[bytes]:
        yield blocks(1, 2, 3)
        raise ValueError("damaged")

    heard = Heard()

    with pytest.raises(ValueError, match="damaged"):
        await heard.listening(api.url, damaged()).run()
    assert heard.words == ["w1", "w2", "w3"]


async def test_what_the_listener_raises_ends_it(api: RunningApi) -> None:
    """A pipe whose reader left is no fault of the network, and nothing is tried again."""

    def leave(told: Told) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await Listening(source(SPEECH), WISH, api.url, on_told=leave).run()


async def test_a_live_source_is_stopped_and_the_rest_is_told(api: RunningApi) -> None:
    """It would go on for ever."""

    async def live() -> AsyncIterator[bytes]:
        yield blocks(1, 2, 3)
        await asyncio.Event().wait()

    heard = Heard()
    listening = heard.listening(api.url, live())
    running = asyncio.create_task(listening.run())
    await heard.until("partial")
    listening.stop()
    await running

    assert heard.words == ["w1", "w2", "w3"]


async def test_a_recording_that_is_stopped_leaves_out_what_was_not_sent(api: RunningApi) -> None:
    """But not half of it: what was sent is told."""
    heard = Heard()
    listening = heard.listening(api.url, source(range(1, 2000)))
    running = asyncio.create_task(listening.run())
    await heard.until("partial")
    listening.stop(drop_unsent=True)
    await running

    assert 0 < len(heard.words) < 1000
    # The last one may be a part of a block.
    assert heard.words == said(range(1, 2000))[: len(heard.words)]


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(api: RunningApi) -> None:
    """No task, no connection."""
    heard = Heard()
    tasks = asyncio.all_tasks()
    running = asyncio.create_task(heard.listening(api.url, source(range(1, 2000))).run())
    await heard.until("partial")

    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
    assert asyncio.all_tasks() == tasks


async def test_what_the_recogniser_cannot_do_is_said(api: RunningApi) -> None:
    """It fails; it is asked for what it does not know; it is busy."""
    with pytest.raises(RecogniserFailed):
        await Heard().listening(api.url, source([1, FAIL])).run()
    with pytest.raises(Refused, match="language"):
        await Listening(
            source([1]), SpeechWish(language="?"), api.url, on_told=lambda told: None, retry_s=0, give_up_s=0
        ).run()


async def test_a_server_that_hears_enough_people_is_tried_again(api: RunningApi) -> None:
    """As long as there is patience; then it says so."""
    others = [Heard() for _ in range(4)]

    async def silence() -> AsyncIterator[bytes]:
        yield blocks(1)
        await asyncio.Event().wait()

    listenings = [other.listening(api.url, silence()) for other in others]
    running = [asyncio.create_task(listening.run()) for listening in listenings]
    for other in others:
        await other.until("ready")
    with pytest.raises(RecogniserBusy):
        await Heard().listening(api.url, source([1])).run()
    for listening in listenings:
        listening.stop()
    await asyncio.gather(*running)


async def test_a_server_that_is_not_there_is_said_with_its_address() -> None:
    """Refused, no WebSocket, no server of ours, no address at all."""

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    with pytest.raises(CannotConnect, match=r"http://127\.0\.0\.1:1: Connection refused"):
        await Heard().listening("http://user:secret@127.0.0.1:1", source([1])).run()
    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnexpectedReply, match="404"):
            await Heard().listening(f"http://127.0.0.1:{port}", source([1])).run()
    with pytest.raises(InvalidRequest):
        Heard().listening("127.0.0.1", source([1]))


async def test_a_server_below_a_path_is_reached(api: RunningApi) -> None:
    """A reverse proxy may put it there."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n"))
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CannotConnect):
            await Heard().listening(f"http://127.0.0.1:{port}/oracle/", source([1])).run()

    assert urlsplit(asked[0].split()[1].decode()).path == "/oracle/ws/transcribe"
