"""The Deepgram recogniser, with the vendor's real SDK, against a vendor on loopback that misbehaves in every known way.

"1.3" in a docstring names the table of such ways; "000-1" and the like name requirements.
"""

import array
import asyncio
import contextlib
import logging
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge
from sibyl.core.errors import (
    InvalidRequest,
    RecogniserBusy,
    RecogniserFailed,
    RecogniserUnavailable,
    SibylError,
    VendorRefused,
)
from sibyl.speech.deepgram.hearing import Patience
from sibyl.speech.deepgram.link import Link, open_client
from sibyl.speech.deepgram.recogniser import DeepgramRecogniser
from sibyl.speech.hearing import Final, Flushed, Heard, Listening, Partial, Processed, SpeechStarted, UtteranceEnd, Word
from sibyl.speech.inlet import END, AudioInlet, Flush, Taken
from sibyl.speech.recogniser import RecognitionRequest
from tests.speech.fake_deepgram import KEY, FakeDeepgram, Script

# What the SDK itself imports, and nothing else; without this it could not be loaded where warnings are errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:websockets.exceptions.InvalidStatusCode is deprecated:DeprecationWarning"),
]

RATE_HZ = 16_000
BRISK = Patience(
    keep_alive_s=0.1,
    flush_s=0.3,
    send_s=0.5,
    silence_s=0.5,
    summary_s=0.2,
    kept_s=60.0,
    pause_s=0.01,
    outage_s=5.0,
)


