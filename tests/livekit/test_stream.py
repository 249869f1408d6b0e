"""The plugin's stream on a real server with the scripted recogniser: events, ends, flushes, and what is refused."""

import asyncio
import logging

import numpy as np
import pytest
from livekit.agents import metrics
from livekit.agents.stt import FallbackAdapter, SpeechEventType
from livekit.agents.types import TimedString
from livekit.plugins import custom_stt
from livekit.plugins.custom_stt.options import KEEPALIVE_S

from tests.livekit.fake_server import Visit, fake_server
from tests.livekit.hearing import RATE_HZ, Heard, frame, frames, hearing, said
from tests.serving import RunningApi, wait_until


def door(api: RunningApi) -> str:
    """Return the WebSocket of an API."""
    return f"ws://127.0.0.1:{api.port}/ws/transcribe"


async def test_what_is_said_comes_as_events_in_the_order_of_the_framework(api: RunningApi) -> None:
    """START, INTERIM, FINAL, END for each utterance, then the end of the iteration (003-1, 003-6, 002-1)."""
    stt = custom_stt.STT(url=door(api), language="english")
    metered: list[metrics.STTMetrics] = []
    stt.on("metrics_collected", metered.append)

    async with hearing(stt) as heard:
        heard.push(1, 2, 3, 0, 0, 0, 0, 4)
        await heard.until(lambda: heard.finals == ["w1 w2 w3"])
        heard.stream.end_input()
        events = await heard.end()

    utterance = ["start_of_speech", "interim_transcript", "final_transcript", "end_of_speech"]
    assert heard.types == utterance * 2
    assert heard.finals == ["w1 w2 w3", "w4"]
    data = heard.of(SpeechEventType.FINAL_TRANSCRIPT)[0].alternatives[0]
    assert (str(data.language), data.confidence) == ("en", 1.0)
    assert data.start_time == pytest.approx(0, abs=0.01)
    assert data.words is not None
    assert [type(word) for word in data.words] == [TimedString] * 3
    assert [str(word) for word in data.words] == ["w1", "w2", "w3"]
    assert [word.end_time for word in data.words] == pytest.approx([0.1, 0.2, 0.3], abs=0.01)
    assert {event.request_id for event in events} == {heard.stream.session_id}
    assert heard.usage_s == pytest.approx(0.8)
    assert sum(each.audio_duration for each in metered) == pytest.approx(0.8)
    assert [each.acquire_time for each in metered if each.acquire_time] != []
    assert (stt.model, stt.provider) == ("scripted", "scripted")


async def test_the_capabilities_are_those_of_the_server() -> None:
    """Interim results, words with times, manual flush, whole buffers (003-6)."""
    capabilities = custom_stt.STT().capabilities

    assert (capabilities.streaming, capabilities.interim_results, capabilities.offline_recognize) == (True, True, True)
    assert (capabilities.aligned_transcript, capabilities.manual_flush) == ("word", True)
    assert not custom_stt.STT(interim=False).capabilities.interim_results


