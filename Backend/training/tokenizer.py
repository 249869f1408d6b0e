"""The tokenizer: byte-level BPE with the GPT-2 split, so that any text has a spelling. Knows the chat format.

python tokenizer.py --out runs/tokenizer.json
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from corpus import Turn, conversations
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 2560  # a multiple of 64; leaves rarer words in pieces, so that copying by pieces is learned too
BEGIN, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train(conversations_seen: int) -> Tokenizer:
    """A tokenizer trained on the first conversations of seed 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    source = itertools.islice(conversations(0), conversations_seen)
    tokenizer.train_from_iterator((turn["content"] for turns in source for turn in turns), trainer)
    return tokenizer


def load(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def encode(tokenizer: Tokenizer, turns: list[Turn]) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and for each whether the model is to learn it: what the assistant says, its end
    included. The words of the format and of the others are only read."""
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    ids: list[int] = []
    learned: list[bool] = []
    for turn in turns:
        # One encode per part: the special tokens are never spelled from user text.
        head = [start, *tokenizer.encode(turn["role"] + "\n", add_special_tokens=False).ids]
        body = [*tokenizer.encode(turn["content"], add_special_tokens=False).ids, end]
        tail = tokenizer.encode("\n", add_special_tokens=False).ids
        ids += head + body + tail
        learned += [False] * len(head) + [turn["role"] == "assistant"] * len(body) + [False] * len(tail)
    return ids, learned


def prompt_ids(tokenizer: Tokenizer, turns: list[Turn]) -> list[int]:
    """Token ids up to where the assistant begins to speak."""
    ids, _ = encode(tokenizer, turns)
    head = [tokenizer.token_to_id(START), *tokenizer.encode("assistant\n", add_special_tokens=False).ids]
    return ids + head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizer.json"))
    parser.add_argument("--conversations", type=int, default=30_000)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    train(given.conversations).save(str(given.out))


if __name__ == "__main__":
    main()