def pcm(*values: int, rate_hz: int = RATE_HZ) -> bytes:
    """Return 100 ms of audio for each value: a word, or silence."""
    return b"".join(array.array("h", [value] * (rate_hz // 10)).tobytes() for value in values)


def text_of(heard: Sequence[Heard]) -> str:
    """Return all that was told in finals, in lower case and without points."""
    return " ".join(item.text for item in heard if isinstance(item, Final)).lower().replace(".", "")


def words(first: int, last: int) -> str:
    """Return the text of these words."""
    return " ".join(f"w{value}" for value in range(first, last + 1))


def noise(length_s: float) -> bytes:
    """Return audio of 48 kHz that cannot be compressed, so that it fills the buffers on its way."""
    return random.Random(5).randbytes(round(length_s * 48_000) * 2)


class CountingInlet(AudioInlet):
    """An inlet that knows how much was taken out of it."""

    taken = 0

    def take(self, timeout_s: float | None = None, *, most_bytes: int = 64 * 1024) -> Taken | None:
        """Take, and count."""
        item = super().take(timeout_s, most_bytes=most_bytes)
        self.taken += len(item) if isinstance(item, bytes) else 0
        return item

    async def stuck(self) -> None:
        """Wait until nothing is taken for a third of a second, although there is something."""
        before = -1
        while before != self.taken or not self.taken:
            before = self.taken
            await asyncio.sleep(0.3)


class Listener:
    """One recognition under way in a thread of a bridge, and what it brought."""

    def __init__(
        self, bridge: Bridge, recogniser: DeepgramRecogniser, *, sample_rate_hz: int = RATE_HZ, **wishes: Any
    ) -> None:
        self.abort = Abort()
        self.audio = CountingInlet(self.abort)
        self.heard: list[Heard] = []
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.threads: set[str] = set()
        self._came = asyncio.Condition()
        request = RecognitionRequest(sample_rate_hz=sample_rate_hz, abort=self.abort, **wishes)

        def produce(emit: Any) -> None:
            def on_heard(item: Heard) -> None:
                self.threads.add(threading.current_thread().name)
                emit(item)

            recogniser.recognise(request, self.audio, on_heard)

        self.run = asyncio.create_task(bridge.run(produce, self._take, self.abort))

    async def _take(self, batch: list[Heard]) -> None:
        self.loops.add(asyncio.get_running_loop())
        async with self._came:
            self.heard += batch
            self._came.notify_all()

    async def until(self, kind: type[Heard], count: int = 1) -> None:
        """Wait until so many of a kind were heard, or the recognition ended with an error."""
        async with self._came:
            waiting = asyncio.ensure_future(
                self._came.wait_for(lambda: sum(isinstance(item, kind) for item in self.heard) >= count)
            )
            await asyncio.wait({waiting, self.run}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                await self.run

    def say(self, *values: int, rate_hz: int = RATE_HZ) -> None:
        """Hand in words, one piece each."""
        for value in values:
            self.audio.put(pcm(value, rate_hz=rate_hz))

    async def finish(self) -> list[Heard]:
        """End the audio and return all that was heard."""
        self.audio.put(END)
        await self.run
        return self.heard


@pytest.fixture(autouse=True)
async def no_thread_is_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Fail a test that leaves a thread: ours, or one of the SDK's connections."""
    before = set(threading.enumerate())
    yield
    give_up = time.monotonic() + 5
    while left := [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]:
        assert time.monotonic() < give_up, left
        left[0].join(0.05)


@pytest.fixture
async def bridge(no_thread_is_left: None) -> AsyncIterator[Bridge]:
    """Two threads beside the loop."""
    bridge = Bridge(threads=2)
    yield bridge
    bridge.close()


def at(vendor: FakeDeepgram, patience: Patience = BRISK, api_key: str = KEY) -> DeepgramRecogniser:
    """Return the recogniser of a vendor."""
    return DeepgramRecogniser(api_key=api_key, url=vendor.url, patience=patience)


# What it hears -------------------------------------------------------------------------------------------------------


async def test_speech_is_heard_in_order_and_to_its_end(bridge: Bridge) -> None:
    """Start, partials, finals, end, then the length of all audio; by the SDK's current API alone (000-6, 001-2)."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(0, 1, 2, 3, 0, 0, 0, 0, 0, 4)
        heard = await listener.finish()

    assert isinstance(heard[0], Listening)
    assert heard[0].model == "nova-3"
    assert text_of(heard) == words(1, 4)
    kinds = [type(item) for item in heard if not isinstance(item, Processed | Partial)]
    assert kinds == [Listening, SpeechStarted, Final, UtteranceEnd, SpeechStarted, Final, UtteranceEnd]
    assert any(isinstance(item, Partial) for item in heard)
    assert heard[-1] == Processed(audio_s=1.0)
    assert bytes(vendor.connections[0].audio) == pcm(0, 1, 2, 3, 0, 0, 0, 0, 0, 4)
    assert vendor.connections[0].controls == ["CloseStream"]


async def test_a_final_has_times_words_and_confidence(bridge: Bridge) -> None:
    """Words come with punctuation, times on the clock of the audio, and the vendor's confidence."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(0, 7, 8, 0, 0, 0, 0)
        heard = await listener.finish()

    (final,) = [item for item in heard if isinstance(item, Final)]
    assert final.text == "W7. W8."
    assert (final.start_s, final.end_s, final.confidence) == pytest.approx((0.1, 0.3, 0.9))
    assert final.words == (
        Word(text="W7.", start_s=0.1, end_s=0.2, confidence=0.9),
        Word(text="W8.", start_s=0.2, end_s=0.3, confidence=0.9),
    )


async def test_the_wishes_of_a_session_reach_the_vendor(bridge: Bridge) -> None:
    """Language, rate and endpointing stand in the query; the key in the header; each session has an id."""
    async with FakeDeepgram() as vendor:
        asked = Listener(bridge, at(vendor), language="de", sample_rate_hz=8000, endpointing_s=0.5)
        await asked.finish()
        usual = Listener(bridge, at(vendor))
        await usual.finish()

    query = vendor.connections[0].query
    assert (query["language"], query["sample_rate"], query["endpointing"]) == ("de", "8000", "500")
    assert (query["model"], query["encoding"], query["channels"]) == ("nova-3", "linear16", "1")
    assert (query["interim_results"], query["vad_events"], query["utterance_end_ms"]) == ("true", "true", "1000")
    assert vendor.connections[1].query["endpointing"] == "300"
    assert vendor.connections[0].headers["Authorization"] == f"Token {KEY}"
    ids = [connection.headers["x-deepgram-session-id"] for connection in vendor.connections]
    assert ids[0] != ids[1]


async def test_partials_and_words_are_left_out_where_they_are_not_wanted(bridge: Bridge) -> None:
    """A session without interim gets finals alone."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor), interim=False, words=False)
        listener.say(1, 2, 0, 0, 0, 0)
        heard = await listener.finish()

    assert not any(isinstance(item, Partial) for item in heard)
    assert [item.words for item in heard if isinstance(item, Final)] == [()]


async def test_an_utterance_ends_once(bridge: Bridge) -> None:
    """``speech_final`` ends it; the UtteranceEnd that comes a second later does not end it again, or the next one."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, *[0] * 12, 2, *[0] * 12)
        heard = await listener.finish()

    told = [message["type"] for message in vendor.connections[0].told]
    assert told.count("UtteranceEnd") == 2
    ends = [item.last_word_end_s for item in heard if isinstance(item, UtteranceEnd)]
    assert ends == pytest.approx([0.1, 1.4])


async def test_an_utterance_ends_where_the_vendor_does_not_say_so(bridge: Bridge) -> None:
    """A second of silence behind the last word ends it."""
    async with FakeDeepgram(Script(tells_end=False, segment_s=0.5)) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, *[0] * 15)
        await listener.until(UtteranceEnd)
        listener.say(2)
        heard = await listener.finish()

    assert text_of(heard) == words(1, 2)
    assert len([item for item in heard if isinstance(item, UtteranceEnd)]) == 2


async def test_nothing_said_is_heard_as_nothing(bridge: Bridge) -> None:
    """An empty session ends, too."""
    async with FakeDeepgram() as vendor:
        heard = await Listener(bridge, at(vendor)).finish()

    assert heard == [Listening(model="nova-3"), Processed(audio_s=0.0)]


# Threads and loops ---------------------------------------------------------------------------------------------------


async def test_what_callbacks_tell_crosses_to_the_loop(bridge: Bridge) -> None:
    """The SDK's callbacks run in a thread; no asyncio call is made there but the bridge's (000-1, 000-9)."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 0, 0, 0, 0)
        await listener.finish()

    assert listener.loops == {asyncio.get_running_loop()}
    assert "deepgram" in listener.threads


async def test_two_loops_share_a_recogniser(bridge: Bridge) -> None:
    """Nothing of it belongs to a loop: sessions of two loops at the same time do not touch each other (001-1)."""
    async with FakeDeepgram() as vendor:
        recogniser = at(vendor)
        told: dict[int, str] = {}

        async def session(number: int) -> None:
            own = Bridge(threads=1)
            listener = Listener(own, recogniser)
            listener.say(number, 0, 0, 0, 0)
            told[number] = text_of(await listener.finish())
            assert listener.loops == {asyncio.get_running_loop()}
            own.close()

        runs = [lambda emit, number=number: asyncio.run(session(number)) for number in (1, 2)]
        await asyncio.gather(*(bridge.run(run, _nothing, Abort()) for run in runs))

    assert told == {1: "w1", 2: "w2"}


async def test_a_loop_that_cannot_take_ends_the_recognition(bridge: Bridge) -> None:
    """What the delivery raises comes out of ``recognise``; the SDK's listener does not die of it (000-2, 1.3)."""
    abort = Abort()
    audio = AudioInlet(abort)

    class Full(Exception):
        pass

    async def deliver(batch: list[Heard]) -> None:
        if any(isinstance(item, Final) for item in batch):
            raise Full

    async with FakeDeepgram() as vendor:
        recogniser = at(vendor)
        request = RecognitionRequest(sample_rate_hz=RATE_HZ, abort=abort)
        audio.put(pcm(1, 0, 0, 0, 0, 2))
        run = asyncio.create_task(bridge.run(lambda emit: recogniser.recognise(request, audio, emit), deliver, abort))
        while not run.done():  # the thread hears of it when it emits the next time
            audio.put(pcm(3))
            await asyncio.sleep(0.01)
        with pytest.raises(Full):
            await run
        await asyncio.wait_for(vendor.connections[0].closed.wait(), 5)


async def test_an_error_in_a_callback_does_not_end_the_listening(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged by its kind, without what was said, and the next message comes (000-2, 1.3)."""
    taken: list[str] = []

    def on_message(message: object) -> None:
        taken.append(str(getattr(message, "type", None)))
        raise ValueError("a secret was said")

    def converse(url: str) -> None:
        query = {"model": "m", "encoding": "linear16", "sample_rate": RATE_HZ, "endpointing": 300}
        with httpx.Client() as http:
            client = open_client(api_key=KEY, url=url, http=http)
        link = Link(client, query, on_message=on_message, on_end=lambda: None, send_s=1)
        link.listen()
        link.send_audio(pcm(1, 0, 0, 0, 0))
        link.finish()
        assert link.ended.wait(5)
        assert link.fault is None
        link.close()

    async with FakeDeepgram() as vendor:
        await bridge.run(lambda emit: converse(vendor.url), _nothing, Abort())

    assert taken[-1] == "Metadata"
    assert taken.count("Results") >= 2
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == len(taken)
    assert "secret" not in caplog.text


async def test_a_connection_is_left_only_when_its_last_message_was_taken(bridge: Bridge) -> None:
    """What an old connection still tells cannot come between what the next one tells."""
    taking, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def on_message(message: object) -> None:
        taking.set()
        go_on.wait(5)
        order.append("taken")

    def converse(url: str) -> None:
        query = {"model": "m", "encoding": "linear16", "sample_rate": RATE_HZ, "endpointing": 300}
        with httpx.Client() as http:
            client = open_client(api_key=KEY, url=url, http=http)
        link = Link(client, query, on_message=on_message, on_end=lambda: None, send_s=1)
        link.listen()
        link.send_audio(pcm(0))
        assert taking.wait(5)
        threading.Timer(0.2, go_on.set).start()
        link.close()
        order.append("closed")

    async with FakeDeepgram() as vendor:
        await bridge.run(lambda emit: converse(vendor.url), _nothing, Abort())
    assert order == ["taken", "closed"]


# Misbehaviour --------------------------------------------------------------------------------------------------------


async def test_messages_that_cannot_be_read_change_nothing(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown types (None to the callback), missing fields and binary messages are counted and skipped (1.3)."""
    async with FakeDeepgram(Script(odd=True)) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 2, 0, 0, 0, 0)
        heard = await listener.finish()

    assert text_of(heard) == words(1, 2)
    assert vendor.upgrades == 1
    (counted,) = [record for record in caplog.records if getattr(record, "action", "") == "deepgram_ignored"]
    assert counted.messages >= 8  # type: ignore[attr-defined]
    assert "not for you" not in caplog.text


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.9, 1.3, 2.1])
@pytest.mark.parametrize("fault", ["1011", "1000", "abort", "garbage", "error"])
async def test_a_lost_connection_costs_no_final_and_repeats_none(bridge: Bridge, fault: str, after_s: float) -> None:
    """Closes 1011 and 1000, a broken connection, text that is no JSON: all is heard, once, on one clock (1.3)."""
    async with FakeDeepgram(Script(fault=fault, after_s=after_s, segment_s=0.7), Script()) as vendor:
        listener = Listener(bridge, at(vendor))
        audio = [1, 2, 3, 0, 0, 0, 0, 0, 4, 5, 6, 7, 0, 0, 0, 0, 0, 8, 9, 0, 0, 0, 10]
        listener.say(*audio)
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert vendor.upgrades == 2
    assert text_of(heard) == words(1, 10)
    first, second = (bytes(connection.audio) for connection in vendor.connections)
    whole = pcm(*audio)
    assert whole.startswith(first)
    assert whole.endswith(second)
    assert len(first) + len(second) >= len(whole)
    said = [word for item in heard if isinstance(item, Final) for word in item.words]
    assert [word.start_s for word in said] == pytest.approx(
        [place / 10 for place, value in enumerate(audio) if value], abs=1e-6
    )
    assert heard[-1] == Processed(audio_s=len(audio) / 10)
    processed = [item.audio_s for item in heard if isinstance(item, Processed)]
    assert processed == sorted(processed)
    assert sum(isinstance(item, Listening) for item in heard) == 1


@pytest.mark.parametrize("fault", ["1011", "1000", "abort", "garbage", "mute"])
async def test_a_connection_that_is_lost_at_the_end_costs_nothing(bridge: Bridge, fault: str) -> None:
    """The same after CloseStream, also when no answer comes at all: the end is waited for with a limit (1.3)."""
    async with FakeDeepgram(Script(fault=fault, at_end=True), Script()) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 2, 0, 0, 0, 0, 3)
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert vendor.upgrades == 2
    assert text_of(heard) == words(1, 3)
    assert bytes(vendor.connections[1].audio) == pcm(0, 3)


