"""The native speech doors over a real server: bad input, cuts, resumes, slow readers, and nothing left behind."""

import asyncio
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sibyl.api import transcribe
from sibyl.speech import session
from sibyl.speech.effects import Effect
from tests.api.talking import Talking, talk
from tests.serving import RunningApi, run_api, run_api_process, run_process, wait_until
from tests.speech.hearing import block, blocks, words
from tests.topology import Servers


@pytest.fixture(scope="module")
def hearing_api(redis_servers: Servers) -> Iterator[RunningApi]:
    """An API with the scripted recogniser and short patience."""
    patience = {"speech_idle_s": 1.0, "speech_grace_s": 1.0, "speech_drain_s": 1.5, "speech_backlog_s": 3.0}
    with run_api(redis_servers.url, speech_provider="scripted", speech_sessions=12, **patience) as api:
        yield api


@pytest.fixture
def api(hearing_api: RunningApi) -> Iterator[RunningApi]:
    """The API, which must be left as it was: no session, no thread that hears, no socket."""
    yield hearing_api
    context = hearing_api.context
    assert wait_until(lambda: not context.sessions.hearing and not context.sockets)
    assert wait_until(lambda: not len(context.sessions), limit_s=5)


def finish(talking: Talking) -> dict[str, object]:
    """End the audio and return the last message."""
    talking.send(type="end_of_stream")
    return talking.rest()[-1]


def test_what_is_said_comes_out_while_it_is_said_and_the_end_is_in_order(api: RunningApi) -> None:
    """Partials, finals, session_ended, 1000 "Normal closure" (000-3, 002-7, 002-9, 003-1)."""
    with talk(api.url, config={"language": "en", "sample_rate": 16000, "task": "transcribe"}) as talking:
        talking.audio(1, 2)
        assert talking.next("partial")["text"].startswith("w1")
        talking.audio(0, 0, 0)
        assert talking.next("final")["text"] == "w1 w2"
        assert talking.next("utterance_end")["timestamp"].endswith("Z")
        talking.audio(3)
        end = finish(talking)

    assert talking.texts == ["w1 w2", "w3"]
    assert end["type"] == "session_ended"
    totals = end["totals"]
    assert isinstance(totals, dict)
    assert totals["audio_processed_s"] == totals["audio_received_s"] == 0.6
    assert talking.closed_with == (1000, "Normal closure")


def test_the_config_may_stand_in_the_query(api: RunningApi) -> None:
    """The door of the first clients (000-7)."""
    query = "?provider=scripted&language=en&sample_rate=8000&encoding=pcm_s16le&interim=false"
    with talk(api.url, f"/api/speech-to-text/stream{query}") as talking:
        talking.next("ready")
        talking.socket.send(block(5, samples=800) + block(6, samples=800))
        finish(talking)

    assert talking.texts == ["w5 w6"]
    assert not any(message["type"] == "partial" for message in talking.messages)


def test_with_an_empty_query_a_config_message_is_awaited(api: RunningApi) -> None:
    """On the same door."""
    with talk(api.url, "/api/speech-to-text/stream", config={"sample_rate": 16000}) as talking:
        talking.audio(1)
        finish(talking)

    assert talking.texts == ["w1"]


@pytest.mark.parametrize(
    ("frames", "code", "close"),
    [
        ([b"\0\0"], "unsupported", 1003),
        (["{"], "bad_config", 1008),
        (['"text"'], "bad_config", 1008),
        (['{"sample_rate": 1}'], "bad_config", 1008),
        (['{"encoding": "mp3"}'], "unsupported", 1003),
        (['{"provider": "deepgram"}'], "model_unavailable", 1011),
        (['{"provider": "nobody"}'], "bad_config", 1008),
        (["{}", blocks(-1)], "internal", 1011),
        (["{}", bytes(session.FRAME_BYTES + 2)], "frame_too_large", 1009),
        (["{}", *(["rubbish"] * 21)], "too_many_errors", 1008),
        (["{}", *([bytes(64000)] * 4)], "overloaded", 1013),
    ],
)
def test_bad_input_has_a_code_of_its_own(api: RunningApi, frames: list[str | bytes], code: str, close: int) -> None:
    """An error before the close, each time (002-5, 002-8)."""
    if code == "overloaded":
        frames = ["{}", blocks(-2), *([bytes(64000)] * 4)]
    with talk(api.url) as talking:
        try:
            for frame in frames:
                talking.socket.send(frame)
        except ConnectionClosed:
            pass
        said = talking.rest()

    assert code in [message["code"] for message in said if message["type"] == "error"]
    assert talking.closed_with[0] == close


