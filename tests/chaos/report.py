"""A verdict in words: one line a kind of fault, the figures, and PASS or FAIL."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.chaos.checker import PROMISES, Verdict
from tests.chaos.plan import KINDS

SHOWN: Final = 12  # violations


def lines(verdict: Verdict) -> Iterator[str]:
    """Yield the report, line by line."""
    yield from _faults(verdict)
    ends = ", ".join(f"{count} {end}" for end, count in sorted(verdict.ends.items()))
    deaths = Counter(process.what for process in verdict.processes)
    takeovers = sorted(verdict.takeovers_s)
    yield ""
    yield f"asked            {verdict.asked} questions, {verdict.tasks} tasks" + (f" ({ends})" if ends else "")
    yield f"tokens           {verdict.tokens} in {verdict.attempts} attempts"
    yield f"followers        {verdict.views}, {verdict.connects} connects, {verdict.resets} resets"
    yield (
        f"processes        {deaths['began']} begun, {deaths['killed']} killed, {deaths['drained']} drained, "
        f"{deaths['ended']} ended by themselves"
    )
    lost_bytes = sum(loss.bytes for loss in verdict.losses)
    yield f"lost tails       {len(verdict.losses)}, {lost_bytes} bytes, {verdict.lost} tasks accepted again"
    yield f"slowest task     {verdict.slowest_s:.1f} s, {verdict.slowest_task}"
    if takeovers:
        p99 = takeovers[min(len(takeovers) - 1, int(len(takeovers) * 0.99))]
        p50, slowest = takeovers[len(takeovers) // 2], takeovers[-1]
        yield f"takeovers seen   {len(takeovers)}, p50 {p50:.2f} s, p99 {p99:.2f} s, slowest {slowest:.2f} s"
    yield "answers          " + ", ".join(f"{what}: {count}" for what, count in sorted(verdict.statuses.items()))
    yield ""
    if verdict.kept:
        yield f"PASS: {len(PROMISES)} promises kept by {verdict.tasks} tasks under {len(verdict.faults)} faults"
        return
    for promise, count in verdict.broken.most_common():
        yield f"broken {count:5}  {promise}: {PROMISES[promise]}"
    for violation in verdict.violations[:SHOWN]:
        yield f"  {violation.promise}: {violation.task or ''} {violation.said}"
    yield f"FAIL: {sum(verdict.broken.values())} violations of {len(verdict.broken)} promises"


def _faults(verdict: Verdict) -> Iterator[str]:
    for kind in KINDS:
        faults = [fault for fault in verdict.faults if fault.kind == kind]
        if not faults:
            continue
        targets = Counter(fault.target for fault in faults)
        figures: Counter[str] = Counter()
        for fault in faults:
            figures.update(fault.figures)
        told = [*(f"{target} {count}" for target, count in sorted(targets.items()) if target != "redis")]
        told += [f"{name.replace('_', ' ')} {count}" for name, count in sorted(figures.items())]
        seconds = sum(fault.lasts_s for fault in faults)
        yield f"{kind:17}{len(faults):4} times, {seconds:6.1f} s" + (f"; {', '.join(told)}" if told else "")


def complaints(directory: Path) -> Iterator[str]:
    """Yield what the processes logged as errors, with how often; it is no part of the verdict."""
    found: Counter[str] = Counter()
    for path in sorted(directory.glob("*.log")):
        with path.open(encoding="utf-8", errors="replace") as log:
            for line in log:
                if line.startswith("{"):
                    try:
                        entry = json.loads(line)
                    except ValueError:
                        continue
                    if entry.get("level", "").lower() in ("error", "critical"):
                        found[f"{path.stem.partition('-')[0]}: {entry.get('message', line.strip())}"] += 1
                elif line.startswith(("Traceback", "Task exception")):
                    found[f"{path.stem.partition('-')[0]}: {line.strip()}"] += 1
    for said, count in found.most_common(10):
        yield f"logged {count:5}  {said[:160]}"