@pytest.mark.parametrize("fault", ["1011", "1000", "abort", "mute"])
async def test_a_summary_in_between_is_not_the_end(bridge: Bridge, fault: str) -> None:
    """Deepgram may send Metadata at any time; only the one behind all finals ends a session."""
    async with FakeDeepgram(Script(fault=fault, at_end=True, summaries=True), Script(summaries=True)) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 2, 0, 0, 0, 0, 3, 4)
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert vendor.upgrades == 2
    assert text_of(heard) == words(1, 4)


async def test_what_a_vendor_never_tells_in_a_final_is_told_as_it_was_last_seen(bridge: Bridge) -> None:
    """Two good ends without the last final: then the last partial is all there will be."""
    async with FakeDeepgram(Script(fault="1000", at_end=True, summaries=True)) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 2, 0, 0, 0, 0, 3, 4)
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert vendor.upgrades == 2
    assert text_of(heard) == words(1, 4)


async def test_a_vendor_that_does_not_close_is_not_waited_for(bridge: Bridge) -> None:
    """The summary behind all finals is enough."""
    patience = Patience(silence_s=60, summary_s=0.1)
    async with FakeDeepgram(Script(closes=False)) as vendor:
        listener = Listener(bridge, at(vendor, patience))
        listener.say(1)
        heard = await asyncio.wait_for(listener.finish(), 5)

    assert text_of(heard) == "w1"


