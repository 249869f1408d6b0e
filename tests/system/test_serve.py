"""`sibyl serve` under faults: what a user saw never changes, and the answer goes on to its end."""

import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.processes import Serve, free_port, until
from tests.system.conftest import StartServe
from tests.system.following import Follower

pytestmark = pytest.mark.timeout(120)

SLOW = "Tell me slowly. [tokens=80] [pace=40]"


def test_a_killed_worker_is_replaced_and_its_answer_goes_on_to_the_same_end(start_serve: StartServe) -> None:
    """Kill -9 in the middle of an answer: the stream pauses, says that attempt 2 began, and ends as if nothing was."""
    serve = start_serve().ready()
    twin = Follower(serve.url, serve.ask(SLOW, sampling={"seed": 5})["task_id"])
    twin.wait_for_end()

    task_id = serve.ask(SLOW, sampling={"seed": 5})["task_id"]
    reader = Follower(serve.url, task_id)
    reader.wait_for("llm_streaming", 10)
    seen = reader.text
    os.kill(serve.child("sibyl worker"), signal.SIGKILL)
    end = reader.wait_for_end()

    assert end["type"] == "completed"
    assert [event["attempt"] for event in reader.events if event["type"] == "started"] == [1, 2]
    assert reader.text.startswith(seen)
    assert reader.text == twin.text == serve.task(task_id)["text"]
    assert [event["index"] for event in reader.events if event["type"] == "llm_streaming"] == list(
        range(len([event for event in reader.events if event["type"] == "llm_streaming"]))
    )
    assert len(set(reader.ids)) == len(reader.ids)


def test_a_killed_worker_is_replaced_within_three_seconds(start_serve: StartServe) -> None:
    """The new worker takes over at once what the dead one held; it does not wait for the lease to run out."""
    serve = start_serve("--log-format", "json").ready()
    reader = Follower(serve.url, serve.ask(SLOW)["task_id"])
    reader.wait_for("llm_streaming", 3)

    began = time.monotonic()
    os.kill(serve.child("sibyl worker"), signal.SIGKILL)
    reader.wait_for("started", 2)

    assert time.monotonic() - began < 3.0
    reader.wait_for_end()


def test_a_killed_redis_comes_back_with_everything_and_the_answer_goes_on(start_serve: StartServe) -> None:
    """Kill -9 of the embedded Redis in the middle of an answer loses and repeats nothing."""
    serve = start_serve().ready()
    earlier = serve.ask("Something before. [tokens=5]")["task_id"]
    Follower(serve.url, earlier).wait_for_end()
    task_id = serve.ask(SLOW, sampling={"seed": 9})["task_id"]
    reader = Follower(serve.url, task_id)
    reader.wait_for("llm_streaming", 10)
    seen = reader.text

    os.kill(serve.child("redis-server"), signal.SIGKILL)
    end = reader.wait_for_end()

    assert end["type"] == "completed"
    assert reader.text.startswith(seen)
    assert reader.text == serve.task(task_id)["text"]
    assert len(reader.text) == end["text_length"]
    assert serve.task(earlier)["state"] == "completed"
    assert not any(hint["type"] == "reset" for hint in reader.hints)


def test_a_killed_api_comes_back_on_the_same_port_and_readers_resume(start_serve: StartServe) -> None:
    """Kill -9 of the API cuts every stream; readers come back with their cursors and miss nothing."""
    serve = start_serve().ready()
    task_id = serve.ask(SLOW)["task_id"]
    readers = [Follower(serve.url, task_id) for _ in range(5)]
    for reader in readers:
        reader.wait_for("llm_streaming", 5)

    os.kill(serve.child("sibyl api"), signal.SIGKILL)

    for reader in readers:
        assert reader.wait_for_end()["type"] == "completed"
        assert reader.connects > 1
        assert reader.text == serve.task(task_id)["text"]


