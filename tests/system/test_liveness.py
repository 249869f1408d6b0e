"""Workers and APIs that die, freeze, or lose their Redis, under `sibyl serve` with two workers."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.processes import Serve, until, workers_alive
from tests.redis_nodes import RedisNode
from tests.system.conftest import StartServe
from tests.system.following import Follower

pytestmark = pytest.mark.timeout(120)

QUESTION = "Tell me slowly. [tokens=120] [pace=30]"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RedisNode]:
    """A Redis that the test may kill, and look into."""
    redis = RedisNode(tmp_path / "redis").start()
    yield redis
    redis.stop()


def two_workers(start_serve: StartServe, redis_url: str, **env: str) -> Serve:
    """Serve with two workers that are alive."""
    serve = start_serve("--redis-url", redis_url, "--workers", "2", env=env).ready()
    until(lambda: len(workers_alive(serve.url)) == 2, limit_s=20, what="two workers")
    return serve


def holder_of(redis_url: str, task_id: str) -> str:
    """The name of the worker that runs the task."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        return str(redis.hget(f"sibyl:{{q0}}:task:{task_id}", "nonce")).rpartition(":")[0]


def test_what_a_killed_worker_held_is_taken_over_at_once_by_its_neighbour(
    start_serve: StartServe, node: RedisNode
) -> None:
    """Long before the lease of 60 s is over, and before a new process could have started."""
    serve = two_workers(start_serve, node.url, SIBYL_LEASE_S="60")
    reader = Follower(serve.url, serve.ask("Tell me. [tokens=60] [pace=30]")["task_id"])
    reader.wait_for("llm_streaming", 10)
    task_id = reader.events[0]["task_id"]
    dead = holder_of(node.url, task_id)
    pid = serve.child(f"--name {dead} ")

    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    reader.wait_for("started", 2)
    took_s = time.monotonic() - began

    assert holder_of(node.url, task_id) not in ("", dead)
    assert took_s < 1.0
    assert reader.wait_for_end()["type"] == "completed"
    assert [event["index"] for event in reader.events if event["type"] == "llm_streaming"] == list(
        range(len(reader.ids) - 4)
    )
    assert serve.child(f"--name {dead} ") != pid


def test_a_frozen_worker_and_a_frozen_api_are_killed_and_started_again(
    start_serve: StartServe, node: RedisNode
) -> None:
    """SIGSTOP of one worker and of the API: the others are left alone, the answer goes on, its reader comes back."""
    serve = two_workers(start_serve, node.url)
    reader = Follower(serve.url, serve.ask(QUESTION)["task_id"])
    reader.wait_for("llm_streaming", 10)
    frozen = holder_of(node.url, reader.events[0]["task_id"])
    worker, api = serve.child(f"--name {frozen} "), serve.child("sibyl api")
    [other] = [pid for pid in serve.children("sibyl worker") if pid != worker]

    os.kill(worker, signal.SIGSTOP)
    os.kill(api, signal.SIGSTOP)
    for pid in (worker, api):
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), limit_s=25, what=f"end of {pid}")  # type: ignore[misc]

    assert reader.wait_for_end()["type"] == "completed"
    assert reader.text == serve.task(reader.events[0]["task_id"])["text"]
    until(lambda: len(workers_alive(serve.url)) == 2, limit_s=20, what="two workers")
    assert serve.children("sibyl worker").count(other) == 1
    assert serve.log.count("is frozen") == 2


def test_workers_are_productive_after_every_restart_of_redis_and_nobody_is_taken_for_frozen(
    start_serve: StartServe, node: RedisNode
) -> None:
    """Kill -9 of Redis, twice, the second time away for longer than a worker may be silent."""
    serve = two_workers(start_serve, node.url)
    children = serve.children("sibyl")
    readers = [Follower(serve.url, serve.ask(f"{n}. [tokens=400] [pace=30]")["task_id"], limit_s=40) for n in range(4)]
    for reader in readers:
        reader.wait_for("llm_streaming", 3)
    for away_s in (0.0, 9.0):
        node.kill()
        time.sleep(away_s)
        node.start()
        seen = [len(reader.ids) for reader in readers]
        began = time.monotonic()
        until(
            lambda seen=seen: all(len(r.ids) > n + 5 for r, n in zip(readers, seen, strict=True)),  # type: ignore[misc]
            limit_s=10,
            what="new events for every reader",
        )
        assert time.monotonic() - began < 3.0

    ends = [reader.wait_for_end() for reader in readers]

    assert [end["type"] for end in ends] == ["completed"] * 4
    assert all(reader.text == serve.task(reader.events[0]["task_id"])["text"] for reader in readers)
    assert {event["attempt"] for reader in readers for event in reader.events if event["type"] == "started"} == {1}
    assert serve.children("sibyl") == children
    assert httpx.get(f"{serve.url}/readyz", trust_env=False).status_code == 200