async def test_a_peer_that_takes_nothing_blocks_nobody_for_long(bridge: Bridge) -> None:
    """A send that blocks is broken off, and all is sent again to a peer that listens (1.3)."""
    audio = noise(60)
    patience = Patience(send_s=0.3, silence_s=30, pause_s=0.01, kept_s=600)
    async with FakeDeepgram(Script(fault="stall"), Script(interim=False)) as vendor:
        listener = Listener(bridge, at(vendor, patience), sample_rate_hz=48_000)
        listener.audio.put(audio)
        heard = await asyncio.wait_for(listener.finish(), 20)

    assert [len(connection.audio) < len(audio) for connection in vendor.connections] == [True, False]
    assert bytes(vendor.connections[1].audio) == audio
    assert heard[-1] == Processed(audio_s=60.0)


async def test_a_peer_that_answers_nothing_is_left(bridge: Bridge) -> None:
    """With all that may be kept, sending waits; without progress another connection is made. Nothing is thrown away."""
    patience = Patience(kept_s=1.0, silence_s=0.2, pause_s=0.01)
    async with FakeDeepgram(Script(fault="mute", after_s=0.5), Script()) as vendor:
        listener = Listener(bridge, at(vendor, patience))
        listener.say(*range(1, 31))
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert vendor.upgrades == 2
    assert text_of(heard) == words(1, 30)
    assert len(vendor.connections[0].audio) <= len(pcm(*[1] * 15)) + 16 * 1024