async def test_the_end_may_be_said_twice_and_awaited_and_reaches_the_server_once() -> None:
    """One end_of_stream on the wire, whoever ends how often (002-1, 002-3, 002-11)."""

    async def script(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("end_of_stream")
        await visit.end()
        await visit.hear("end_of_stream")  # until the plugin closes

    async with fake_server(script) as server:
        async with hearing(custom_stt.STT(url=server.url)) as heard:
            heard.push(1)
            await heard.stream.end_input()
            heard.stream.end_input()
            await heard.stream.end_input()
            await heard.end(within_s=5)

        assert server.visits[0].count("end_of_stream") == 1
        assert len(server.visits[0].audio) == 3200


async def test_frames_and_flushes_after_the_end_are_refused_with_one_warning(
    api: RunningApi, caplog: pytest.LogCaptureFixture
) -> None:
    """They raise nothing and reach nobody, before and after the stream was closed (002-2, 002-11)."""
    with caplog.at_level(logging.WARNING, "livekit.plugins.custom_stt"):
        async with hearing(custom_stt.STT(url=door(api))) as heard:
            heard.push(1, 2)
            heard.stream.end_input()
            heard.push(3, 4)
            heard.stream.flush()
            await heard.end()
            await heard.stream.aclose()
            heard.push(5)
            heard.stream.flush()
            heard.stream.end_input()

    assert heard.text == "w1 w2"
    assert [record.__dict__["action"] for record in caplog.records] == ["late_input"]


async def test_closing_twice_is_once_and_leaves_nothing(api: RunningApi) -> None:
    """Tasks are awaited, the socket is closed, the server lets the session go at once (002-4, 003-7)."""
    assert await asyncio.to_thread(wait_until, lambda: not len(api.context.sessions), 5)  # those of other tests
    async with hearing(custom_stt.STT(url=door(api))) as heard:
        heard.push(1)
        await heard.until(lambda: heard.types != [])

        await heard.stream.aclose()
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("custom_stt")]
        await asyncio.gather(heard.stream.aclose(), heard.stream.aclose())

        async with asyncio.timeout(1):
            await asyncio.wait([heard.listening])
    assert await asyncio.to_thread(wait_until, lambda: not api.context.sockets and not len(api.context.sessions), 1)


async def test_a_stream_ends_without_a_deadlock_also_without_any_audio(api: RunningApi) -> None:
    """Within five seconds, as the first users asked; in fact at once (002-11, 003-7)."""
    async with hearing(custom_stt.STT(url=door(api))) as silent, hearing(custom_stt.STT(url=door(api))) as heard:
        silent.stream.end_input()
        heard.push(*range(1, 21))
        heard.stream.end_input()
        assert await silent.end(within_s=5) == []
        assert len(await heard.end(within_s=5)) > 0

    assert heard.text == said(range(1, 21))


async def test_the_iteration_ends_within_50_ms_of_the_end_of_the_session() -> None:
    """It waits for no keepalive and for no close of the server, which here never comes (003-7)."""
    told_at: list[float] = []

    async def script(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("end_of_stream")
        await visit.say("session_ended", reason="end_of_stream", totals={})
        told_at.append(asyncio.get_running_loop().time())
        await visit.socket.wait_closed()

    took_s = []
    async with fake_server(script) as server:
        for _ in range(5):
            async with hearing(custom_stt.STT(url=server.url)) as heard:
                heard.stream.end_input()
                await heard.end()
            took_s.append(heard.ended_at - told_at[-1])

    assert sorted(took_s)[2] < 0.05


async def test_keepalives_come_while_the_stream_is_open_and_not_after_its_end() -> None:
    """At the server's pace, five seconds at most, without an answer (003-2)."""

    async def script(visit: Visit) -> None:
        await visit.greet(limits={"keepalive_s": 0.05})
        for _ in range(4):
            await visit.hear("keepalive")
        await visit.say("speech_started", seq=1, utt=1, t=0.0)
        await visit.hear("end_of_stream")
        before = visit.count("keepalive")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await visit.hear("keepalive")
        assert visit.count("keepalive") == before
        await visit.end()

    async with fake_server(script) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        await heard.until(lambda: heard.types == ["start_of_speech"])
        heard.stream.end_input()
        await heard.end()

    assert KEEPALIVE_S == 5.0
    assert heard.types == ["start_of_speech", "end_of_speech"]  # it does not leave anybody speaking


async def test_the_last_milliseconds_of_audio_do_not_wait_for_more() -> None:
    """Audio goes in pieces of 50 ms; what is left when a microphone falls silent goes with the next keepalive."""

    async def script(visit: Visit) -> None:
        await visit.greet(limits={"keepalive_s": 0.05})
        await visit.hear(audio_bytes=320)
        await visit.say("final", seq=1, utt=1, text="all")
        await visit.hear("end_of_stream")
        await visit.end()

    async with fake_server(script) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.stream.push_frame(frame(bytes(320)))
        await heard.until(lambda: heard.finals == ["all"])
        heard.stream.end_input()
        await heard.end()


async def test_keepalives_hold_a_session_in_which_nobody_speaks(api: RunningApi) -> None:
    """The server would end it after a second without a frame (003-2)."""
    async with hearing(custom_stt.STT(url=door(api), keepalive_s=0.25)) as heard:
        heard.push(1, 0, 0, 0)
        await heard.until(lambda: heard.finals == ["w1"])
        session_id = heard.stream.session_id
        await asyncio.sleep(1.6)  # the time is what is tested
        heard.push(2)
        heard.stream.end_input()
        await heard.end()

    assert heard.finals == ["w1", "w2"]
    assert heard.stream.session_id == session_id


async def test_a_flush_has_all_told_and_the_stream_goes_on(api: RunningApi) -> None:
    """Before the silence that would end the utterance; a second flush, with nothing to tell, harms nothing."""
    async with hearing(custom_stt.STT(url=door(api))) as heard:
        heard.push(1, 2)
        heard.stream.flush()
        await heard.until(lambda: heard.finals == ["w1 w2"])
        heard.stream.flush()
        heard.push(3)
        heard.stream.end_input()
        await heard.end()

    assert heard.finals == ["w1 w2", "w3"]


async def test_a_flush_with_nothing_left_to_send_reaches_the_server() -> None:
    """It is not held back until audio comes, and each is asked for once."""

    async def script(visit: Visit) -> None:
        await visit.greet()
        await visit.hear(audio_bytes=3200)
        for _ in range(2):
            asked = await visit.hear("finalize")
            await visit.say("finalized", seq=asked["id"], id=asked["id"])
            await visit.say("final", seq=asked["id"] + 10, utt=asked["id"], text=f"flush {asked['id']}")
        await visit.hear("end_of_stream")
        await visit.end()

    async with fake_server(script) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1)
        heard.stream.flush()
        await heard.until(lambda: heard.finals == ["flush 1"])
        heard.stream.flush()
        await heard.until(lambda: len(heard.finals) == 2)
        heard.stream.end_input()
        await heard.end()

    assert server.visits[0].count("finalize") == 2