def test_a_frame_beyond_all_measure_is_closed_by_the_server_itself(api: RunningApi) -> None:
    """1009, which a client that is still sending may not get to read; and the API lives."""
    with talk(api.url, config={}) as talking:
        try:
            talking.socket.send(bytes(3_000_000))
        except (ConnectionClosed, OSError):
            pass
        talking.rest()

    assert talking.closed_with[0] in (1009, 1006)
    with api.client() as client:
        assert client.get("/healthz").status_code == 200


def test_an_odd_byte_a_config_twice_and_an_unknown_type_do_no_harm(api: RunningApi) -> None:
    """Warnings and errors that end nothing (003-3)."""
    with talk(api.url, config={}) as talking:
        audio = blocks(1, 2)
        for start in range(0, len(audio), 333):
            talking.socket.send(audio[start : start + 333])
        talking.send(type="config", sample_rate=8000)
        talking.send(type="dance")
        finish(talking)

    assert talking.texts == ["w1 w2"]
    codes = [message["code"] for message in talking.messages if "code" in message]
    assert codes == ["already_configured", "unknown_type"]


def test_the_metrics_say_how_many_are_heard(api: RunningApi) -> None:
    """And how many connections there are."""
    with talk(api.url, config={}) as talking, talk(api.url), api.client() as client:
        text = client.get("/metrics").text
        assert finish(talking)["type"] == "session_ended"

    assert "\nsibyl_speech_sessions 1.0\n" in text
    assert "\nsibyl_speech_sockets 2.0\n" in text


def test_finalize_is_answered_and_ends_nothing(api: RunningApi) -> None:
    """With the text of all before it, and with none."""
    with talk(api.url, config={}) as talking:
        talking.audio(1)
        talking.send(type="finalize", id="a")
        assert talking.next("finalized")["id"] == "a"
        assert talking.texts == ["w1"]
        talking.send(type="finalize", id=2)
        assert talking.next("finalized")["id"] == 2
        talking.audio(3)
        finish(talking)

    assert talking.texts == ["w1", "w3"]


@pytest.mark.parametrize("id", ['"\\ud800"', "9" * 4000, '"' + "x" * 201 + '"', "[1]", "1e999"])
def test_an_id_that_cannot_come_back_is_left_out(api: RunningApi, id: str) -> None:
    """Half of a surrogate pair is text in JSON, and none on the wire."""
    with talk(api.url, config={}) as talking:
        talking.socket.send(f'{{"type": "finalize", "id": {id}}}')
        assert talking.next("finalized")["id"] is None
        assert finish(talking)["reason"] == "end_of_stream"


def test_fragments_and_pings_are_as_good_as_whole_frames(api: RunningApi) -> None:
    """A message may come in pieces, with pings between."""
    with talk(api.url, config={}) as talking:
        audio = blocks(1, 2)
        talking.socket.send(audio[start : start + 500] for start in range(0, len(audio), 500))
        assert talking.socket.ping().wait(5)
        talking.socket.send(iter(['{"type":', '"end_of', '_stream"}']))
        talking.rest()

    assert talking.texts == ["w1 w2"]
    assert talking.closed_with == (1000, "Normal closure")


@pytest.mark.parametrize(("code", "kept"), [(1000, 0), (1001, 1), (3999, 1), (4999, 1)])
def test_only_a_goodbye_ends_a_session_at_once(api: RunningApi, code: int, kept: int) -> None:
    """Every other close may be a cut: a laptop that sleeps, a page that is loaded anew."""
    with talk(api.url, config={}) as talking:
        talking.socket.close(code)
        assert wait_until(lambda: not api.context.sockets)
        assert wait_until(lambda: len(api.context.sessions) == kept)


def test_keepalives_keep_an_idle_session_and_are_not_answered(api: RunningApi) -> None:
    """Without them it ends after the idle time, here one second (003-2)."""
    with talk(api.url, config={}) as talking:
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            talking.send(type="keepalive")
            with pytest.raises(TimeoutError):
                talking.socket.recv(0.3)
        said = talking.rest()

    assert [message.get("code") or message["reason"] for message in said] == ["idle_timeout", "idle_timeout"]
    assert talking.closed_with[0] == 1008