async def test_a_vendor_that_puts_off_its_finals_is_asked_for_them(bridge: Bridge) -> None:
    """With all that may be kept, Finalize brings them, and sending goes on over the same connection."""
    patience = Patience(kept_s=1.0, silence_s=5.0)
    async with FakeDeepgram(Script(segment_s=600)) as vendor:
        listener = Listener(bridge, at(vendor, patience))
        listener.say(*range(1, 31))
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert vendor.upgrades == 1
    assert text_of(heard) == words(1, 30)
    assert vendor.connections[0].controls.count("Finalize") >= 2


async def test_silence_is_not_kept(bridge: Bridge) -> None:
    """A vendor that tells no finals of silence is neither asked for them nor left."""
    patience = Patience(kept_s=3.0, silence_s=5.0)
    async with FakeDeepgram(Script(segment_s=600)) as vendor:
        listener = Listener(bridge, at(vendor, patience))
        listener.say(*[0] * 100, 1, 2)
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert text_of(heard) == words(1, 2)
    assert vendor.connections[0].controls == ["CloseStream"]


async def test_a_vendor_that_is_always_lost_is_given_up(bridge: Bridge) -> None:
    """Three further tries without a final between them, then an error that says what to do."""
    async with FakeDeepgram(Script(fault="1011", after_s=0.1)) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1)
        with pytest.raises(RecogniserFailed, match="sibyl doctor"):
            await listener.run

    assert vendor.upgrades == 4


