"""`POST /v1/audio/transcriptions`, asked by OpenAI's own client, and by those who mean no good."""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis import Redis

import sibyl.api.upload
from sibyl.api.upload import OVERHEAD_BYTES, UPLOADS, TooManyUploads, UploadRoom
from sibyl.wire.form import FileTooLarge
from tests.recordings import HANG, SLOW, said, spoken, tone
from tests.serving import (
    RunningApi,
    RunningWorker,
    data_of,
    read_events,
    run_api,
    run_worker,
    show,
    text_of,
    wait_until,
)

PATH = "/v1/audio/transcriptions"
UTTERANCES = ([1, 2, 3], [4, 5], [6])
AUDIO = spoken(*UTTERANCES)
TEXT = said(*UTTERANCES)
SLOWLY = spoken([1], *[[SLOW]] * 4, [2])
SLOWLY_TEXT = said([1], *[[SLOW]] * 4, [2])


@pytest.fixture
def vendor(api: RunningApi) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, unmodified."""
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client


def post(
    client: httpx.Client, audio: bytes = AUDIO, headers: dict[str, str] | None = None, **fields: str
) -> httpx.Response:
    """Ask without OpenAI's client."""
    data = {"model": "whisper-1", **fields}
    return client.post(PATH, files={"file": ("a.wav", audio)}, data=data, headers=headers)


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return response.status_code, response.json()["error"]["code"]


def newest(client: httpx.Client) -> str:
    """The id of the newest task, once there is one."""
    assert wait_until(lambda: bool(client.get("/api/tasks").json()["tasks"]))
    return str(client.get("/api/tasks").json()["tasks"][0]["task_id"])


def in_background(call: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    """Call it in a thread; return that, and where its result will be."""
    results: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


# ---- OpenAI's client


def test_openais_client_gets_the_text(vendor: openai.OpenAI, worker: RunningWorker) -> None:
    """The default format, and the plain one."""
    answer = vendor.audio.transcriptions.create(model="whisper-1", file=("a.wav", AUDIO))
    plain = vendor.audio.transcriptions.create(model="whisper-1", file=("a.wav", AUDIO), response_format="text")

    assert answer.text == TEXT
    assert answer.usage is not None and answer.usage.to_dict() == {"type": "duration", "seconds": 2}
    assert plain == TEXT + "\n"


def test_openais_client_gets_words_and_segments(vendor: openai.OpenAI, worker: RunningWorker) -> None:
    """With their times, on the clock of the file."""
    answer = vendor.audio.transcriptions.create(
        model="whisper-1",
        file=("a.wav", AUDIO),
        response_format="verbose_json",
        language="en",
        temperature=0,
        prompt="Numbers.",
        timestamp_granularities=["word", "segment"],
    )

    assert (answer.text, answer.language, answer.duration) == (TEXT, "en", 1.8)
    assert answer.segments is not None and answer.words is not None
    assert [(part.start, part.end, part.text) for part in answer.segments] == [
        (0.0, 0.3, "w1 w2 w3"),
        (0.7, 0.9, "w4 w5"),
        (1.3, 1.4, "w6"),
    ]
    assert [(word.word, word.start, word.end) for word in answer.words][3:5] == [("w4", 0.7, 0.8), ("w5", 0.8, 0.9)]


def test_openais_client_gets_subtitles(vendor: openai.OpenAI, worker: RunningWorker) -> None:
    """Both kinds, as text."""
    srt = vendor.audio.transcriptions.create(model="whisper-1", file=("a.wav", AUDIO), response_format="srt")
    vtt = vendor.audio.transcriptions.create(model="whisper-1", file=("a.wav", AUDIO), response_format="vtt")

    assert srt.startswith("1\n00:00:00,000 --> 00:00:00,300\nw1 w2 w3\n\n2\n")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.300\nw1 w2 w3\n\n")


def test_openais_client_gets_the_text_while_it_is_heard(vendor: openai.OpenAI, worker: RunningWorker) -> None:
    """Deltas that add up, the first one long before the end, then the whole."""
    began = time.monotonic()
    events, times = [], []
    for event in vendor.audio.transcriptions.create(model="whisper-1", file=("a.wav", SLOWLY), stream=True):
        events.append(event)
        times.append(time.monotonic() - began)

    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert deltas[0] == "w1" and len(deltas) > 2
    assert "".join(deltas) == SLOWLY_TEXT
    assert [event.type for event in events].index("transcript.text.done") == len(events) - 1
    assert events[-1].type == "transcript.text.done" and events[-1].text == SLOWLY_TEXT
    assert times[-1] - times[0] > 1.0


def test_openais_client_raises_what_ends_a_stream_early(vendor: openai.OpenAI, worker: RunningWorker) -> None:
    """Its own error, with our words."""
    with pytest.raises(openai.APIError, match="asked for a failure"):
        for _ in vendor.audio.transcriptions.create(model="whisper-1", file=("a.wav", spoken([1], [-1])), stream=True):
            pass


def test_openais_client_understands_our_errors(vendor: openai.OpenAI, worker: RunningWorker) -> None:
    """Status, code and message are where it looks for them."""
    with pytest.raises(openai.APIStatusError) as refusal:
        vendor.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"Why?"))

    assert (refusal.value.status_code, refusal.value.code) == (415, "audio_unreadable")
    assert "WAV, FLAC, Ogg or MP3" in refusal.value.message