def test_a_client_that_is_cut_off_resumes_and_nothing_is_lost_or_told_twice(api: RunningApi) -> None:
    """Neither audio nor messages (003-7)."""
    heard: list[str] = []
    token: str | None = None
    last_seq, sent = 0, 0
    audio = b"".join(block(value) for value in range(1, 41))
    for part in range(8):
        config: dict[str, object] = {} if token is None else {"resume": {"token": token, "last_seq": last_seq}}
        with talk(api.url, config=config) as talking:
            ready = talking.messages[-1]
            assert ready["resumed"] == (token is not None)
            token = ready["resume_token"]
            sent = round(ready["audio_received_s"] * 32_000)
            end = len(audio) if part == 7 else (part + 1) * 16_000 + 777
            while sent < end:
                talking.socket.send(audio[sent : min(sent + 1000, end)])
                sent += 1000
            if part == 7:
                finish(talking)
            elif part % 2:
                talking.next("ack")
            told = [message for message in talking.messages if "seq" in message and message["type"] != "ready"]
            heard += [message["text"] for message in told if message["type"] == "final"]
            last_seq = told[-1]["seq"] if told else last_seq
            if part < 7:
                cut(talking)

    assert " ".join(heard) == words(1, 40)


def cut(talking: Talking) -> None:
    """Break the connection without a word."""
    talking.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talking.socket.socket.shutdown(socket.SHUT_RDWR)


def test_a_resume_takes_the_session_from_a_connection_that_is_half_open(api: RunningApi) -> None:
    """The old one is told so; it is not closed twice."""
    with talk(api.url, config={}) as old:
        old.audio(1)
        old.next("partial")
        token = old.messages[0]["resume_token"]
        with talk(api.url, config={"resume": {"token": token, "last_seq": 0}}) as new:
            assert new.messages[-1]["resumed"]
            old.rest()
            assert old.closed_with[0] == 4000
            new.audio(2)
            finish(new)
            assert new.texts == ["w1 w2"]


def test_a_token_that_nobody_knows_begins_a_new_session(api: RunningApi) -> None:
    """And says so, for the client to send again what it has."""
    with talk(api.url, config={"resume": {"token": "x" * 32, "last_seq": 9}}) as talking:
        assert talking.messages[-1]["resumed"] is False
        talking.audio(1)
        finish(talking)

    assert talking.texts == ["w1"]


def test_an_end_that_the_client_did_not_get_is_told_when_it_comes_back(api: RunningApi) -> None:
    """It was cut off behind end_of_stream."""
    with talk(api.url, config={}) as talking:
        talking.audio(1, 2)
        talking.next("partial")
        talking.send(type="end_of_stream")
        cut(talking)
        token = talking.messages[0]["resume_token"]
    with talk(api.url) as again:
        again.send(resume={"token": token, "last_seq": 0})
        said = again.rest()

    assert [message["text"] for message in said if message["type"] == "final"] == ["w1 w2"]
    assert said[-1]["type"] == "session_ended"
    assert again.closed_with == (1000, "Normal closure")


def test_a_recogniser_that_hangs_ends_the_session_in_time(api: RunningApi) -> None:
    """And its thread comes back."""
    with talk(api.url, config={}) as talking:
        talking.audio(1, -3)
        end = finish(talking)

    assert end["reason"] == "drain_timeout"
    assert talking.closed_with[0] == 1011


def test_more_sessions_than_there_are_seats_are_told_to_come_later(api: RunningApi) -> None:
    """1013, with a time; a seat that becomes free is free."""
    with ThreadPoolExecutor(13) as pool:
        seated = threading.Barrier(13)

        def sit(number: int) -> str:
            with talk(api.url) as talking:
                talking.send()
                said = talking.next("ready", "error")
                seated.wait(10)
                if said["type"] == "error":
                    assert said["retry_after_s"] > 0
                    talking.rest()
                    assert talking.closed_with[0] == 1013
                return str(said.get("code", "seated"))

        assert sorted(pool.map(sit, range(13))) == ["overloaded", *["seated"] * 12]
    with talk(api.url, config={}) as talking:
        assert finish(talking)["type"] == "session_ended"