def test_a_crashing_engine_costs_attempts_and_then_the_task_fails_in_words(start_serve: StartServe) -> None:
    """An abort() in the engine ends the worker's process each time; the task ends as worker_lost, the rest lives on."""
    serve = start_serve(env={"SIBYL_MAX_ATTEMPTS": "2"}).ready()

    end = Follower(serve.url, serve.ask("Break. [crash]")["task_id"]).wait_for_end()

    assert (end["type"], end["code"]) == ("failed", "worker_lost")
    after = Follower(serve.url, serve.ask("Are you there? [tokens=5]")["task_id"]).wait_for_end()
    assert after["type"] == "completed"


def test_a_second_start_is_ready_within_five_seconds_with_all_that_was_there(start_serve: StartServe) -> None:
    """Tasks and answers of the first run are still there, also one that had not begun."""
    serve = start_serve("--slots", "1").ready()
    finished = serve.ask("First. [tokens=8]")["task_id"]
    Follower(serve.url, finished).wait_for_end()
    text = serve.task(finished)["text"]
    assert serve.stop() == 0

    began = time.monotonic()
    again = start_serve("--slots", "1", data_dir=serve.data_dir).ready()
    took_s = time.monotonic() - began

    assert took_s < 5.0
    assert again.task(finished)["text"] == text


def test_ctrl_c_ends_everything_in_named_steps_without_a_traceback(start_serve: StartServe) -> None:
    """Exit code 0, every child gone, the steps in the log."""
    serve = start_serve().ready()
    children = [serve.child(word) for word in ("sibyl api", "sibyl worker", "redis-server")]

    assert serve.stop() == 0

    steps = [serve.log.index(step) for step in ("Ending: workers", "Ending: API", "Ending: Redis", "Ended")]
    assert steps == sorted(steps)
    assert "Traceback" not in serve.log
    assert "rror" not in serve.log
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_running_answer_is_finished_before_the_end(start_serve: StartServe) -> None:
    """SIGTERM: the answer under way completes, and its reader sees it."""
    serve = start_serve().ready()
    reader = Follower(serve.url, serve.ask("Finish this. [tokens=40] [pace=40]")["task_id"])
    reader.wait_for("llm_streaming", 3)

    serve.process.send_signal(signal.SIGTERM)

    assert reader.wait_for_end()["type"] == "completed"
    assert serve.process.wait(20) == 0


def test_an_answer_over_the_drain_limit_is_handed_over_to_the_next_start(start_serve: StartServe) -> None:
    """What could not be finished goes on after the restart, with the text of an uninterrupted run."""
    question = "A long one. [tokens=120] [pace=30]"
    serve = start_serve(env={"SIBYL_DRAIN_S": "0.5"}).ready()
    task_id = serve.ask(question, sampling={"seed": 3})["task_id"]
    reader = Follower(serve.url, task_id, limit_s=5)
    reader.wait_for("llm_streaming", 5)
    assert serve.stop() == 0

    again = start_serve(data_dir=serve.data_dir).ready()
    resumed = Follower(again.url, task_id)
    twin = Follower(again.url, again.ask(question, sampling={"seed": 3})["task_id"])
    resumed.wait_for_end()
    twin.wait_for_end()

    assert resumed.text == twin.text
    assert resumed.text.startswith(reader.text)
    assert [event["attempt"] for event in resumed.events if event["type"] == "started"] == [1, 2]


def test_nothing_outlives_a_supervisor_that_was_killed(start_serve: StartServe) -> None:
    """Kill -9 of `serve`: Redis, API and worker end too, and the next start works at once."""
    serve = start_serve(env={"SIBYL_DRAIN_S": "1"}).ready()
    children = [serve.child(word) for word in ("sibyl api", "sibyl worker", "redis-server")]

    serve.process.kill()
    serve.process.wait()

    for pid in children:
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), limit_s=30, what=f"end of {pid}")  # type: ignore[misc]
    assert "Traceback" not in serve.log
    start_serve(data_dir=serve.data_dir).ready()


def _refused(serve: Serve) -> str:
    """The last line of a start that must fail with exit code 2 and no traceback."""
    assert serve.process.wait(60) == 2, serve.log
    assert "Traceback" not in serve.log
    return serve.log.strip().splitlines()[-1]


