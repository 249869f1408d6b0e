"""Cuts, half-open links and other nodes, on real servers with the scripted recogniser: no audio is lost, no final told
twice. Its words are the values of the samples, so the text shows every byte that is missing, doubled or moved."""

import asyncio
import logging
import socket
import time
from typing import Any

import aiohttp
import pytest
from livekit.agents import APIConnectionError, APIConnectOptions
from livekit.agents.stt import SpeechEvent, SpeechEventType, STTError
from livekit.plugins import custom_stt

from sibyl.speech.session import Phase
from tests.livekit.cable import cable_to
from tests.livekit.fake_server import Visit, fake_server
from tests.livekit.hearing import hearing, said
from tests.serving import RunningApi, wait_until

SPEECH = (*range(1, 16), 0, 0, 0, *range(16, 31), 0, 0, 0, 31, 32)
SPEECH_BYTES = len(SPEECH) * 3200
AT_ONCE = APIConnectOptions(max_retry=3, retry_interval=0.05)


def in_order(types: list[str]) -> bool:
    """Whether START and END of speech alternate."""
    edges = [name for name in types if name in ("start_of_speech", "end_of_speech")]
    return edges == ["start_of_speech", "end_of_speech"] * (len(edges) // 2)


@pytest.mark.parametrize("first", [100, 900, 33_333, 48_001, 90_000])
async def test_no_byte_is_lost_wherever_the_way_up_is_cut(api: RunningApi, first: int) -> None:
    """Three cuts each, the first also before the session was ready; the last ones amid what is sent again (003-7)."""
    async with cable_to(api.port) as cable:
        cable.cut_at(up=[first, first + 17_000, first + 40_001])
        stt = custom_stt.STT(url=cable.url)
        async with hearing(stt, stt.stream(conn_options=AT_ONCE)) as heard:
            heard.push(*SPEECH)
            heard.stream.end_input()
            await heard.end()

        assert cable.connections == 4
    assert heard.text == said(SPEECH)
    assert heard.usage_s == pytest.approx(SPEECH_BYTES / 32_000)
    assert heard.stream.dropped_s == 0
    assert in_order(heard.types)


@pytest.mark.parametrize("first", [300, 2_000, 6_500, 10_000])
async def test_no_final_is_told_twice_wherever_the_way_down_is_cut(api: RunningApi, first: int) -> None:
    """What the server had written and we had not read comes again, and nothing else (003-7)."""
    async with cable_to(api.port) as cable:
        cable.cut_at(down=[first, first + 1_200, first + 2_500])
        stt = custom_stt.STT(url=cable.url)
        async with hearing(stt, stt.stream(conn_options=AT_ONCE)) as heard:
            for value in SPEECH:  # one by one, so that all partials are written
                heard.push(value)
                word = f"w{value}" if value else ""
                await heard.until(lambda word=word: word in _last_text(heard.events))  # type: ignore[misc]
            heard.stream.end_input()
            await heard.end()

        assert cable.connections == 4
    assert heard.finals == [said(range(1, 16)), said(range(16, 31)), said([31, 32])]
    assert in_order(heard.types)


async def test_a_cut_stream_keeps_its_session(api: RunningApi) -> None:
    """It is resumed while nobody speaks to it, and audio that was pushed meanwhile is heard."""
    async with cable_to(api.port) as cable, hearing(custom_stt.STT(url=cable.url)) as heard:
        heard.push(1, 2)
        await heard.until(lambda: heard.types != [])
        session_id = heard.stream.session_id
        cable.plugged = False
        cable.cut()
        heard.push(3, 4)
        await cable.connected(3)
        cable.plugged = True
        heard.push(5)
        heard.stream.end_input()
        await heard.end()

    assert heard.finals == ["w1 w2 w3 w4 w5"]
    assert heard.stream.session_id == session_id


async def test_a_half_open_link_is_noticed_and_made_again(api: RunningApi) -> None:
    """Nothing comes and nothing is closed; the heartbeat tells, and the session is resumed (003-7)."""
    async with cable_to(api.port) as cable, hearing(custom_stt.STT(url=cable.url, heartbeat_s=0.3)) as heard:
        heard.push(1, 2, 3)
        await heard.until(lambda: heard.types != [])
        session_id = heard.stream.session_id
        cable.freeze()
        heard.push(4, 5, 6)
        heard.stream.end_input()
        await heard.end(within_s=5)

        assert cable.connections == 2
    assert heard.finals == ["w1 w2 w3 w4 w5 w6"]
    assert heard.stream.session_id == session_id


async def test_a_half_open_link_with_full_buffers_is_let_go(api: RunningApi) -> None:
    """A write waits in vain, and the socket would linger for as long as the kernel tries."""
    sockets: list[socket.socket] = []

    def narrow(address: tuple[Any, ...]) -> socket.socket:
        sockets.append(socket.socket(*address[:3]))
        sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sockets[-1]

    connector = aiohttp.TCPConnector(socket_factory=narrow)
    async with cable_to(api.port) as cable, aiohttp.ClientSession(connector=connector) as http:
        stt = custom_stt.STT(url=cable.url, sample_rate=48_000, heartbeat_s=0.4, http_session=http)
        async with hearing(stt) as heard:
            heard.push(*[0] * 5)
            await heard.until(lambda: heard.stream.session_id != "")
            cable.freeze()
            heard.push(*[0] * 100, frame_ms=100)
            heard.stream.end_input()
            await heard.end()

        assert cable.connections == 2
        assert sockets[0].fileno() == -1
    assert heard.usage_s == pytest.approx(10.5)
    assert heard.stream.dropped_s == 0


async def test_closing_waits_for_no_answer_and_leaves_no_task(api: RunningApi) -> None:
    """On a half-open link at once; after a session that ended, for a second at most (002-4)."""

    async def deaf(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("end_of_stream")
        visit.socket.transport.pause_reading()
        await visit.say("session_ended", reason="end_of_stream", totals={})
        await closed.wait()
        visit.socket.transport.resume_reading()

    closed = asyncio.Event()
    began = time.monotonic()
    async with cable_to(api.port) as cable, hearing(custom_stt.STT(url=cable.url)) as heard:
        heard.push(1)
        await heard.until(lambda: heard.types != [])
        cable.freeze()
        await heard.stream.aclose()
        assert not _our_tasks()
    async with fake_server(deaf) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.stream.end_input()
        await heard.end()
        await heard.stream.aclose()
        assert not _our_tasks()
        closed.set()

    assert time.monotonic() - began < 5


def _our_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("custom_stt")]


async def test_another_node_gets_all_that_was_not_told_and_times_go_on(api: RunningApi, other_api: RunningApi) -> None:
    """It does not know the session: a new one begins behind the last final, on its own clock (003-7)."""
    async with cable_to(api.port) as cable, hearing(custom_stt.STT(url=cable.url)) as heard:
        heard.push(1, 2, 0, 0, 0, 0)
        await heard.until(lambda: "end_of_speech" in heard.types)
        heard.push(3, 4, 5)
        await heard.until(lambda: heard.types[-1] == "interim_transcript" and "w5" in _last_text(heard.events))
        first = heard.stream.session_id
        cable.port = other_api.port
        cable.cut()
        heard.push(6, 7)
        heard.stream.end_input()
        await heard.end()

    assert heard.finals == ["w1 w2", "w3 w4 w5 w6 w7"]
    assert heard.stream.session_id != first
    data = heard.of(SpeechEventType.FINAL_TRANSCRIPT)[1].alternatives[0]
    assert data.words is not None
    offset_s = heard.stream.start_time_offset
    assert [word.start_time for word in data.words] == pytest.approx([0.6 + n / 10 + offset_s for n in range(5)])
    assert heard.usage_s == pytest.approx(1.1)
    assert in_order(heard.types)


def _last_text(events: list[SpeechEvent]) -> str:
    return next((event.alternatives[0].text for event in reversed(events) if event.alternatives), "")


async def test_the_end_of_a_session_that_was_not_seen_is_told_again(api: RunningApi) -> None:
    """The cut comes behind the end of the stream, before the last messages arrive."""
    async with cable_to(api.port) as cable, hearing(custom_stt.STT(url=cable.url, heartbeat_s=0.3)) as heard:
        heard.push(1)
        await heard.until(lambda: heard.types != [])
        heard.push(-2, -2)  # half a second each: the answer to the end is late enough to be missed
        heard.stream.end_input()
        await asyncio.to_thread(_drained, api)
        cable.cut()
        await heard.end(within_s=5)

    assert heard.text == "w1 w-2 w-2"


def _drained(api: RunningApi) -> None:
    assert wait_until(lambda: any(each.session.phase is Phase.DRAIN for each in api.context.sessions._all.values()))


async def test_a_session_that_reaches_its_limit_is_followed_by_another(api: RunningApi) -> None:
    """What it did not hear any more, the next one does."""

    async def full(visit: Visit) -> None:
        await visit.greet()
        await visit.hear(audio_bytes=6400)
        await visit.say("final", seq=1, utt=1, text="one", start=0.0, end=0.1)
        totals = {"audio_received_s": 0.1, "audio_processed_s": 0.1, "dropped_s": 0.1}
        await visit.end("max_session", totals=totals)

    async def next_one(visit: Visit) -> None:
        config = await visit.greet(session_id="session-2")
        assert "resume" not in config
        await visit.hear("end_of_stream")
        assert bytes(visit.audio) == b"\2\0" * 1600 + b"\3\0" * 1600
        await visit.say("final", seq=1, utt=1, text="two three", start=0.0, end=0.2)
        await visit.end()

    async with fake_server(full, next_one) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1, 2)
        await heard.until(lambda: heard.finals == ["one"])
        heard.push(3)
        heard.stream.end_input()
        await heard.end()

    assert heard.finals == ["one", "two three"]
    second = heard.of(SpeechEventType.FINAL_TRANSCRIPT)[1]
    assert second.request_id == "session-2"
    assert second.alternatives[0].start_time == pytest.approx(0.1, abs=0.01)