async def test_tries_are_counted_anew_after_each_final(bridge: Bridge) -> None:
    """A vendor that is lost every second is no reason to give up, as long as it gets on."""
    async with FakeDeepgram(*[Script(fault="abort", after_s=0.6, segment_s=0.3)] * 6, Script()) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(*range(1, 81))
        heard = await asyncio.wait_for(listener.finish(), 10)

    assert vendor.upgrades == 7
    assert text_of(heard) == words(1, 80)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, VendorRefused),
        (402, VendorRefused),
        (403, VendorRefused),
        (429, RecogniserBusy),
        (400, InvalidRequest),
        (404, RecogniserFailed),
        (503, RecogniserFailed),
    ],
)
async def test_a_refusal_is_told_by_its_kind(bridge: Bridge, status: int, error: type[SibylError]) -> None:
    """401, 429 and their like at the upgrade become errors of ours, without the key (1.3)."""
    async with FakeDeepgram(Script(refuse=status, words="Because of this.")) as vendor:
        listener = Listener(bridge, at(vendor))
        with pytest.raises(error) as caught:
            await listener.run

    assert type(caught.value) is error
    assert KEY not in caught.value.message
    assert str(status) in caught.value.message
    assert listener.heard == []
    assert vendor.upgrades == (4 if status == 503 else 1)  # only a fault of theirs is worth another try


async def test_a_refusal_for_haste_is_waited_out_when_it_comes_in_the_middle(bridge: Bridge) -> None:
    """A session that was heard already does not end of a 429 at a reconnect."""
    scripts = Script(fault="abort", after_s=0.1), Script(refuse=429), Script(refuse=503), Script()
    async with FakeDeepgram(*scripts) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 2)
        assert text_of(await listener.finish()) == words(1, 2)

    assert vendor.upgrades == 4


async def test_nobody_there_is_an_error_of_ours(bridge: Bridge) -> None:
    """A vendor that is out of reach is tried four times and told in one line."""
    async with FakeDeepgram() as vendor:
        recogniser = at(vendor)
    listener = Listener(bridge, recogniser)
    with pytest.raises(RecogniserFailed, match="out of reach"):
        await listener.run


# Silence, flushes, the end -------------------------------------------------------------------------------------------


async def test_silence_is_kept_alive(bridge: Bridge) -> None:
    """While no audio comes KeepAlive is sent, and the vendor's limit for silence does not strike."""
    async with FakeDeepgram(Script(idle_s=0.5)) as vendor:
        listener = Listener(bridge, at(vendor))
        await listener.until(Listening)
        began = time.monotonic()
        await vendor.until(lambda: vendor.connections[0].controls.count("KeepAlive") == 8)
        assert time.monotonic() - began > 0.5
        listener.say(1)
        assert text_of(await listener.finish()) == "w1"

    assert vendor.upgrades == 1


async def test_the_limit_for_silence_is_survived(bridge: Bridge) -> None:
    """If it strikes all the same (a process that stood still), the session goes on over another connection."""
    patience = Patience(keep_alive_s=60, pause_s=0.01)
    async with FakeDeepgram(Script(idle_s=0.1), Script()) as vendor:
        listener = Listener(bridge, at(vendor, patience))
        await listener.until(Listening)
        await vendor.until(lambda: vendor.upgrades == 2)
        listener.say(1)
        assert text_of(await listener.finish()) == "w1"


async def test_an_empty_piece_is_not_sent(bridge: Bridge) -> None:
    """Deepgram takes an empty binary frame for the end."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.audio.put(b"")
        listener.audio.put(Flush(1))  # else the inlet would join it with what comes next
        listener.say(1)
        heard = await listener.finish()

    assert text_of(heard) == "w1"
    assert vendor.connections[0].empty_frames == 0


async def test_a_flush_is_answered_behind_its_final(bridge: Bridge) -> None:
    """Finalize brings the final at once, and then the flush is told."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 2)
        listener.audio.put(Flush(7))
        await asyncio.wait_for(listener.until(Flushed), 5)
        told = [item for item in listener.heard if isinstance(item, Final | Flushed)]
        assert [type(item) for item in told] == [Final, Flushed]
        assert told[1] == Flushed(number=7)
        listener.audio.put(Flush(8))
        await asyncio.wait_for(listener.until(Flushed, 2), 5)
        await listener.finish()

    assert vendor.connections[0].controls == ["Finalize", "CloseStream"]  # the second one had nothing to ask for


async def test_a_flush_that_the_vendor_ignores_is_answered_in_time(bridge: Bridge) -> None:
    """Deepgram need not answer Finalize; the client's is answered."""
    async with FakeDeepgram(Script(finalizes=False)) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1)
        listener.audio.put(Flush(1))
        await asyncio.wait_for(listener.until(Flushed), 5)
        assert text_of(await listener.finish()) == "w1"


