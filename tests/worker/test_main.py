"""The worker's process: how it starts, crashes, drains and ends."""

import signal
import time
from pathlib import Path

from sibyl.core.state import State
from tests.serving import run_worker_process
from tests.worker.desk import Desk, uninterrupted


async def test_a_question_that_crashes_every_worker_ends_as_worker_lost(desk: Desk, tmp_path: Path) -> None:
    """A failed assertion in a C library, twice; the third process takes no third crash and answers others."""
    task_id = await desk.ask("[tokens=20] [crash=3]")
    for _ in range(2):
        with run_worker_process(desk.redis_url, tmp_path / "log", max_attempts=2) as process:
            assert process.ended() == -signal.SIGABRT
    with run_worker_process(desk.redis_url, tmp_path / "log", max_attempts=2):
        task = await desk.end(task_id)
        following = await desk.end(await desk.ask("[tokens=1]"))

    assert (task.state, task.error and task.error.code) == (State.FAILED, "worker_lost")
    assert await desk.attempts(task_id) == [1, 2]
    assert following.state is State.COMPLETED


async def test_a_killed_process_is_continued_by_its_successor_at_once(desk: Desk, tmp_path: Path) -> None:
    """Kill -9 in the middle; under the same name the next one need not wait for the lease of 30 s."""
    question = "[pace=40] [tokens=60]"
    task_id = await desk.ask(question)
    with run_worker_process(desk.redis_url, tmp_path / "log", lease_s=30, heartbeat_s=5) as process:
        await desk.begun(task_id, 20)
        process.signal(signal.SIGKILL)
        process.ended()
    with run_worker_process(desk.redis_url, tmp_path / "log", lease_s=30, heartbeat_s=5):
        task = await desk.end(task_id)

    assert (task.state, task.attempt, task.text) == (State.COMPLETED, 2, await uninterrupted(question))


async def test_a_drain_finishes_and_ends_without_complaint(desk: Desk, tmp_path: Path) -> None:
    """Status 0; the last lines tell the steps; no line is a warning, none holds the question."""
    question = "[pace=40] [tokens=30] Rumpelstilzchen"
    with run_worker_process(desk.redis_url, tmp_path / "log", log_level="debug") as process:
        process.wait_for("worker_ready")
        task_id = await desk.ask(question)
        await desk.begun(task_id)
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.ended() == 0
        took_s = time.monotonic() - began

    assert (await desk.show(task_id)).state is State.COMPLETED
    assert took_s < 3
    assert [line for line in process.lines() if line["level"] not in ("info", "debug")] == []
    assert [line["action"] for line in process.lines()][-3:] == ["drain", "attempt_ends", "worker_ended"]
    assert "Rumpel" not in process.log.read_text()