async def test_an_utterance_that_was_told_is_over_when_another_session_begins() -> None:
    """Its end was not seen before the cut; the next begin of speech must find it ended."""

    async def cut(visit: Visit) -> None:
        await visit.greet()
        await visit.hear(audio_bytes=3200)
        await visit.say("speech_started", seq=1, utt=1, t=0.0)
        await visit.say("final", seq=2, utt=1, text="one", start=0.0, end=0.1)
        await visit.socket.close(1011)

    async def another(visit: Visit) -> None:
        await visit.greet(session_id="session-2")
        await visit.say("speech_started", seq=1, utt=1, t=0.0)
        await visit.hear("end_of_stream")
        await visit.say("final", seq=2, utt=1, text="two", start=0.0, end=0.1)
        await visit.end()

    async with fake_server(cut, another) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1)
        await heard.until(lambda: heard.types.count("start_of_speech") == 2)
        heard.push(2)
        heard.stream.end_input()
        await heard.end()

    assert heard.types == ["start_of_speech", "final_transcript", "end_of_speech"] * 2


async def test_a_server_that_ends_may_have_told_all() -> None:
    """Then no other session is begun."""

    async def ends(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("end_of_stream")
        await visit.say("final", seq=1, utt=1, text="one", start=0.0, end=0.1)
        await visit.end("server_shutdown", code=1012)

    async with fake_server(ends) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1)
        heard.stream.end_input()
        await heard.end()

        assert len(server.visits) == 1
    assert heard.finals == ["one"]