# ---- a task like any other


@pytest.mark.parametrize("stream", ["false", "true"])
def test_it_is_a_task_that_anybody_can_follow(client: httpx.Client, worker: RunningWorker, stream: str) -> None:
    """Location names it; it shows its segments, its native events can be had again from any place."""
    response = post(client, stream=stream)

    location = response.headers["location"]
    task = client.get(location).json()
    assert (task["kind"], task["state"], task["text"], task["duration"]) == ("transcription", "completed", TEXT, 1.8)
    assert [segment["text"] for segment in task["segments"]] == ["w1 w2 w3", "w4 w5", "w6"]
    assert task["segments"][1]["words"][0] == {"word": "w4", "start": 0.7, "end": 0.8, "confidence": 1.0}
    frames = read_events(client, task["task_id"])
    assert text_of(frames) == TEXT
    assert data_of(frames[-1])["duration"] == 1.8
    first = next(frame for frame in frames if frame.event == "llm_streaming")
    assert read_events(client, task["task_id"], after=first.id) == frames[frames.index(first) + 1 :]
    listed = client.get("/api/tasks").json()["tasks"][0]
    assert listed["text"] == TEXT and "segments" not in listed


def test_a_client_that_leaves_stops_nothing(client: httpx.Client, worker: RunningWorker) -> None:
    """It waits for an answer no longer; the task goes on, and whoever comes back with the key gets the answer."""
    key = {"Idempotency-Key": "recording-1"}
    with pytest.raises(httpx.ReadTimeout):
        client.post(PATH, files={"file": SLOWLY}, data={"model": "m"}, headers=key, timeout=0.5)

    task_id = newest(client)
    answer = post(client, SLOWLY, key, model="m")

    assert answer.json()["text"] == SLOWLY_TEXT
    assert answer.headers["location"] == f"/api/tasks/{task_id}"
    assert show(client, task_id)["attempt"] == 1


def test_a_stream_that_is_left_stops_nothing(client: httpx.Client, worker: RunningWorker) -> None:
    """Nor does it keep a place among the followers."""
    with client.stream("POST", PATH, files={"file": SLOWLY}, data={"model": "m", "stream": "true"}) as response:
        next(response.iter_raw())

    task_id = response.headers["location"].rpartition("/")[2]
    assert text_of(read_events(client, task_id)) == SLOWLY_TEXT


def test_the_same_key_is_the_same_task_and_for_another_file_it_is_refused(
    client: httpx.Client, worker: RunningWorker, redis_admin: Redis
) -> None:
    """Every byte and every field counts. What was stored for a repeat is not kept."""
    key = {"Idempotency-Key": "recording-1"}
    first = post(client, headers=key)
    again = post(client, headers=key)
    other_file = post(client, spoken([9]), headers=key)
    other_format = post(client, headers=key, response_format="srt")

    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert error_of(other_file) == error_of(other_format) == (422, "idempotency_mismatch")
    assert len(client.get("/api/tasks").json()["tasks"]) == 1
    assert not redis_admin.keys("*:audio:*")


