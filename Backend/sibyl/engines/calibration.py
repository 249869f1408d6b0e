"""How fast this machine computes this model: threads, and the cost of batches by their rows. Measured once, then kept.

It is kept for a file, the library, the processor and the numbers that matter, so another model, a new version or a new
machine is measured anew. Each time is the shortest of several: what disturbs a measurement only makes it longer.
"""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sibyl.engines import llama_binding as llama
from sibyl.engines.llama_context import Context, Part

logger = logging.getLogger(__name__)

LIMIT_S = 3.0  # most time for all measurements; what was not measured by then is computed the plain way
MOST_ROWS = 32  # beyond them, tiles matter little
_REPEATS = 4
_FEWER_THREADS = 0.9  # share of the time that more threads must save to be worth it


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured."""

    threads: int  #: for one row
    batch_threads: int  #: for more
    row_seconds: dict[int, float]  #: cost of a batch by rows


def calibrate(
    context: Context,
    *,
    model_path: Path,
    threads: Sequence[int],
    rows: bool,
    folder: Path | None,
    clock: Callable[[], float] = time.perf_counter,
) -> Calibration:
    """Return what is known of this model on this machine, measured now if need be; the context's threads are set by it.

    Args:
        context: empty; it is empty again afterwards.
        threads: to choose from.
        rows: whether to measure the costs of rows.
        folder: where it is kept; None keeps nothing.
    """
    path = folder / f"{_key(model_path, context, threads, rows)}.json" if folder is not None else None
    if path is not None and (known := _load(path)) is not None:
        context.set_threads(known.threads, known.batch_threads)
        return known
    began = clock()
    measurement = _Measurement(context, clock, until=began + LIMIT_S)
    found = measurement.run(sorted(threads), min(MOST_ROWS, context.places) if rows else 0)
    if path is not None:
        _store(path, found)
    took_ms = round((clock() - began) * 1000)
    logger.info(
        "Measured the model's speed", extra={"action": "calibrated", "took_ms": took_ms, "rows": len(found.row_seconds)}
    )
    return found


class _Measurement:
    def __init__(self, context: Context, clock: Callable[[], float], *, until: float) -> None:
        self._context = context
        self._clock = clock
        self._until = until

    def run(self, threads: Sequence[int], most_rows: int) -> Calibration:
        several = min(16, self._context.places)
        for rows in (1, several, 1):  # the first computations map pages and plan their graphs
            self._seconds(rows)
        one_row, batch = threads[0], threads[0]
        if len(threads) > 1:
            one_row = self._fastest(threads, 1)
            batch = self._fastest(threads, several) if several > 1 else one_row
        self._context.set_threads(one_row, batch)
        row_seconds = {}
        for rows in range(1, most_rows + 1):
            best_s = min(self._seconds(rows) for _ in range(_REPEATS))
            if self._clock() > self._until:
                break  # the last one may be cut short, so it is left out
            row_seconds[rows] = best_s
        return Calibration(threads=one_row, batch_threads=batch, row_seconds=row_seconds)

    def _fastest(self, threads: Sequence[int], rows: int) -> int:
        best, best_s = threads[0], float("inf")
        for count in threads:
            self._context.set_threads(count, count)
            took_s = min(self._seconds(rows) for _ in range(_REPEATS))
            if took_s < best_s * (_FEWER_THREADS if best_s < float("inf") else 1):
                best, best_s = count, took_s
        return best

    def _seconds(self, rows: int) -> float:
        if self._clock() > self._until:
            return float("inf")
        parts = [Part(place, (0,), scored=True) for place in range(rows)]
        began = self._clock()
        self._context.compute(parts)
        took_s = self._clock() - began
        for place in range(rows):
            self._context.trim(place, 0)
        return took_s


def _key(model_path: Path, context: Context, threads: Sequence[int], rows: bool) -> str:
    stat = model_path.stat()
    facts = (
        model_path.name,
        stat.st_size,
        stat.st_mtime_ns,
        llama.version,
        platform.processor() or platform.machine(),
        os.cpu_count(),
        context.places,
        context.pool_tokens is not None,
        *threads,
        rows,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _load(path: Path) -> Calibration | None:
    try:
        known = json.loads(path.read_text())
        seconds = {int(rows): float(took_s) for rows, took_s in known["row_seconds"].items()}
        return Calibration(
            threads=int(known["threads"]), batch_threads=int(known["batch_threads"]), row_seconds=seconds
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # there is none, or it is not ours: it is measured anew


def _store(path: Path, found: Calibration) -> None:
    facts = {"threads": found.threads, "batch_threads": found.batch_threads, "row_seconds": found.row_seconds}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(facts))
        part.replace(path)
    except OSError as error:
        logger.info("Cannot keep the measurement: %s", error.strerror, extra={"action": "calibration_unkept"})
