"""llama-batched-bench: the same batches of llama.cpp, driven from C, with nothing chosen and nobody told."""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sibyl.engines.llama_build import flash_attention_pays
from tests.load.peers.llama_cpp_sources import libraries, program

_LEAST_SEQUENCES = 16  # it warms up with so many, whatever it is asked for
_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Of generating, all sequences together; prompts and loading are not counted."""

    tokens_per_s: float
    cpu_s_per_token: float


def speeds(model: Path, *, sequences: Sequence[int], prompt_tokens: int, tokens: int, threads: int) -> dict[int, Speed]:
    """Return how fast it generates with each number of sequences, each of which has its own room.

    It tells time apart for prompts and generating; CPU time is taken to be spread over both as time is, which is so
    because the same threads compute all the time.

    Raises:
        Unavailable: it cannot be had on this machine.
        RuntimeError: it failed.
    """
    room = max(_LEAST_SEQUENCES, *sequences)
    command = [program("llama-batched-bench"), "--model", model]
    command += ["-npp", prompt_tokens, "-ntg", tokens, "-npl", ",".join(map(str, sequences))]
    command += ["--threads", threads, "--threads-batch", threads, "--ctx-size", room * _padded(prompt_tokens + tokens)]
    command += ["--flash-attn", "auto" if flash_attention_pays() else "off"]  # as Sibyl chooses
    command += ["--no-kv-unified"]
    found: dict[int, Speed] = {}
    said = "no word"
    with subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=libraries()
    ) as process:
        limit = threading.Timer(_LIMIT_S, process.kill)
        limit.start()
        assert process.stdout is not None
        before_s = 0.0
        for text in process.stdout:
            said = text.strip() or said
            if not text.startswith("|"):
                continue
            cpu_s = _cpu_s(process.pid)  # a row has ended just now, or the warm-up, where the table begins
            row = _row(text)
            if row is not None:
                share = row.generating_s / (row.prompts_s + row.generating_s)
                cpu_s_per_token = (cpu_s - before_s) * share / (row.sequences * row.tokens)
                found[row.sequences] = Speed(row.tokens_per_s, cpu_s_per_token)
            before_s = cpu_s
        code = process.wait()
        limit.cancel()
    if code or not set(sequences) <= set(found):
        raise RuntimeError(f"llama-batched-bench: {said}")
    return found


class _Row(NamedTuple):
    """A row of its table."""

    sequences: int
    tokens: int
    prompts_s: float
    generating_s: float
    tokens_per_s: float


def _row(text: str) -> _Row | None:
    """Read a line of its table; None for those that the table begins with."""
    try:
        _, tokens, sequences, _, prompts_s, _, generating_s, tokens_per_s, *_ = map(
            float, text.strip(" |\n").split("|")
        )
    except ValueError:
        return None
    return _Row(int(sequences), int(tokens), prompts_s, generating_s, tokens_per_s)


def _cpu_s(pid: int) -> float:
    """CPU time of another process, all its threads together; finer than what /proc tells."""
    return time.clock_gettime(~pid << 3 | 2)  # Linux' clock id for it, as clock_getcpuclockid(3) gives it


def _padded(tokens: int) -> int:
    """llama.cpp gives out room in pieces of 256 tokens."""
    return -(-tokens // 256) * 256