def test_a_cancel_ends_the_waiting_and_the_task(client: httpx.Client, worker: RunningWorker) -> None:
    """409 for who waits for the whole; an error for who follows; the slot is free."""
    for stream in ("false", "true"):
        waiting, answers = in_background(lambda: post(client, spoken([1], [HANG]), stream=stream))  # noqa: B023
        assert wait_until(lambda: client.get("/api/tasks?state=running").json()["tasks"] != [])
        task_id = newest(client)
        assert wait_until(lambda: show(client, task_id)["text"] == "w1")  # noqa: B023
        client.post(f"/api/tasks/{task_id}/cancel")
        waiting.join(10)

        if stream == "false":
            assert error_of(answers[0]) == (409, "task_cancelled")
        else:
            assert '"code":"task_cancelled"' in answers[0].text and "transcript.text.done" not in answers[0].text
        assert answers[0].headers["location"] == f"/api/tasks/{task_id}"


def test_an_erased_task_ends_the_waiting(client: httpx.Client, worker: RunningWorker, redis_admin: Redis) -> None:
    """410, and nothing of the recording is left."""
    waiting, answers = in_background(lambda: post(client, spoken([1], [HANG])))
    assert wait_until(lambda: bool(redis_admin.keys("*:audio:*")))
    task_id = newest(client)
    client.delete(f"/api/tasks/{task_id}")
    waiting.join(10)

    assert error_of(answers[0]) == (410, "task_forgotten")
    assert not redis_admin.keys("*:audio:*") and not redis_admin.exists("sibyl:{q0}:audios")


def test_what_waits_holds_no_memory_here(api: RunningApi, client: httpx.Client, redis_admin: Redis) -> None:
    """The file is in Redis from the moment on in which its task is accepted, and nowhere else."""
    waiting, _ = in_background(lambda: post(client))
    assert wait_until(lambda: bool(client.get("/api/tasks?state=queued").json()["tasks"]))

    assert api.context.uploads.held_bytes == 0
    assert [int(size) for size in redis_admin.hvals("sibyl:{q0}:audios")] == [len(AUDIO)]
    client.post(f"/api/tasks/{newest(client)}/cancel")
    waiting.join(10)


def test_a_node_that_ends_says_where_the_task_is(redis_url: str) -> None:
    """503 with a Location and a Retry-After; the task waits in the queue as before."""
    with run_api(redis_url) as api, api.client() as client:
        waiting, answers = in_background(lambda: post(client))
        assert wait_until(lambda: bool(client.get("/api/tasks?state=queued").json()["tasks"]))
        location = f"/api/tasks/{newest(client)}"
        api.thread.loop.call_soon_threadsafe(api.context.draining.set)
        waiting.join(10)

    assert error_of(answers[0]) == (503, "node_draining")
    assert (answers[0].headers["location"], answers[0].headers["retry-after"]) == (location, "1")


# ---- what is refused