def test_a_reader_that_takes_nothing_is_cut_off_and_delays_nobody(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session may be resumed (000-4)."""
    monkeypatch.setattr(transcribe, "WRITE_S", 0.3)
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(
            b"GET /ws/transcribe HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        stuck.recv(200)
        stuck.sendall(frame(b"{}", text=True))
        assert wait_until(lambda: api.context.sessions.hearing == 1)
        try:
            while api.context.sockets:  # each answer is larger than the question
                stuck.sendall(frame(b"{}", text=True) + frame(blocks(1) + blocks(0, 0, 0)))
        except OSError:
            pass  # it was cut off
        with talk(api.url, config={}) as talking:
            talking.audio(1)
            finish(talking)
        assert talking.texts == ["w1"]


def test_thousands_of_frames_in_one_packet_leave_others_their_turn(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes round between two of them."""
    rounds = 0
    seen: list[int] = []
    take = session.Session.text

    def text(self: session.Session, text: str, now: float) -> list[Effect]:
        seen.append(rounds)
        return take(self, text, now)

    async def go_round() -> None:
        nonlocal rounds
        while len(seen) < 2001:
            rounds += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(session.Session, "text", text)
    with talk(api.url, config={}) as talking:
        going = api.thread.start(go_round())
        talking.socket.socket.sendall(frame(b'{"type":"keepalive"}', text=True) * 2000)
        going.result(20)

    assert len(set(seen)) > 1500


def test_text_that_is_no_text_closes_the_connection_and_is_no_error_of_ours(redis_url: str, tmp_path: Path) -> None:
    """Nobody can fill the log with tracebacks from outside."""
    with run_api_process(redis_url, tmp_path / "log", speech_provider="scripted") as (process, url):
        with talk(url.rstrip("/"), config={}) as talking:
            talking.socket.socket.sendall(frame(b"\xff", text=True))
            talking.rest()
            assert talking.closed_with[0] == 1007
        assert [line["message"] for line in process.lines() if line["level"] in ("error", "critical")] == []


def frame(data: bytes, *, text: bool = False) -> bytes:
    """Return a frame of a client, masked with zeros."""
    head = bytes([0x81 if text else 0x82])
    size = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(data))
    return head + size + bytes(4) + data


def test_a_thousand_connects_and_drops_leave_nothing_behind(api: RunningApi) -> None:
    """No task, thread, file descriptor or session, at whatever moment they drop (000-5, 002-4)."""
    with talk(api.url, config={}):
        pass
    assert wait_until(lambda: not len(api.context.sessions), limit_s=5)
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    upgrade = (
        b"GET /ws/transcribe HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    states = [b"", upgrade[:60], upgrade, upgrade + frame(b"{}", text=True)]
    states += [
        states[-1] + frame(blocks(1)),
        states[-1] + frame(blocks(1)) + frame(b'{"type":"end_of_stream"}', text=True),
    ]
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", api.port), timeout=10) as client:
            client.sendall(states[number % len(states)])
            if number % 3:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert wait_until(lambda: not len(api.context.sessions) and not api.context.sockets, limit_s=10)
    # The pool keeps its threads, at most as many as there are seats.
    assert wait_until(lambda: threading.active_count() <= threads + 12)
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2)


