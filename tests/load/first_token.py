"""From the POST to the first token of the bundled model, on an idle machine."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.processes import serving

RUNS = 20


def measure(*, runs: int = RUNS) -> dict[str, Any]:
    """Return the times of ``runs`` questions, one after the other."""
    times_ms = []
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder, serving(Path(folder) / "data") as serve:
        with httpx.Client(base_url=serve.url, timeout=30, trust_env=False) as client:
            for run in range(runs + 1):
                body = {
                    "question": f"Should I change my job this year, or wait {run} months?",
                    "sampling": {"seed": run},
                }
                began = time.perf_counter()
                task = client.post("/api/questions", json=body).raise_for_status().json()
                with client.stream("GET", task["events_url"]) as response:
                    for line in response.iter_lines():
                        if line == "event: llm_streaming":
                            break
                if run:  # the first one connects and warms up
                    times_ms.append(1000 * (time.perf_counter() - began))
                client.post(f"/api/tasks/{task['task_id']}/cancel")
    ordered = sorted(times_ms)
    return {
        "what": f"POST to first token, bundled model, {runs} runs",
        "median_ms": statistics.median(ordered),
        "p95_ms": ordered[int(0.95 * (len(ordered) - 1))],
        "most_ms": ordered[-1],
        "goal_ms": 150,
    }
