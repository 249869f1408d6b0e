"""Our engine alone, in a process of its own: no queue, no Redis, no HTTP; a thread for each generation.

A line of JSON in (`{"asks": [{"question", "max_tokens"}]}`), when all of them have ended one line out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.llama import LlamaEngine
from tests.load.peers.peer import Seat

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One generation, by the monotonic clock."""

    began_s: float
    times_s: list[float]  #: of each call with new text
    cpu_s: list[float]  #: CPU time of the whole process at each
    counts: list[int]  #: tokens of each
    prompt_tokens: int
    tokens: int

    @property
    def first_s(self) -> float:
        """From the call to the first token."""
        return self.times_s[0] - self.began_s


@dataclass(frozen=True, slots=True)
class Together:
    """Generations that were begun at once."""

    each: list[Generated]

    @property
    def took_s(self) -> float:
        """From the first call to the last token."""
        return max(one.times_s[-1] for one in self.each) - min(one.began_s for one in self.each)

    @property
    def tokens_per_s(self) -> float:
        """All together, prompts included in the time."""
        return sum(one.tokens for one in self.each) / self.took_s

    @property
    def decoding_tokens_per_s(self) -> float:
        """All together, while all of them are writing: from the last one's first token to the first one's last.

        Raises:
            RuntimeError: one had ended before another one began.
        """
        begin, end = self._all_writing
        return self._tokens_between(begin, end) / (end - begin)

    @property
    def decoding_cpu_s_per_token(self) -> float:
        """CPU time of the process for each token, while all of them are writing. Raises as the former."""
        begin, end = self._all_writing
        cpu_at = {at: cpu_s for one in self.each for at, cpu_s in zip(one.times_s, one.cpu_s, strict=True)}
        return (cpu_at[end] - cpu_at[begin]) / self._tokens_between(begin, end)

    @property
    def _all_writing(self) -> tuple[float, float]:
        begin, end = max(one.times_s[0] for one in self.each), min(one.times_s[-1] for one in self.each)
        if end <= begin:
            raise RuntimeError("never were all of them writing: ask for more tokens, on a quieter machine")
        return begin, end

    def _tokens_between(self, begin: float, end: float) -> int:
        return sum(
            count for one in self.each for at, count in zip(one.times_s, one.counts, strict=True) if begin < at <= end
        )

    @property
    def prompt_tokens(self) -> float:
        """Of one of them, on average."""
        return statistics.fmean(one.prompt_tokens for one in self.each)


class BareEngine:
    """An engine that runs in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._answer()

    def generate(self, questions: Sequence[str], max_tokens: int) -> Together:
        """Generate so many tokens for each question, all at once, greedily.

        Raises:
            RuntimeError: a generation was shorter, or the engine failed.
        """
        assert self._process.stdin is not None
        asks = [{"question": question, "max_tokens": max_tokens} for question in questions]
        self._process.stdin.write(json.dumps({"asks": asks}) + "\n")
        self._process.stdin.flush()
        each = [Generated(**one) for one in self._answer()["each"]]
        if any(one.tokens != max_tokens for one in each):
            raise RuntimeError(f"the bare engine gave {sorted(one.tokens for one in each)} tokens, not {max_tokens}")
        return Together(each)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bare engine ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def bare_engine(seat: Seat, *, calibrate: bool = True, pool_tokens: int | None = None) -> Iterator[BareEngine]:
    """Run an engine while the block runs."""
    words = [seat.model, "--slots", seat.slots, "--threads", seat.threads, "--context-tokens", seat.context_tokens]
    words += [] if calibrate else ["--plain"]
    words += [] if pool_tokens is None else ["--pool-tokens", pool_tokens]
    command = [sys.executable, "-m", "tests.load.bare_engine", *map(str, words)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=_ROOT
    ) as process:
        try:
            yield BareEngine(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _together(engine: LlamaEngine, asks: Sequence[dict[str, Any]]) -> Together:
    found: list[Generated | None] = [None] * len(asks)

    def generate(place: int, question: str, max_tokens: int) -> None:
        times_s: list[float] = []
        cpu_s: list[float] = []
        counts: list[int] = []

        def take(output: Output) -> None:  # on the decode thread: as little as can be
            times_s.append(time.monotonic())
            cpu_s.append(time.process_time())
            counts.append(len(output.token_ids))

        request = GenerationRequest(
            messages=(Message(role="user", content=question),),
            sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0),
            abort=Abort(),
        )
        began_s = time.monotonic()
        usage = engine.generate(request, take).usage
        found[place] = Generated(
            began_s=began_s,
            times_s=times_s,
            cpu_s=cpu_s,
            counts=counts,
            prompt_tokens=usage.prompt_tokens,
            tokens=usage.completion_tokens,
        )

    threads = [threading.Thread(target=generate, args=(place,), kwargs=ask) for place, ask in enumerate(asks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Together([one for one in found if one is not None])


def main() -> None:
    """Generate what the lines on stdin ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    for name in ("--slots", "--threads", "--context-tokens"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--plain", action="store_true", help="batches are not shaped by measured costs")
    parser.add_argument("--pool-tokens", type=int, help="room that all share; each has its own without")
    options = parser.parse_args()
    # The same switch interval as in the worker's process: both sides run under the same conditions.
    sys.setswitchinterval(1e-4)
    engine = LlamaEngine(
        options.model,
        slots=options.slots,
        threads=options.threads,
        context_tokens=options.context_tokens,
        pool_tokens=options.pool_tokens,
        calibrate=not options.plain,
    )
    print(json.dumps({"model": engine.model}), flush=True)
    for line in sys.stdin:
        together = _together(engine, json.loads(line)["asks"])
        print(json.dumps({"each": [asdict(one) for one in together.each]}), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
