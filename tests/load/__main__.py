"""`make bench`: run the benchmarks, print a table, write JSON beside it. Run it on an idle machine."""

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.load import (
    capacity,
    cpu_per_token,
    decode_loop,
    failover,
    fair_share,
    fan_out,
    first_byte,
    first_token,
    followers,
    growth,
    hearing,
    heartbeats,
    idle_followers,
    in_step,
    kills,
    overload,
    prefix,
    q8_streams,
    queues,
    redis_restarts,
    replay,
    rolling,
    servers,
    slow_readers,
    speech_accuracy,
    stall,
    stored_token,
    takeover,
    whole_path,
    zombies,
)
from tests.load.plots import plots

BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "first-token": first_token.measure,
    "first-byte": first_byte.measure,
    "cpu-per-token": cpu_per_token.measure,
    "queues": queues.measure,
    "capacity": capacity.measure,
    "failover": failover.measure,
    "fair-share": fair_share.measure,
    "kills": kills.measure,
    "overload": overload.measure,
    "slow-readers": slow_readers.measure,
    "zombies": zombies.measure,
    "followers": followers.measure,
    "heartbeats": heartbeats.measure,
    "redis-restarts": redis_restarts.measure,
    "rolling": rolling.measure,
    "in-step": in_step.measure,
    "fan-out": fan_out.measure,
    "idle-followers": idle_followers.measure,
    "stored-token": stored_token.measure,
    "replay": replay.measure,
    "growth": growth.measure,
    "hearing": hearing.measure,
    "speech-accuracy": speech_accuracy.measure,
    "takeover": takeover.measure,
    "decode-loop": decode_loop.measure,
    "whole-path": whole_path.measure,
    "servers": servers.measure,
    "prefix": prefix.measure,
    "q8-streams": q8_streams.measure,
    "stall": stall.measure,
}
SHORT = 0.05  # enough to see that a benchmark works; its figures say little
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="benchmark", help=f"{', '.join(BENCHMARKS)}; none runs all")
    parser.add_argument("--scale", type=float, default=1.0, help="this part of the work, where a benchmark knows that")
    parser.add_argument("--threads", type=int, help="threads that compute, on all sides; none leaves one core free")
    parser.add_argument("--short", action="store_true", help=f"the same as --scale {SHORT}")
    options = parser.parse_args()
    wanted = options.names or list(BENCHMARKS)
    unknown = set(wanted) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    results: dict[str, Any] = {"machine": machine()}
    for name in wanted:
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        wishes = {"scale": SHORT if options.short else options.scale, "threads": options.threads}
        known = inspect.signature(BENCHMARKS[name]).parameters
        results[name] = BENCHMARKS[name](**{wish: value for wish, value in wishes.items() if value and wish in known})
        table(results[name])
        print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {path.relative_to(Path.cwd())}")
    for picture in plots(path):
        print(f"drawn in {picture.relative_to(Path.cwd())}")
    if broken := [f"{name}: {promise}" for name in wanted for promise in broken_promises(results[name])]:
        sys.exit(f"BROKEN: {'; '.join(broken)}")


def broken_promises(figures: dict[str, Any]) -> list[str]:
    """Return the promises of a benchmark that its figures do not keep."""
    return [promise for promise, kept in figures.get("promises", {}).items() if not kept]


def table(figures: dict[str, Any], indent: str = "  ") -> None:
    """Print figures, one a line."""
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            table(value, indent + "  ")
        else:
            print(f"{indent}{name:<16} {f'{value:.3f}' if isinstance(value, float) else value}")


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        **{
            name: importlib.metadata.version(name)
            for name in ("llama-cpp-python", "fastapi", "uvicorn", "sse-starlette", "redis")
        },
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