async def test_audio_of_an_attempt_that_failed_is_sent_again_in_the_next() -> None:
    """The framework's retry calls the stream anew; its times and its audio go on, as if nothing had been (003-5)."""

    clock, times = asyncio.get_running_loop().time, []

    async def overloaded(visit: Visit) -> None:
        times.append(clock())
        await visit.greet()
        await visit.hear(audio_bytes=3200)
        await visit.say("error", code="overloaded", message="", fatal=True, retry_after_s=0.4)
        await visit.end("overloaded", code=1013, totals={"audio_processed_s": 0.0})

    async def better(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("end_of_stream")
        await visit.say("final", seq=1, utt=1, text="all", start=0.0, end=0.3)
        await visit.end()

    stt_errors: list[STTError] = []
    async with fake_server(overloaded, overloaded, better) as server:
        stt = custom_stt.STT(url=server.url)
        stt.on("error", stt_errors.append)
        async with hearing(stt, stt.stream(conn_options=AT_ONCE)) as heard:
            heard.push(1, 2, 3)
            heard.stream.end_input()
            await heard.end()

        assert bytes(server.visits[2].audio) == b"\1\0" * 1600 + b"\2\0" * 1600 + b"\3\0" * 1600
    assert heard.finals == ["all"]
    assert heard.of(SpeechEventType.FINAL_TRANSCRIPT)[0].alternatives[0].end_time == pytest.approx(0.3, abs=0.05)
    assert [error.recoverable for error in stt_errors] == [True, True]
    assert times[1] - times[0] >= 0.4  # as the server asked; the framework would have waited for 0.1 s


async def test_a_server_that_cannot_be_reached_is_an_error_after_the_retries_of_the_framework(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error comes out of the iteration (003-5)."""
    stt = custom_stt.STT(url="ws://127.0.0.1:9/ws/transcribe")
    options = APIConnectOptions(max_retry=1, retry_interval=0.05)
    async with hearing(stt, stt.stream(conn_options=options)) as heard:
        heard.push(1)
        with pytest.raises(APIConnectionError):
            await heard.end()
        heard.push(2)  # refused, as after any end

    assert [record.__dict__.get("action") for record in caplog.records if "custom_stt" in record.name] == ["late_input"]


async def test_a_server_that_stays_away_ends_the_stream_after_bounded_attempts(
    api: RunningApi, caplog: pytest.LogCaptureFixture
) -> None:
    """First those of the plugin, then those of the framework."""
    caplog.set_level(logging.INFO)
    async with cable_to(api.port) as cable:
        stt = custom_stt.STT(url=cable.url, reconnect_attempts=2)
        options = APIConnectOptions(max_retry=1, retry_interval=0.05)
        async with hearing(stt, stt.stream(conn_options=options)) as heard:
            heard.push(1)
            await heard.until(lambda: heard.types != [])
            cable.plugged = False
            cable.cut()
            with pytest.raises(APIConnectionError):
                await heard.end(within_s=10)

    actions = [record.__dict__.get("action") for record in caplog.records]
    assert actions.count("reconnect") == 2
    assert sum(record.name == "livekit.agents" for record in caplog.records) == 1


async def test_more_audio_than_is_kept_is_dropped_with_a_warning_and_counted(
    api: RunningApi, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest goes; what is left is heard, at its own time (002-10)."""
    async with cable_to(api.port) as cable:
        cable.plugged = False
        stt = custom_stt.STT(url=cable.url, retained_s=1.0)
        with caplog.at_level(logging.WARNING, "livekit.plugins.custom_stt"):
            async with hearing(stt, stt.stream(conn_options=AT_ONCE)) as heard:
                heard.push(*range(1, 26))
                assert heard.stream.dropped_s == pytest.approx(1.5)
                cable.plugged = True
                heard.stream.end_input()
                await heard.end()

    assert heard.text == said(range(16, 26))
    assert heard.stream.dropped_s == pytest.approx(1.5)
    data = heard.of(SpeechEventType.FINAL_TRANSCRIPT)[0].alternatives[0]
    assert data.words is not None
    assert data.words[0].start_time == pytest.approx(1.5, abs=0.01)
    actions = [record.__dict__["action"] for record in caplog.records if "custom_stt" in record.name]
    assert (actions.count("audio_overflow"), actions.count("audio_lost")) == (1, 1)
