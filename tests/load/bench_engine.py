"""How many tokens a second LlamaEngine gives, against llama.cpp called in the barest loop, and what Python adds.

Both sides run alternately on one model in one process, so only their ratio is to be compared with another day's.

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
from pathlib import Path

from llama_cpp import llama_cpp as native

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.llama import PROMPT_CHUNK_TOKENS, LlamaEngine
from sibyl.engines.llama_binding import Context, Model

sys.path.insert(0, str(Path(__file__).parent))
from make_random_gguf import PRESETS, TYPES
from make_random_gguf import main as make_gguf

QUESTION = (Message(role="user", content="What will the river bring?"),)


def bare_tokens_per_s(model: Model, tokens: int, threads: int) -> float:
    """Decode ``tokens`` tokens one by one, with nothing between two calls of llama_decode."""
    context = Context(model, tokens=4096, batch_tokens=PROMPT_CHUNK_TOKENS, threads=threads)
    context.evaluate([5] * 40)
    token = (ctypes.c_int32 * 1)(300)
    batch = native.llama_batch(1, token)
    pointer = ctypes.c_void_p(context.pointer)
    decode = native.llama_decode
    began = time.perf_counter()
    for _ in range(tokens):
        if decode(pointer, batch):  # type: ignore[arg-type]
            raise RuntimeError("llama_decode failed")
    took_s = time.perf_counter() - began
    context.close()
    return tokens / took_s


def engine_tokens_per_s(engine: LlamaEngine, tokens: int, sampling: SamplingParams) -> tuple[float, float]:
    """Return tokens a second after the first token, and milliseconds to the first."""
    times: list[float] = []

    def take(output: Output) -> None:
        times.append(time.perf_counter())

    began = time.perf_counter()
    engine.generate(GenerationRequest(messages=QUESTION, sampling=sampling, abort=Abort()), take)
    return (len(times) - 1) / (times[-1] - times[0]), (times[0] - began) * 1e3


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
        bare: list[float] = []
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in samplings}
        for _ in range(options.rounds):
            for name, sampling in samplings.items():
                bare.append(bare_tokens_per_s(model, options.tokens, options.threads))
                found[name].append(engine_tokens_per_s(engine, options.tokens, sampling))
        engine.close()
        model.close()
    bare_speed = statistics.median(bare)
    print(
        f"{options.preset} {options.type}, {options.threads} threads, {options.tokens} tokens, median of {options.rounds}"
    )
    print(f"{'':26}{'tokens/s':>10}{'ratio':>8}{'us/token more':>15}{'first token ms':>16}")
    print(f"{'bare llama_decode':26}{bare_speed:10.1f}{1:8.3f}")
    rows = {}
    for name, rounds in found.items():
        speed = statistics.median(speed for speed, _ in rounds)
        first_ms = statistics.median(first for _, first in rounds)
        more_us = 1e6 / speed - 1e6 / bare_speed
        print(f"{name:26}{speed:10.1f}{speed / bare_speed:8.3f}{more_us:15.1f}{first_ms:16.1f}")
        rows[name] = {"tokens_per_s": speed, "ratio": speed / bare_speed, "more_us": more_us, "first_ms": first_ms}
    if options.json:
        result = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            **{name: getattr(options, name) for name in ("preset", "type", "threads", "tokens", "rounds")},
            "bare_tokens_per_s": bare_speed,
            "engine": rows,
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
