"""Whole buffers: ``recognize`` sends all over a session of its own and returns one final."""

import pytest
from livekit.agents import APIConnectOptions, APIStatusError
from livekit.agents.metrics import STTMetrics
from livekit.agents.stt import SpeechEventType
from livekit.plugins import custom_stt

from tests.livekit.fake_server import Visit, fake_server
from tests.livekit.hearing import frame, frames, said
from tests.serving import RunningApi
from tests.speech.hearing import blocks


async def test_a_long_buffer_is_heard_to_its_end(api: RunningApi) -> None:
    """Longer than a server lets wait, and than a stream keeps: it goes as fast as it is heard."""
    speech = [0 if number % 20 == 0 else number for number in range(1, 901)]
    for number in range(20, 901, 20):  # 300 ms of silence end an utterance
        speech[number - 3 : number] = [0, 0, 0]
    metered: list[STTMetrics] = []
    async with custom_stt.STT(url=f"ws://127.0.0.1:{api.port}/ws/transcribe") as stt:
        stt.on("metrics_collected", metered.append)
        event = await stt.recognize(list(frames(*speech)))

    data = event.alternatives[0]
    assert event.type is SpeechEventType.FINAL_TRANSCRIPT
    assert data.text == said(speech)
    assert data.words is not None
    assert " ".join(data.words) == data.text
    assert (data.start_time, data.end_time) == pytest.approx((0.0, 89.7))
    assert (data.language, data.confidence) == ("en", 1.0)
    assert event.request_id != ""
    assert [each.audio_duration for each in metered] == [pytest.approx(90.0)]


async def test_a_buffer_of_another_rate_is_sent_as_it_is(api: RunningApi) -> None:
    """The server knows all rates from 8 to 48 kHz; here the words show that no sample was touched."""
    async with custom_stt.STT(url=f"ws://127.0.0.1:{api.port}/ws/transcribe") as stt:
        event = await stt.recognize(frame(blocks(7, 7, 8, 8), 32_000), language="en-us")

    assert event.alternatives[0].text == "w7 w8"
    assert event.alternatives[0].language == "en-US"


async def test_silence_is_an_empty_final(api: RunningApi) -> None:
    """With the language that was asked for."""
    async with custom_stt.STT(url=f"ws://127.0.0.1:{api.port}/ws/transcribe") as stt:
        event = await stt.recognize(list(frames(0, 0, 0, 0)))

    assert (event.alternatives[0].text, event.alternatives[0].language) == ("", "en")


async def test_a_refusal_reaches_the_caller_and_another_attempt_begins_anew() -> None:
    """As the framework retries: finals of the failed attempt do not count twice."""

    async def overloaded(visit: Visit) -> None:
        await visit.greet()
        await visit.hear(audio_bytes=3200)
        await visit.say("final", seq=1, utt=1, text="one", start=0.0, end=0.1)
        await visit.say("error", code="overloaded", message="", fatal=True)
        await visit.end("overloaded", code=1013, totals={"audio_processed_s": 0.1})

    async def well(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("end_of_stream")
        await visit.say("final", seq=1, utt=1, text="one two", start=0.0, end=0.2)
        await visit.end()

    async def unknown(visit: Visit) -> None:
        await visit.hear("config")
        await visit.say("error", code="bad_config", message="language: unknown", fatal=True)
        await visit.socket.close(1008)

    options = APIConnectOptions(max_retry=2, retry_interval=0.05)
    async with fake_server(overloaded, well, unknown) as server, custom_stt.STT(url=server.url) as stt:
        event = await stt.recognize(list(frames(1, 2)), conn_options=options)
        assert event.alternatives[0].text == "one two"

        with pytest.raises(APIStatusError, match="language: unknown"):
            await stt.recognize(list(frames(1)), language="xx", conn_options=options)
        assert len(server.visits) == 3


async def test_what_no_server_hears_is_refused_here() -> None:
    """A rate out of bounds."""
    async with custom_stt.STT() as stt:
        with pytest.raises(ValueError, match="8000 to 48000"):
            await stt.recognize(frame(bytes(200), 4_000))
