"""One stream through the whole path (REST, queue, Redis, SSE) against the bare engine: tokens per second."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.load.make_random_gguf import CHAT_TEMPLATE, write_random
from tests.processes import Serve, serving

TOKENS = 256
PAIRS = 7
QUESTION = "Should I change my job this year?"


def measure(*, threads: int = 1, pairs: int = PAIRS) -> dict[str, Any]:
    """Return both sides' figures and their ratio, each the median of ``pairs`` alternating runs."""
    with tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder:
        model = Path(folder) / "random-120m.gguf"
        write_random(model, "120m", context=2048, kind="q8_0", seed=1, template=CHAT_TEMPLATE)
        flags = ("--model", str(model), "--slots", "1", "--threads", str(threads))
        bare = subprocess.Popen(
            [sys.executable, "-m", "tests.load.bare_engine", str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with serving(Path(folder) / "data", *flags) as serve, bare:
            _bare(bare, None)
            rows = []
            for run in range(-1, pairs):
                row = {"bare": _bare(bare, run), "path": _path(serve, run)}
                if run >= 0:  # the first pair warms both up
                    rows.append(row)
            assert bare.stdin is not None
            bare.stdin.close()
    figures = {
        side: {
            "tokens_per_s": statistics.median(row[side]["tokens"] / row[side]["total_s"] for row in rows),
            "first_ms": 1000 * statistics.median(row[side]["first_s"] for row in rows),
        }
        for side in ("bare", "path")
    }
    ratios = [
        row["path"]["tokens"] / row["path"]["total_s"] / (row["bare"]["tokens"] / row["bare"]["total_s"])
        for row in rows
    ]
    return {
        "what": f"one stream, 120M random weights q8_0, {threads} thread(s), {TOKENS} tokens, {pairs} pairs",
        **figures,
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "goal": 0.85,
    }


def _bare(process: "subprocess.Popen[str]", run: int | None) -> dict[str, float]:
    assert process.stdin is not None and process.stdout is not None
    if run is not None:
        process.stdin.write(json.dumps({"question": QUESTION, "max_tokens": TOKENS, "seed": 100 + run}) + "\n")
        process.stdin.flush()
    answer: dict[str, float] = json.loads(process.stdout.readline())
    return answer


def _path(serve: Serve, run: int) -> dict[str, float]:
    """One question as any client asks it: from the POST to the last event."""
    with httpx.Client(base_url=serve.url, timeout=60, trust_env=False) as client:
        client.get("/healthz")  # connected, as a client that asks a second time is
        began = time.perf_counter()
        body = {"question": QUESTION, "sampling": {"max_tokens": TOKENS, "seed": 100 + run}}
        task = client.post("/api/questions", json=body).raise_for_status().json()
        first_s, tokens, event = 0.0, 0, ""
        with client.stream("GET", task["events_url"]) as response:
            for line in response.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                    if event == "llm_streaming" and not first_s:
                        first_s = time.perf_counter() - began
                elif line.startswith("data: ") and event == "completed":
                    tokens = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
        return {"first_s": first_s, "total_s": time.perf_counter() - began, "tokens": tokens}
