"""Training from a seed: conversations are made as they are needed and never seen twice. Writes checkpoints.

    python train.py --tokenizer runs/tokenizer.json --out runs/model.pt --minutes 40

The schedule ends at `--minutes` or `--steps`, whichever comes first. Only a run ended by `--steps` is repeatable to the
last bit, on the same machine with the same number of threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.multiprocessing
from corpus import conversations
from model import Shape, Sibyl
from muon import Muon
from tokenizer import encode, load
from tokenizers import Tokenizer
from torch import Tensor

Batch = tuple[Tensor, Tensor]
HELD_SEED = 1_000_003


def batches(tokenizer: Tokenizer, seed: int, batch_tokens: int, *, held: bool = False) -> Iterator[Batch]:
    """Padded batches of conversations of like length. A row is one conversation, so none sees another."""
    source = conversations(seed, held=held)
    order = random.Random(seed)
    while True:
        rows = sorted((encode(tokenizer, next(source)) for _ in range(1024)), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in rows:
            if len(row[0]) > 1000:
                continue
            if (len(groups[-1]) + 1) * len(row[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        order.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), length, dtype=torch.long)
            learned = torch.zeros(len(group), length, dtype=torch.bool)
            for index, (row_ids, row_learned) in enumerate(group):
                ids[index, : len(row_ids)] = torch.tensor(row_ids)
                learned[index, : len(row_learned)] = torch.tensor(row_learned)
            yield ids, learned


@torch.no_grad()
def held_loss(model: Sibyl, sample: list[Batch]) -> float:
    """Mean loss a learned token on held-out conversations."""
    total = count = 0.0
    for ids, learned in sample:
        tokens = int(learned[:, 1:].sum())
        total += float(model.loss(ids, learned)) * tokens
        count += tokens
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/tokenizer.json"))
    parser.add_argument("--out", type=Path, default=Path("runs/model.pt"))
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--batch-tokens", type=int, default=2048, help="of each process")
    parser.add_argument("--peak-rate", type=float, default=3e-3, help="of AdamW, for embedding and norms")
    parser.add_argument("--matrix-rate", type=float, default=0.02, help="of Muon, for the matrices of the layers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="go on from the weights of this checkpoint, with a new --seed")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(learn, (given, f"file://{meeting}/point"), nprocs=given.processes)


def learn(rank: int, given: argparse.Namespace, meeting: str) -> None:
    """One process of the training. All start from the same weights, each learns its own conversations, and the
    gradients are averaged at every step: two of these lose less to a busy machine than two threads, which wait for
    each other after every operation."""
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=given.processes)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(given.seed)
    tokenizer = load(given.tokenizer)
    model = Sibyl(Shape(vocabulary=tokenizer.get_vocab_size()))
    seen = before = 0
    if given.resume:
        saved_run = torch.load(given.resume, weights_only=True)
        model.load_state_dict(saved_run["weights"])
        seen, before = saved_run["tokens"], saved_run["steps"]
    parameters = sum(p.numel() for p in model.parameters())
    matrices = [p for p in model.blk.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() < 2] + [model.token_embd.weight]
    optimizers = (
        Muon(matrices, lr=given.matrix_rate, weight_decay=0.01),
        torch.optim.AdamW(plain, lr=given.peak_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )
    peaks = (given.matrix_rate, given.peak_rate)
    held = batches(tokenizer, HELD_SEED, given.batch_tokens, held=True)
    held_sample = [next(held) for _ in range(6)]
    if rank == 0:
        sys.stdout.write(f"parameters {parameters}\n")
    started = saved = time.monotonic()
    step, read_before = 0, seen
    recent = 0.0

    def save() -> None:
        torch.save(
            {
                "shape": dataclasses.asdict(model.shape),
                "weights": model.state_dict(),
                "steps": before + step,
                "tokens": seen,
            },
            given.out,
        )

    for ids, learned in batches(tokenizer, given.seed * 100 + rank, given.batch_tokens):
        clock = torch.tensor((time.monotonic() - started) / (60 * given.minutes))
        torch.distributed.broadcast(clock, 0)
        progress = max(step / given.steps, clock.item())
        if progress >= 1:
            break
        warm = min(1.0, (step + 1) / 40)
        rate = warm * (0.02 + 0.98 * min(1.0, (1 - progress) / 0.6))  # flat, then straight down to almost nothing
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * peak
        loss = model.loss(ids, learned)
        model.zero_grad(set_to_none=True)
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.distributed.all_reduce(flat)
        for weight, part in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True):
            weight.grad.copy_(part.view_as(weight) / given.processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        seen += ids.numel() * given.processes
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if rank:
            continue
        if step % 25 == 0:
            speed = (seen - read_before) / (time.monotonic() - started)
            sys.stdout.write(f"step {step} loss {recent:.3f} rate {rate:.2e} tokens {seen} tokens/s {speed:.0f}\n")
            sys.stdout.flush()
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            sys.stdout.write(f"step {step} held-out perplexity {math.exp(held_loss(model, held_sample)):.3f}\n")
            save()
    if rank:
        return
    save()
    sys.stdout.write(
        f"end step {step} tokens {seen} minutes {(time.monotonic() - started) / 60:.1f} "
        f"held-out perplexity {math.exp(held_loss(model, held_sample)):.3f}\n"
    )


if __name__ == "__main__":
    main()