def test_a_port_in_use_is_said_in_one_line(start_serve: StartServe) -> None:
    """The line names the port and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serve = start_serve("--port", str(taken.getsockname()[1]))

        line = _refused(serve)

    assert "in use" in line and "--port" in line
    assert len(serve.log.strip().splitlines()) == 1


def test_a_missing_model_is_said_before_anything_is_started(start_serve: StartServe, tmp_path: Path) -> None:
    """The line names the path."""
    line = _refused(start_serve("--model", str(tmp_path / "no-such.gguf")))

    assert "no-such.gguf" in line


def test_a_broken_model_is_said_in_words(start_serve: StartServe, tmp_path: Path) -> None:
    """A file that is no GGUF ends the start with exit code 2, not with restarts for ever."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(1000))

    serve = start_serve("--model", str(broken))

    assert serve.process.wait(60) == 2
    assert "Traceback" not in serve.log
    assert "broken.gguf" in serve.log


def test_a_redis_out_of_reach_is_said_in_words(start_serve: StartServe) -> None:
    """`--redis-url` to nobody: one line and an exit code."""
    serve = start_serve("--redis-url", f"redis://127.0.0.1:{free_port()}/0")

    assert serve.process.wait(60) != 0
    assert "Traceback" not in serve.log
    assert "Redis" in serve.log.strip().splitlines()[-1]


def test_a_second_serve_on_the_same_data_is_refused_clearly(start_serve: StartServe) -> None:
    """The line names the process that holds the data."""
    first = start_serve().ready()

    line = _refused(start_serve(data_dir=first.data_dir))

    assert str(first.process.pid) in line
    assert httpx.get(f"{first.url}/readyz", trust_env=False).status_code == 200


def test_a_neighbour_of_a_question_that_kills_its_worker_is_answered(start_serve: StartServe) -> None:
    """Both share a worker that dies again and again: only the one that makes no progress fails."""
    serve = start_serve("--slots", "2", env={"SIBYL_MAX_ATTEMPTS": "3"}).ready()
    innocent = Follower(serve.url, serve.ask("Slowly. [tokens=60] [pace=20]")["task_id"])
    innocent.wait_for("llm_streaming", 3)

    poison = Follower(serve.url, serve.ask("Break. [crash=2]")["task_id"])

    assert poison.wait_for_end()["type"] == "failed"
    assert innocent.wait_for_end()["type"] == "completed"


def test_it_serves_without_standard_streams(start_serve: StartServe) -> None:
    """Started by something that closed them, as some supervisors do."""
    serve = start_serve(closed_stdin=True).ready()

    assert httpx.get(f"{serve.url}/healthz", trust_env=False).status_code == 200


def test_the_welcome_names_the_address_that_was_asked_for(start_serve: StartServe) -> None:
    """What it tells to type next works as written."""
    serve = start_serve().ready()

    until(lambda: "Stop with Ctrl-C" in serve.log, limit_s=10, what="welcome")
    assert f"ask --url {serve.url}/ " in serve.log


def test_a_closed_terminal_drains(start_serve: StartServe) -> None:
    """SIGHUP is an end like Ctrl-C, unless it is to be ignored, as under nohup, where these tests may run as well."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        serve = start_serve().ready()
    finally:
        signal.signal(signal.SIGHUP, before)

    serve.process.send_signal(signal.SIGHUP)

    assert serve.process.wait(30) == 0


def test_a_redis_that_cannot_start_again_is_tried_until_it_can(start_serve: StartServe) -> None:
    """Its data cannot be read for a while: the API stays up and says 503, and afterwards everything is there."""
    serve = start_serve().ready()
    task_id = serve.ask("Something before. [tokens=5]")["task_id"]
    Follower(serve.url, task_id).wait_for_end()
    redis = serve.child("redis-server")
    log = max((serve.data_dir / "redis").rglob("*.aof"), key=lambda path: path.stat().st_size)
    with log.open("r+b") as file:
        beginning = file.read(4)
        file.seek(0)
        file.write(b"XXXX")
    os.kill(redis, signal.SIGKILL)
    until(lambda: "Redis cannot start" in serve.log, limit_s=20, what="the failed start")

    assert httpx.get(f"{serve.url}/readyz", timeout=10, trust_env=False).status_code == 503
    with log.open("r+b") as file:
        file.write(beginning)

    serve.ready()
    assert serve.task(task_id)["state"] == "completed"
