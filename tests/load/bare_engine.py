"""The engine alone, in a process of its own: one generation for each line that comes in, its time for each line out."""

import json
import sys
import time
from pathlib import Path

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.llama import LlamaEngine


def main() -> None:
    """Answer lines of ``{"question", "max_tokens", "seed"}`` with ``{"first_s", "total_s", "tokens"}``."""
    # The same switch interval as in the worker's process: both sides run under the same conditions.
    sys.setswitchinterval(1e-4)
    engine = LlamaEngine(Path(sys.argv[1]), slots=1, threads=int(sys.argv[2]) or None)
    print(json.dumps({"model": engine.model}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        request = GenerationRequest(
            messages=(Message(role="user", content=asked["question"]),),
            sampling=SamplingParams(max_tokens=asked["max_tokens"], seed=asked["seed"]),
            abort=Abort(),
        )
        began = time.perf_counter()
        firsts: list[float] = []

        def on_tokens(_: Output, began: float = began, firsts: list[float] = firsts) -> None:
            if not firsts:
                firsts.append(time.perf_counter() - began)

        result = engine.generate(request, on_tokens)
        total_s = time.perf_counter() - began
        answer = {"first_s": firsts[0], "total_s": total_s, "tokens": result.usage.completion_tokens}
        print(json.dumps(answer), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