async def test_a_flush_stands_where_it_was_asked_for_between_the_audio() -> None:
    """Also when all was pushed before the connection was there: a new utterance is not mixed into the old one."""
    audio_bytes: list[int] = []

    async def script(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("finalize")
        audio_bytes.append(len(visit.audio))
        await visit.hear("end_of_stream")
        await visit.end()

    async with fake_server(script) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1)
        heard.stream.flush()
        heard.push(2, 3)
        heard.stream.end_input()
        await heard.end()

    assert audio_bytes == [3200]


async def test_other_rates_and_channels_are_converted_and_no_sample_is_missing() -> None:
    """A second of 48 kHz stereo is a second of 16 kHz mono."""

    async def script(visit: Visit) -> None:
        assert (await visit.greet())["sample_rate"] == RATE_HZ
        await visit.hear("end_of_stream")
        await visit.end()

    left = (8000 * np.sin(np.arange(48_000) / 20)).astype(np.int16)
    stereo = np.stack([left, left], axis=1).tobytes()
    async with fake_server(script) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        for start in range(0, len(stereo), 1920):
            heard.stream.push_frame(frame(stereo[start : start + 1920], 48_000, 2))
        heard.stream.end_input()
        await heard.end()

        assert len(server.visits[0].audio) == 2 * RATE_HZ
        middle = np.frombuffer(server.visits[0].audio, dtype=np.int16)[4000:12000]
        assert 7000 < np.abs(middle).max() < 9000

    with pytest.raises(ValueError, match="sample rate"):
        async with hearing(custom_stt.STT(url=server.url)) as heard:
            heard.stream.push_frame(frame(bytes(320)))
            heard.stream.push_frame(frame(bytes(320), 8_000))