async def test_a_flush_survives_a_lost_connection(bridge: Bridge) -> None:
    """It is asked for again, behind the audio that is sent again."""
    scripts = Script(fault="abort", after_s=0.2, finalizes=False), Script()
    async with FakeDeepgram(*scripts) as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1, 2)
        listener.audio.put(Flush(1))
        await asyncio.wait_for(listener.until(Flushed), 5)
        assert text_of(listener.heard) == words(1, 2)
        await listener.finish()


# The abort -----------------------------------------------------------------------------------------------------------


class Enough(Exception):
    """Stop."""


async def test_an_abort_ends_a_session_that_waits_for_audio(bridge: Bridge) -> None:
    """Soon, with its reason, and the vendor sees the connection go."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1)
        await listener.until(Partial)
        listener.abort.request(Enough())
        with pytest.raises(Enough):
            await asyncio.wait_for(listener.run, 2)
        await asyncio.wait_for(vendor.connections[0].closed.wait(), 2)


async def test_an_abort_ends_a_session_that_waits_for_the_rest(bridge: Bridge) -> None:
    """Also while the vendor is silent after CloseStream."""
    patience = Patience(silence_s=60)
    async with FakeDeepgram(Script(fault="mute", at_end=True)) as vendor:
        listener = Listener(bridge, at(vendor, patience))
        listener.say(1)
        listener.audio.put(END)
        await vendor.until(lambda: any("CloseStream" in line.controls for line in vendor.connections))
        listener.abort.request(Enough())
        with pytest.raises(Enough):
            await asyncio.wait_for(listener.run, 2)


async def test_an_abort_ends_a_send_that_blocks(bridge: Bridge) -> None:
    """The socket is shut down under it."""
    patience = Patience(send_s=60, silence_s=60, kept_s=600)
    audio = noise(60)
    async with FakeDeepgram(Script(fault="stall")) as vendor:
        listener = Listener(bridge, at(vendor, patience), sample_rate_hz=48_000)
        listener.audio.put(audio)
        await listener.audio.stuck()
        assert listener.audio.taken < len(audio)
        assert not listener.run.done()
        listener.abort.request(Enough())
        with pytest.raises(Enough):
            await asyncio.wait_for(listener.run, 2)


async def test_an_abort_ends_the_rest_between_two_tries(bridge: Bridge) -> None:
    """A vendor that is away is not waited for any more."""
    patience = Patience(pause_s=60)
    async with FakeDeepgram(Script(refuse=503)) as vendor:
        listener = Listener(bridge, at(vendor, patience))
        await vendor.until(lambda: vendor.upgrades == 1)
        listener.abort.request(Enough())
        with pytest.raises(Enough):
            await asyncio.wait_for(listener.run, 2)


async def test_a_cancelled_session_leaves_nothing(bridge: Bridge) -> None:
    """The reason of the abort is a cancellation then, which is no Exception; the listener dies quietly all the same."""
    async with FakeDeepgram() as vendor:
        listener = Listener(bridge, at(vendor))
        listener.say(1)
        await listener.until(Partial)
        listener.run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listener.run
        await asyncio.wait_for(vendor.connections[0].closed.wait(), 2)


# What is missing -----------------------------------------------------------------------------------------------------


async def test_a_missing_sdk_says_how_to_get_it(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API starts without it; who asks for Deepgram is told."""
    monkeypatch.setitem(sys.modules, "deepgram", None)
    async with FakeDeepgram() as vendor:
        recogniser = at(vendor)
        with pytest.raises(RecogniserUnavailable, match="pip install"):
            await Listener(bridge, recogniser).run
        with pytest.raises(RecogniserUnavailable, match="pip install"):
            recogniser.check()


async def check(recogniser: DeepgramRecogniser) -> str:
    """Call ``check`` beside the loop, in a thread that is gone afterwards."""
    bridge = Bridge(threads=1)
    try:
        return await bridge.run(lambda emit: recogniser.check(), _nothing, Abort())
    finally:
        bridge.close()


async def _nothing(batch: list[None]) -> None:
    """Deliver nothing."""


async def test_the_check_tells_a_wrong_key_from_a_vendor_out_of_reach(bridge: Bridge) -> None:
    """ok, refused and unreachable are three answers."""
    async with FakeDeepgram() as vendor:
        assert "accepts the key" in await check(at(vendor))
        with pytest.raises(VendorRefused, match="401"):
            await check(at(vendor, api_key="another-key"))
        gone = at(vendor)
    with pytest.raises(RecogniserFailed, match="out of reach"):
        await check(gone)
