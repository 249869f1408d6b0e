"""The API's process: how it starts, drains and ends."""

import asyncio
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from sibyl.wire.sse import Frame, Parser
from tests.api.test_streaming import RawStream, chunks, fill
from tests.serving import ask, run_api_process, run_process, run_worker, text_of, wait_until


def follow_to_the_cut(url: str, task_id: str, frames: list[Frame], first: threading.Event) -> BaseException | None:
    """Read a stream until it ends and return how: None for a clean end."""
    parser = Parser()
    try:
        with httpx.stream("GET", f"{url}api/tasks/{task_id}/events", timeout=10, trust_env=False) as response:
            for piece in response.iter_raw():
                frames += parser.feed(piece)
                first.set()
    except httpx.RemoteProtocolError as error:
        return error
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_cuts_streams_and_ends_without_complaint(
    redis_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """The body breaks off within a second, which no client takes for an end; status 0, no warning, no traceback."""
    cuts: list[BaseException | None] = []
    frames: list[Frame] = []
    first = threading.Event()
    with run_worker(redis_url), run_api_process(redis_url, tmp_path / "log") as (process, url):
        with httpx.Client(base_url=url, trust_env=False, verify=False) as client:
            task_id = ask(client, "[pace=20] [tokens=1000]")["task_id"]
        reader = threading.Thread(target=lambda: cuts.append(follow_to_the_cut(url, task_id, frames, first)))
        reader.start()
        assert first.wait(5)
        began = time.monotonic()
        process.signal(number)
        reader.join(5)
        cut_s = time.monotonic() - began
        status = process.ended()
        ended_s = time.monotonic() - began

    assert isinstance(cuts[0], httpx.RemoteProtocolError) and "incomplete chunked read" in str(cuts[0])
    assert cut_s < 1
    assert (status, ended_s < 3) == (0, True)
    assert "completed" not in [frame.event for frame in frames] and text_of(frames) is not None
    assert [line["message"] for line in process.lines() if line["level"] in ("warning", "error", "critical")] == []
    assert [line["action"] for line in process.lines()][-2:] == ["drain", "api_ended"]


def test_a_reader_that_takes_nothing_does_not_hold_up_the_drain(redis_url: str, tmp_path: Path) -> None:
    """Its connection is broken as well, whatever lies unsent."""
    with run_api_process(redis_url, tmp_path / "log") as (process, url):
        with httpx.Client(base_url=url, trust_env=False, verify=False) as client:
            task_id = ask(client, "x")["task_id"]
            asyncio.run(fill(redis_url, task_id, 2000, "x" * 4000))
            with RawStream(int(url.rstrip("/").rpartition(":")[2]), task_id, receive_bytes=4096):
                assert wait_until(lambda: "sibyl_followers 1.0" in client.get("/metrics").text)
                began = time.monotonic()
                process.signal(signal.SIGTERM)
                assert process.ended() == 0
                took_s = time.monotonic() - began

    assert took_s < 3
    assert [line["message"] for line in process.lines() if line["level"] in ("warning", "error", "critical")] == []


def test_a_whole_stream_before_a_drain_is_not_cut(redis_url: str, tmp_path: Path) -> None:
    """An answer that has ended ends its body properly."""
    with run_worker(redis_url), run_api_process(redis_url, tmp_path / "log") as (_, url):
        with httpx.Client(base_url=url, trust_env=False, verify=False) as client:
            task_id = ask(client, "[tokens=3]")["task_id"]
        with RawStream(int(url.rstrip("/").rpartition(":")[2]), task_id) as stream:
            data = stream.read_until(b"0\r\n\r\n")

    assert chunks(data.partition(b"\r\n\r\n")[2])[1]


def test_the_process_does_not_say_what_serves(redis_url: str, tmp_path: Path) -> None:
    """No name of a server in its headers."""
    with run_api_process(redis_url, tmp_path / "log") as (_, url):
        headers = httpx.get(f"{url}healthz", trust_env=False).headers

    assert "server" not in headers


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({}, "from sibyl.api.main import run", "--redis-url"),
        ({"redis_url": "nonsense://x"}, "from sibyl.api.main import run", "Redis URL cannot be used"),
        ({}, "from sibyl.worker.main import run", "--redis-url"),
    ],
)
def test_a_process_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, settings: dict[str, str], code: str, message: str
) -> None:
    """A typed error for the command line to show."""
    arguments = "name='w'" if "worker" in code else ""
    script = (
        f"{code}\nfrom sibyl.config import load_settings\nfrom sibyl.core.errors import SibylError\nimport sys\n"
        f"try: run(load_settings(), {arguments})\nexcept SibylError as error: sys.exit('said: ' + error.message)"
    )
    with run_process(script, tmp_path / "log", data_dir=str(tmp_path), **settings) as process:
        assert process.ended() == 1

    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("said: ") and message in last
