"""How many tokens a second LlamaEngine gives, against llama.cpp called in the barest loop, and what Python adds.

Both sides run alternately on one model in one process, so only their ratio is to be compared with another day's. The
column "more" is the processor time of a token beyond the bare loop's: Python, sampler and text. With more than one
thread it counts the calling thread alone.

    bench_engine.py --preset 120m --type q8_0 --threads 1
"""

import argparse
import ctypes
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llama_cpp import llama_cpp as native

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.llama import PROMPT_CHUNK_TOKENS, LlamaEngine
from sibyl.engines.llama_context import Context, Part
from sibyl.engines.llama_model import Model

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.load.make_random_gguf import PRESETS, TYPES
from tests.load.make_random_gguf import main as make_gguf

QUESTION = (Message(role="user", content="What will the river bring?"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of one side took."""

    tokens_per_s: float
    cpu_us: float  #: of this thread for one token; other jobs on the machine do not count
    first_ms: float = 0.0  #: to the first token


def bare_run(model: Model, tokens: int, threads: int) -> Run:
    """Decode ``tokens`` tokens one by one, with nothing between two calls of llama_decode."""
    context = Context(model, places=1, place_tokens=4096, batch_tokens=PROMPT_CHUNK_TOKENS, threads=threads)
    context.compute([Part(0, [5] * 40, True)])
    token = (ctypes.c_int32 * 1)(300)
    batch = native.llama_batch(1, token)
    pointer = ctypes.c_void_p(context.pointer)
    decode = native.llama_decode
    began, began_cpu = time.perf_counter(), time.thread_time()
    for _ in range(tokens):
        if decode(pointer, batch):
            raise RuntimeError("llama_decode failed")
    took_s, took_cpu_s = time.perf_counter() - began, time.thread_time() - began_cpu
    context.close()
    return Run(tokens_per_s=tokens / took_s, cpu_us=took_cpu_s / tokens * 1e6)


def engine_run(engine: LlamaEngine, sampling: SamplingParams) -> Run:
    """Generate an answer, and count from its first token on."""
    times: list[tuple[float, float]] = []

    def take(output: Output) -> None:
        times.append((time.perf_counter(), time.thread_time()))

    began = time.perf_counter()
    engine.generate(GenerationRequest(messages=QUESTION, sampling=sampling, abort=Abort()), take)
    count = len(times) - 1
    return Run(
        tokens_per_s=count / (times[-1][0] - times[0][0]),
        cpu_us=(times[-1][1] - times[0][1]) / count * 1e6,
        first_ms=(times[0][0] - began) * 1e3,
    )


def median(runs: Sequence[Run]) -> Run:
    """Return the medians of several runs."""
    return Run(
        tokens_per_s=statistics.median(run.tokens_per_s for run in runs),
        cpu_us=statistics.median(run.cpu_us for run in runs),
        first_ms=statistics.median(run.first_ms for run in runs),
    )


def main(arguments: Sequence[str]) -> None:
    """Print a table, and the same as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="120m")
    parser.add_argument("--type", choices=TYPES, default="q8_0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    samplings = {
        "greedy": SamplingParams(temperature=0.0, max_tokens=options.tokens),
        "sampled": SamplingParams(seed=1, max_tokens=options.tokens),
        "sampled, 4 stop strings": SamplingParams(
            seed=1, max_tokens=options.tokens, stop=("\nUser:", "\n\n\n", "<end>", "zzzz")
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        make_gguf([str(path), "--preset", options.preset, "--type", options.type])
        engine, model = LlamaEngine(path, threads=options.threads), Model(path)
        bare: list[Run] = []
        found: dict[str, list[Run]] = {name: [] for name in samplings}
        for _ in range(options.rounds):
            for name, sampling in samplings.items():
                bare.append(bare_run(model, options.tokens, options.threads))
                found[name].append(engine_run(engine, sampling))
        engine.close()
        model.close()
    floor = median(bare)
    print(
        f"{options.preset} {options.type}, threads {options.threads}, {options.tokens} tokens, {options.rounds} rounds"
    )
    print(f"{'medians':26}{'tokens/s':>10}{'ratio':>8}{'CPU us/token':>14}{'more':>8}{'first token ms':>16}")
    print(f"{'bare llama_decode':26}{floor.tokens_per_s:10.1f}{1:8.3f}{floor.cpu_us:14.1f}")
    rows = {}
    for name, runs in found.items():
        run = median(runs)
        ratio, more_us = run.tokens_per_s / floor.tokens_per_s, run.cpu_us - floor.cpu_us
        print(f"{name:26}{run.tokens_per_s:10.1f}{ratio:8.3f}{run.cpu_us:14.1f}{more_us:8.1f}{run.first_ms:16.1f}")
        rows[name] = asdict(run) | {"ratio": ratio, "more_cpu_us": more_us}
    if options.json:
        result = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            **{name: getattr(options, name) for name in ("preset", "type", "threads", "tokens", "rounds")},
            "bare": asdict(floor),
            "engine": rows,
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