async def test_messages_that_are_none_or_unknown_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """Also with fields missing or of a wrong kind; a confidence that is not known is 0 (003-5)."""

    async def script(visit: Visit) -> None:
        await visit.greet(limits={"keepalive_s": "soon", "max_backlog_s": None})
        for text in ("no json", "[1]", '{"no": "type"}', '{"type": 7}', '{"type": "ack"}', '{"type": "final"}'):
            await visit.socket.send(text)
        await visit.socket.send(b"binary")
        await visit.say("telepathy", seq=1)
        await visit.say("warning", code="lag", message="")
        await visit.say("error", code="bad_message", message="", fatal=False)
        await visit.say("ack", audio_received_s=float("nan"), audio_processed_s=None)
        words = [{"word": "yes"}, {"word": 3}, "no", {"start": 1}]
        await visit.say("final", seq=2, text="yes", confidence=None, start="x", words=words, language="EN_us")
        await visit.say("final", seq=3, text="sure", confidence=7, words=None)
        await visit.hear("end_of_stream")
        await visit.end(totals=None)

    async with fake_server(script) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.stream.end_input()
        await heard.end()

    first, second = (event.alternatives[0] for event in heard.of(SpeechEventType.FINAL_TRANSCRIPT))
    assert (first.text, first.confidence, first.language, first.words) == ("yes", 0.0, "en-US", ["yes"])
    assert (second.text, second.confidence, second.words) == ("sure", 1.0, None)
    assert "unknown_message" in [record.__dict__.get("action") for record in caplog.records]


async def test_what_is_said_never_reaches_the_log(api: RunningApi, caplog: pytest.LogCaptureFixture) -> None:
    """Ids and numbers only, at any level."""
    with caplog.at_level(logging.DEBUG, "livekit.plugins.custom_stt"):
        async with hearing(custom_stt.STT(url=door(api))) as heard:
            heard.push(4321)
            heard.stream.end_input()
            await heard.end()

    assert heard.text == "w4321"
    ours = [record for record in caplog.records if record.name == "livekit.plugins.custom_stt"]
    assert ours
    assert not any("w4321" in repr(record.__dict__) for record in ours)


async def test_the_offset_of_the_framework_is_added_to_all_times(api: RunningApi) -> None:
    """As the agent sets it, right after the stream was made."""
    stt = custom_stt.STT(url=door(api))
    stream = stt.stream()
    stream.start_time_offset = 100.0
    async with hearing(stt, stream) as heard:
        heard.push(1, 2)
        heard.stream.end_input()
        await heard.end()

    data = heard.of(SpeechEventType.FINAL_TRANSCRIPT)[0].alternatives[0]
    assert data.end_time == pytest.approx(100.2, abs=0.05)
    assert data.words is not None
    assert data.words[0].start_time == pytest.approx(100.0, abs=0.05)
    assert data.words[0].start_time_offset == pytest.approx(100.0, abs=0.05)


async def test_it_works_behind_the_adapter_that_falls_back(api: RunningApi) -> None:
    """The framework's own, which pushes, flushes and ends in its own ways."""
    ours, other = custom_stt.STT(url=door(api)), custom_stt.STT(url=door(api))
    async with ours, other, FallbackAdapter([ours, other]) as adapter, adapter.stream() as stream:
        for each in frames(1, 2, 3):
            stream.push_frame(each)
        stream.flush()
        for each in frames(4):
            stream.push_frame(each)
        stream.end_input()
        async with asyncio.timeout(10):
            texts = [
                event.alternatives[0].text async for event in stream if event.type is SpeechEventType.FINAL_TRANSCRIPT
            ]

    assert " ".join(texts) == "w1 w2 w3 w4"


async def test_streams_of_one_stt_do_not_disturb_each_other(api: RunningApi) -> None:
    """Five at a time, each with its own words."""
    async with custom_stt.STT(url=door(api)) as stt:
        all_heard = [Heard(stt.stream()) for _ in range(5)]
        for number, heard in enumerate(all_heard):
            heard.push(*range(10 * number + 1, 10 * number + 6))
            heard.stream.end_input()
        for number, heard in enumerate(all_heard):
            await heard.end()
            assert heard.text == said(range(10 * number + 1, 10 * number + 6))


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    """With a ValueError that names the one."""
    for wrong in ({"url": "ftp://here"}, {"sample_rate": 4000}, {"keepalive_s": 0}, {"reconnect_attempts": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            custom_stt.STT(**wrong)
