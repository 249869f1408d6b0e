"""Draws what `servers` measured: throughput and time to first token against concurrency, a PNG each.

matplotlib is no dependency of ours; it has an environment of its own, in which this file is run again as a program:
`python -m tests.load.plots RESULTS.json`.
"""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.load.peers.environments import Unavailable, environment, run

_ROOT = Path(__file__).parents[2]
_BENCHMARK = "servers"
_CLIENTS = re.compile(r"(\d+) clients?")
# Okabe and Ito's colours, which colour-blind readers tell apart too; marks and lines differ as well.
_LOOKS = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"))
_FIGURES = {
    "throughput": ("tokens_per_s", "Throughput, tokens/s, all clients together"),
    "first-token": ("first_token_ms", "Time to first token, median, ms"),
}


def plots(results: Path) -> list[Path]:
    """Draw beside a file of results what it holds to be drawn, and return the pictures; none is also an answer."""
    if _BENCHMARK not in json.loads(results.read_text()):
        return []
    try:
        python = environment("plots", "matplotlib>=3.9")
        printed = run("plots", str(python), "-m", "tests.load.plots", str(results), cwd=_ROOT)
    except Unavailable as reason:
        print(f"no plots: {reason}")
        return []
    return [Path(line) for line in printed.splitlines()]


def curves(measured: dict[str, Any], figure: str) -> dict[str, list[tuple[int, float]]]:
    """Return for each side the pairs of concurrency and figure."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, by_side in measured.items():
        if clients := _CLIENTS.fullmatch(name):
            for side, figures in by_side.items():
                found.setdefault(side, []).append((int(clients[1]), figures[figure]))
    return {side: sorted(pairs) for side, pairs in found.items()}


def _draw(results: Path) -> list[Path]:
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    content = json.loads(results.read_text())
    measured, machine = content[_BENCHMARK], content["machine"]
    paths = []
    for name, (figure, label) in _FIGURES.items():
        canvas, axes = pyplot.subplots(figsize=(7.5, 5), layout="constrained")
        ticks: set[int] = set()
        for (side, pairs), (colour, mark, line) in zip(curves(measured, figure).items(), _LOOKS, strict=False):
            clients = [count for count, _ in pairs]
            values = [value for _, value in pairs]
            axes.plot(clients, values, color=colour, marker=mark, linestyle=line, linewidth=2, markersize=7, label=side)
            ticks.update(clients)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log" if figure.endswith("_ms") else "linear")
        axes.set_xticks(sorted(ticks), labels=[str(count) for count in sorted(ticks)])
        axes.set_xlabel("Clients at a time")
        axes.set_ylabel(label)
        if figure.endswith("_s"):
            axes.set_ylim(bottom=0)
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend(frameon=False)
        axes.set_title(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}\n{measured['what']}", fontsize=8)
        path = results.with_name(f"{results.stem}-{name}.png")
        canvas.savefig(path, dpi=150)
        pyplot.close(canvas)
        paths.append(path)
    return paths


if __name__ == "__main__":
    for picture in _draw(Path(sys.argv[1])):
        sys.stdout.write(f"{picture}\n")