def test_ten_sessions_at_once_hear_all_and_the_api_stays_quick(api: RunningApi) -> None:
    """Each in its own order; the loop is never blocked."""
    delays_s: list[float] = []
    done = threading.Event()

    def probe() -> None:
        with api.client() as client:
            while not done.is_set():
                began = time.perf_counter()
                assert client.get("/healthz").status_code == 200
                delays_s.append(time.perf_counter() - began)

    def speak(number: int) -> str:
        with talk(api.url, config={}) as talking:
            for value in range(number * 100 + 1, number * 100 + 51):
                talking.audio(value)
                time.sleep(0.01)  # the pace of a speaker, ten times as fast
            end = finish(talking)
            totals = end["totals"]
            assert isinstance(totals, dict)
            assert totals["audio_processed_s"] == totals["audio_received_s"] == 5.0
            return " ".join(talking.texts)

    prober = threading.Thread(target=probe)
    prober.start()
    with ThreadPoolExecutor(10) as pool:
        texts = list(pool.map(speak, range(10)))
    done.set()
    prober.join()

    assert texts == [words(number * 100 + 1, number * 100 + 50) for number in range(10)]
    assert sorted(delays_s)[len(delays_s) * 95 // 100] < 0.5  # the figure itself is in EXPERIMENTS.md


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_foreign_pages_are_refused_before_the_connection_is_accepted(
    api: RunningApi, headers: dict[str, str], status: int
) -> None:
    """A WebSocket knows no same-origin rule of its own."""
    host = headers.pop("Host", f"127.0.0.1:{api.port}")
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as client:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        client.sendall(
            f"GET /ws/transcribe HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{more}"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert client.recv(4096).startswith(f"HTTP/1.1 {status}".encode())


def test_our_own_page_is_welcome(api: RunningApi) -> None:
    """Its origin is the host that it asks."""
    with talk(api.url, config={}, origin=api.url) as talking:
        assert finish(talking)["type"] == "session_ended"


def test_a_server_that_ends_tells_what_was_said(redis_url: str) -> None:
    """1012 behind the rest, and new connections are sent away."""
    with run_api(redis_url, speech_provider="scripted") as api:
        with talk(api.url, config={}) as talking:
            talking.audio(1, 2)
            talking.next("partial")
            draining = api.thread.start(api.context.sessions.drain(5))
            said = talking.rest()
            draining.result(10)
            assert talking.closed_with[0] == 1012
            assert said[-1]["reason"] == "server_shutdown"
            assert talking.texts == ["w1 w2"]
        with pytest.raises(InvalidStatus) as refused, talk(api.url):
            pass
        assert refused.value.response.status_code == 503


def test_a_process_that_is_asked_to_end_tells_all_sessions_and_ends_without_complaint(
    redis_url: str, tmp_path: Path
) -> None:
    """Speaking, parked, without a config, ended and waiting to be fetched, with a recogniser that hangs."""
    with (
        run_api_process(redis_url, tmp_path / "log", speech_provider="scripted") as (process, url),
        ExitStack() as open,
    ):
        url = url.rstrip("/")
        speaking, parked, draining, hanging = (open.enter_context(talk(url, config={})) for _ in range(4))
        silent = open.enter_context(talk(url))
        for talking in (speaking, parked, draining):
            talking.audio(1)
            talking.next("partial")
        cut(parked)
        draining.send(type="end_of_stream")
        draining.next("session_ended")
        hanging.audio(1, -3)
        hanging.next("partial")
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        ends = [talking.rest() for talking in (speaking, silent, hanging)]
        status, took_s = process.ended(), time.monotonic() - began

        assert speaking.texts == ["w1"]
        assert [said[-1].get("reason") or said[-1].get("code") for said in ends[:2]] == ["server_shutdown"] * 2
        assert {talking.closed_with[0] for talking in (speaking, silent, hanging)} == {1012}
        assert (status, took_s < 12) == (0, True)
        assert [line["message"] for line in process.lines() if line["level"] in ("warning", "error", "critical")] == []


STUCK = """
import threading
from sibyl.api.main import run
from sibyl.config import load_settings
from sibyl.speech.scripted import ScriptedRecogniser
ScriptedRecogniser.recognise = lambda *_: threading.Event().wait()
run(load_settings())
"""


def test_a_recogniser_that_never_returns_does_not_keep_the_process(redis_url: str, tmp_path: Path) -> None:
    """Such as one that loads its model over a network that is gone: no thread can be stopped from outside."""
    log = tmp_path / "log"
    with run_process(STUCK, log, redis_url=redis_url, speech_provider="scripted") as process:
        url = process.wait_for("api_ready")["message"].removeprefix("API listens on ").rstrip("/")
        with talk(url) as talking:
            talking.send(type="config")
            process.wait_for("session_begins")
            process.signal(signal.SIGTERM)
            assert talking.rest()[-1]["code"] == "server_shutdown"
            assert talking.closed_with[0] == 1012
        assert process.ended(15) == 0
        assert process.lines()[-1]["action"] == "recogniser_stuck"


def test_json_on_the_wire_is_what_any_client_can_read(api: RunningApi) -> None:
    """Text frames, one object each, with a type."""
    with talk(api.url, config={}) as talking:
        talking.audio(1)
        talking.send(type="end_of_stream")
        while True:
            try:
                frame = talking.socket.recv(10)
            except ConnectionClosed:
                break
            assert isinstance(frame, str)
            assert json.loads(frame)["type"]