WRONG: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no file": (422, "invalid_request", {"data": {"model": "m"}, "files": {"x": (None, b"y")}}),
    "an empty file": (422, "invalid_request", {"data": {"model": "m"}, "files": {"file": b""}}),
    "no model": (422, "invalid_request", {"files": {"file": AUDIO}}),
    "an unknown field": (422, "invalid_request", {"data": {"model": "m", "modle": "m"}, "files": {"file": AUDIO}}),
    "a wrong format": (
        422,
        "invalid_request",
        {"data": {"model": "m", "response_format": "xml"}, "files": {"file": AUDIO}},
    ),
    "no language": (422, "invalid_request", {"data": {"model": "m", "language": "?"}, "files": {"file": AUDIO}}),
    "no form": (415, "unsupported_media_type", {"json": {"model": "m"}}),
    "no boundary": (
        415,
        "unsupported_media_type",
        {"content": b"--x--", "headers": {"content-type": "multipart/form-data"}},
    ),
    "another boundary": (
        400,
        "malformed_form",
        {"content": b"--y--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ),
    "nothing": (400, "malformed_form", {"headers": {"content-type": "multipart/form-data; boundary=x"}}),
    "many parts": (400, "malformed_form", {"files": [("a", (None, b"x"))] * 1000}),
    "a huge header": (
        400,
        "malformed_form",
        {
            "content": b"--x\r\nA: " + b"b" * 200_000 + b"\r\n\r\n",
            "headers": {"content-type": "multipart/form-data; boundary=x"},
        },
    ),
}


@pytest.mark.parametrize(("status", "code", "asked"), WRONG.values(), ids=WRONG)
def test_a_wrong_form_is_refused(
    api: RunningApi, client: httpx.Client, redis_admin: Redis, status: int, code: str, asked: dict[str, Any]
) -> None:
    """A clear 4xx; no task, nothing stored, nothing held, no file left."""
    temporary = set(os.listdir(tempfile.gettempdir()))

    response = client.post(PATH, **asked)

    assert error_of(response) == (status, code)
    assert client.get("/api/tasks").json()["tasks"] == []
    assert not redis_admin.keys("*:audio:*")
    assert api.context.uploads.held_bytes == 0
    assert not [name for name in set(os.listdir(tempfile.gettempdir())) - temporary if not Path(name).suffix]


def test_a_file_that_is_too_large_is_refused(redis_url: str) -> None:
    """413, by what it declares and by what comes."""
    with run_api(redis_url, upload_bytes=len(AUDIO) - 1) as api, api.client() as client:
        assert error_of(post(client)) == (413, "file_too_large")
        with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
            connection.sendall(
                f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n"
                "content-type: multipart/form-data; boundary=x\r\n\r\n".encode()
            )
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece

    assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()


def test_the_largest_file_is_taken(redis_url: str) -> None:
    """To the byte."""
    with run_api(redis_url, upload_bytes=len(AUDIO)) as api, run_worker(redis_url), api.client() as client:
        assert post(client).json()["text"] == TEXT


@pytest.mark.parametrize("limit", ["UPLOAD_S", "STALL_S"])
def test_a_form_that_trickles_is_given_up(api: RunningApi, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """408 after a while, and the connection is closed."""
    monkeypatch.setattr(sibyl.api.upload, limit, 0.3)
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
            "content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode()
        )
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece

    assert answer.startswith(b"HTTP/1.1 408")
    assert api.context.uploads.held_bytes == 0


def test_a_client_that_leaves_in_the_middle_of_its_file_leaves_nothing(
    api: RunningApi, client: httpx.Client, redis_admin: Redis
) -> None:
    """No task, no memory, no error in the log; the fixture looks."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n"
            "content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode()
            + b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            + b"x" * 10_000
        )
        assert wait_until(lambda: api.context.uploads.held_bytes > 10_000)

    assert wait_until(lambda: api.context.uploads.held_bytes == 0)
    assert client.get("/api/tasks").json()["tasks"] == []
    assert not redis_admin.keys("*:audio:*")


def test_all_uploads_together_hold_so_much() -> None:
    """Then others are refused, and taken again when somebody is done. A slow one holds what has come of it."""
    room = UploadRoom(file_bytes=1000)
    with room.share() as late:
        for _ in range(UPLOADS - 1):
            room.held_bytes += 1000 + OVERHEAD_BYTES
        late.grow(1000 + OVERHEAD_BYTES)
        with room.share() as other, pytest.raises(TooManyUploads):
            other.grow(1)
        with pytest.raises(FileTooLarge):
            late.grow(1)
    with room.share() as other:
        other.grow(1)

    assert room.held_bytes == (UPLOADS - 1) * (1000 + OVERHEAD_BYTES)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://127.0.0.1", 403),
        ("http://127.0.0.1:999999", 403),
        ("http://[", 403),
        ("own", 200),
    ],
)
def test_a_page_of_another_site_cannot_send_a_file(
    api: RunningApi, client: httpx.Client, worker: RunningWorker, origin: str, status: int
) -> None:
    """A browser would not even ask us before it sends such a form; our own page may."""
    response = post(client, headers={"Origin": api.url if origin == "own" else origin})

    assert response.status_code == status
    if status == 403:
        assert error_of(response)[1] == "foreign_origin"


def test_a_multipart_body_is_taken_nowhere_else(client: httpx.Client) -> None:
    """Not with another method, and not on another path."""
    assert client.put(PATH, files={"file": AUDIO}).status_code in (405, 415)
    assert client.post(f"{PATH}/", files={"file": AUDIO}).status_code in (404, 415)


def test_an_mp3_of_a_tone_is_heard_as_no_word(client: httpx.Client, worker: RunningWorker) -> None:
    """Any format, any rate: it comes to the recogniser as 16 kHz; this one hears that it is no word of its own."""
    answer = post(client, tone(1.0, form="MP3", rate_hz=44_100, channels=2))

    assert set(answer.json()["text"].split()) <= {"garbled", "w0"}
    assert "garbled" in answer.json()["text"]
