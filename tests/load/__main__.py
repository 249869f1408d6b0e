"""`make bench`: run the benchmarks, print a table, write JSON beside it. Run it on an idle machine."""

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.load import first_token, single_stream

BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "first-token": first_token.measure,
    "single-stream": single_stream.measure,
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="benchmark", help=f"{', '.join(BENCHMARKS)}; none runs all")
    wanted = parser.parse_args().names or list(BENCHMARKS)
    unknown = set(wanted) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    results: dict[str, Any] = {"machine": machine()}
    for name in wanted:
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        results[name] = BENCHMARKS[name]()
        table(results[name])
        print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {path.relative_to(Path.cwd())}")


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
