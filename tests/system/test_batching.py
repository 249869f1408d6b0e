"""Real llama.cpp computes several answers together, and its process is killed: each goes on for itself."""

import os
import signal
from pathlib import Path

import httpx

from tests.load.make_random_gguf import main as make_gguf
from tests.processes import serving
from tests.system.following import Follower

ANSWERS = 6


def test_every_answer_of_a_killed_batch_goes_on_to_its_own_end(tmp_path: Path) -> None:
    """Six on four slots, killed twice in the middle: what readers saw stays, and is what is stored in the end."""
    make_gguf([str(tmp_path / "model.gguf"), "--preset", "30m"])  # slow enough to be killed, and never ends by itself
    flags = ("--engine", "llama", "--model", str(tmp_path / "model.gguf"), "--slots", "4", "--threads", "1")
    with serving(tmp_path / "data", *flags) as serve:
        with httpx.Client(base_url=serve.url, timeout=20, trust_env=False) as client:
            tasks = []
            for number in range(ANSWERS):
                question = {"question": f"Will I travel far in year {number}?", "sampling": {"max_tokens": 250}}
                reply = client.post("/api/questions", json=question)
                assert reply.status_code == 202, reply.text
                tasks.append(reply.json()["task_id"])
            followers = [Follower(serve.url, task_id) for task_id in tasks]
            for first in (0, -1):
                followers[first].wait_for("llm_streaming", 3)
                os.kill(serve.child("worker"), signal.SIGKILL)
            ends = [follower.wait_for_end() for follower in followers]
            stored = [client.get(f"/api/tasks/{task_id}").json() for task_id in tasks]

    assert [end["type"] for end in ends] == ["completed"] * ANSWERS
    assert [follower.text for follower in followers] == [task["text"] for task in stored]
    assert sum(task["attempt"] > 1 for task in stored) >= 2
    assert all(follower.hints == [] or not _reset(follower) for follower in followers)


def _reset(follower: Follower) -> bool:
    return any(hint["type"] == "reset" for hint in follower.hints)
