"""llama-batched-bench: the same batches of llama.cpp, driven from C, with nothing chosen and nobody told."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sibyl.engines.llama_build import flash_attention_pays
from tests.load.peers.llama_cpp_sources import libraries, program

_LEAST_SEQUENCES = 16  # it warms up with so many, whatever it is asked for
_LIMIT_S = 600.0


def tokens_per_s(
    model: Path, *, sequences: Sequence[int], prompt_tokens: int, tokens: int, threads: int, unified: bool
) -> dict[int, float]:
    """Return how many tokens a second it generates with each number of sequences, the prompts not counted.

    Raises:
        Unavailable: it cannot be had on this machine.
        RuntimeError: it failed.
    """
    room = max(_LEAST_SEQUENCES, *sequences)
    asked = [*sequences, *([] if room in sequences else [room])]
    command = [program("llama-batched-bench"), "--model", model, "--output-format", "jsonl"]
    command += ["-npp", prompt_tokens, "-ntg", tokens, "-npl", ",".join(map(str, asked))]
    command += ["--threads", threads, "--threads-batch", threads, "--ctx-size", room * _padded(prompt_tokens + tokens)]
    command += ["--flash-attn", "auto" if unified or flash_attention_pays() else "off"]  # as Sibyl chooses
    command += ["--kv-unified" if unified else "--no-kv-unified"]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=libraries(), timeout=_LIMIT_S
    )
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith('{"n_kv_max"')]
    found = {line["pl"]: float(line["speed_tg"]) for line in lines}
    if done.returncode or not set(sequences) <= set(found):
        raise RuntimeError(f"llama-batched-bench: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
    return {count: found[count] for count in sequences}


def _padded(tokens: int) -> int:
    """llama.cpp gives out room in pieces of 256 tokens."""
    return -(-tokens // 256) * 256
