"""Health: alive, ready, and figures."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from sibyl.core.task import WorkerInfo
from sibyl.store.connection import Store
from sibyl.store.workers import WorkerRegistry
from tests.serving import RunningWorker, ask, run_api, run_worker, wait_ready, wait_until


def test_a_live_process_says_so_whatever_redis_does(tmp_path: Path) -> None:
    """Liveness must not depend on others: a restart would not help."""
    with run_api(f"unix://{tmp_path}/no-redis.sock") as api, api.client() as client:
        response = client.get("/healthz")

        assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_ready_means_that_a_worker_would_answer(client: httpx.Client, redis_url: str) -> None:
    """503 with a reason until a worker announces itself, and again after it has left."""
    before = client.get("/readyz")
    with run_worker(redis_url, name="w", slots=3) as worker:
        wait_ready(client)
        ready = client.get("/readyz")
        worker.worker.drain()  # in its own words: a worker that drains takes its announcement back
        wait_until(worker.running.done)

    assert before.status_code == 503
    assert before.json().keys() == {"status", "redis", "workers", "reason"}
    assert (before.json()["status"], before.json()["redis"], before.json()["workers"]) == ("not_ready", True, [])
    assert int(before.headers["retry-after"]) > 0
    assert (ready.status_code, ready.json()["status"], ready.json()["redis"]) == (200, "ready", True)
    assert ready.json()["workers"] == [{"name": "w", "model": "scripted", "slots": 3, "context_tokens": None}]
    assert client.get("/readyz").status_code == 503


def test_without_redis_nothing_but_health_is_answered(tmp_path: Path) -> None:
    """503 with Retry-After and the store's code for each call, soon, and no error in the log."""
    calls = [
        ("POST", "/api/questions", {"question": "x"}),
        ("POST", "/api/fortunes", {"question": "x"}),
        ("GET", "/api/tasks", None),
        ("GET", "/api/tasks/0." + "0" * 32, None),
        ("GET", "/api/tasks/0." + "0" * 32 + "/events", None),
        ("POST", "/api/tasks/0." + "0" * 32 + "/cancel", None),
        ("DELETE", "/api/tasks/0." + "0" * 32, None),
        ("GET", "/metrics", None),
    ]
    with run_api(f"unix://{tmp_path}/no-redis.sock") as api, api.client(timeout=5) as client:
        with ThreadPoolExecutor(len(calls)) as pool:
            responses = list(pool.map(lambda call: client.request(call[0], call[1], json=call[2]), calls))
        ready = client.get("/readyz")

    for response in responses:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable"), response.url
        assert int(response.headers["retry-after"]) > 0
    assert (ready.status_code, ready.json()["redis"]) == (503, False)


def test_figures_tell_the_queue(client: httpx.Client, worker: RunningWorker) -> None:
    """Prometheus' text: waiting, running, workers, slots, followers."""
    wait_ready(client)
    for _ in range(3):
        ask(client, "[pace=10] [tokens=1000]")

    def figures() -> dict[str, float]:
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = re.findall(r"^(sibyl_\w+) ([\d.]+)$", response.text, re.MULTILINE)
        assert response.text.count("# HELP") == len(found)
        return {name: float(value) for name, value in found}

    assert wait_until(lambda: figures()["sibyl_tasks_running"] == 2)
    found = figures()
    assert (found["sibyl_tasks_waiting"], found["sibyl_workers_alive"], found["sibyl_slots"]) == (1, 1, 2)
    assert (found["sibyl_followers"], found["sibyl_followed_tasks"]) == (0, 0)


def test_what_an_engine_counts_is_told_for_each_worker(client: httpx.Client, redis_url: str) -> None:
    """Prompt tokens that were saved, beside those that were read."""
    counters = {"prompt_tokens": 900, "reused_tokens": 400, "of_a_newer_version": 1}
    info = WorkerInfo(
        name="w-1", model="m", slots=2, context_tokens=None, max_piece_bytes=None, seen_at=0.0, counters=counters
    )

    async def announce() -> None:
        store = Store(redis_url)
        await WorkerRegistry(store).announce(info)
        await store.close()

    asyncio.run(announce())
    text = client.get("/metrics").text

    assert 'sibyl_engine_prompt_tokens_total{worker="w-1"} 900.0' in text
    assert 'sibyl_engine_reused_tokens_total{worker="w-1"} 400.0' in text
    assert "newer" not in text
