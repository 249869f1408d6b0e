"""Transcriptions under faults: a killed worker, Redis or API loses no word and repeats none."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Serve, until
from tests.recordings import SLOW, said, spoken
from tests.system.conftest import StartServe
from tests.system.following import Follower

pytestmark = pytest.mark.timeout(120)

SCRIPTED = {"SIBYL_SPEECH_PROVIDER": "scripted"}
UTTERANCES = [[number, SLOW, 100 + number] for number in range(1, 9)]
AUDIO = spoken(*UTTERANCES)
TEXT = said(*UTTERANCES)


def post(serve: Serve, key: str = "recording", **fields: str) -> httpx.Response:
    """Ask, with a key, and come back as long as nobody answers."""
    while True:
        try:
            return httpx.post(
                f"{serve.url}/v1/audio/transcriptions",
                files={"file": ("a.wav", AUDIO)},
                data={"model": "m", **fields},
                headers={"Idempotency-Key": key},
                timeout=60,
                trust_env=False,
            )
        except httpx.TransportError:
            continue


def in_background(serve: Serve) -> tuple[threading.Thread, list[httpx.Response]]:
    """Ask in a thread; return it, and where the answer will be."""
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post(serve)), daemon=True)
    thread.start()
    return thread, answers


def only_task(serve: Serve) -> str:
    """The id of the one task, as soon as it is there."""
    found: list[str] = []

    def look() -> bool:
        tasks = httpx.get(f"{serve.url}/api/tasks", trust_env=False).json()["tasks"]
        found[:] = [task["task_id"] for task in tasks]
        return bool(found)

    until(look, limit_s=20, what="a task")
    assert len(found) == 1
    return found[0]


def times_of(task: dict[str, Any]) -> list[tuple[float, float, str]]:
    """When each segment was said."""
    return [(segment["start"], segment["end"], segment["text"]) for segment in task["segments"]]


@pytest.mark.parametrize("victim", ["sibyl worker", "redis-server", "sibyl api"])
def test_a_killed_process_costs_a_transcription_nothing(start_serve: StartServe, victim: str) -> None:
    """Kill -9 in the middle: text and times are those of a run that nothing has cut; who asked gets its answer."""
    serve = start_serve(env=SCRIPTED).ready()
    asking, answers = in_background(serve)
    reader = Follower(serve.url, only_task(serve))
    reader.wait_for("llm_streaming", 2)
    seen = reader.text

    os.kill(serve.child(victim), signal.SIGKILL)
    end = reader.wait_for_end()
    asking.join(60)

    task = serve.task(only_task(serve))
    assert (end["type"], task["state"]) == ("completed", "completed")
    assert reader.text == task["text"] == TEXT and TEXT.startswith(seen)
    assert answers[0].status_code == 200 and answers[0].json()["text"] == TEXT
    assert times_of(task) == [
        (round(0.7 * number, 6), round(0.7 * number + 0.3, 6), said(words)) for number, words in enumerate(UTTERANCES)
    ]
    assert task["attempt"] == (2 if victim == "sibyl worker" else 1)
    assert not any(hint["type"] == "reset" for hint in reader.hints)


def test_a_worker_that_is_killed_again_and_again_comes_to_the_end(start_serve: StartServe) -> None:
    """Each attempt stores something, so none of them counts as a failed one; and no decoder outlives its worker."""
    serve = start_serve(env=SCRIPTED | {"SIBYL_MAX_ATTEMPTS": "2"}).ready()
    asking, answers = in_background(serve)
    reader = Follower(serve.url, only_task(serve))
    decoders: list[int] = []
    for kills in range(1, 5):
        reader.wait_for("llm_streaming", kills)
        worker = serve.child("sibyl worker")
        decoders += children_of(worker)
        os.kill(worker, signal.SIGKILL)
        reader.wait_for("started", kills + 1)
    end = reader.wait_for_end()
    asking.join(60)

    assert end["type"] == "completed"
    assert reader.text == answers[0].json()["text"] == TEXT
    assert serve.task(only_task(serve))["attempt"] == 5
    assert len(decoders) == 4
    until(lambda: not any(map(runs, decoders)), limit_s=10, what="the end of the decoders")


def children_of(pid: int) -> list[int]:
    """The processes that this one has started; a worker starts none but decoders."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def runs(pid: int) -> bool:
    """Whether it does; one that ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
