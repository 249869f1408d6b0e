"""Writes GGUF files that llama.cpp runs and that nobody had to train: for tests and for speed figures.

Two kinds. A *random* model has the shape and the cost of a real one; it babbles syllables and never ends by itself.
A *chain* model computes nothing but "which token follows this one", so that a test knows every token that real
llama.cpp will choose: it says one sentence, byte by byte, and ends.

    make_random_gguf.py tiny.gguf --preset tiny
    make_random_gguf.py speed.gguf --preset 120m --type q8_0
    make_random_gguf.py chain.gguf --say "aé你🎉!"
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

UNKNOWN, BOS, EOS = 0, 1, 2
FIRST_BYTE = 3
IM_START, IM_END = FIRST_BYTE + 256, FIRST_BYTE + 257
FIRST_PIECE = IM_END + 1

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a llama-architecture model."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int


PRESETS = {
    "tiny": Shape(vocabulary=1024, width=64, layers=2, heads=2, kv_heads=1, hidden=128),
    "30m": Shape(vocabulary=8192, width=512, layers=8, heads=8, kv_heads=4, hidden=1376),
    "120m": Shape(vocabulary=32000, width=768, layers=12, heads=12, kv_heads=4, hidden=2048),
    "500m": Shape(vocabulary=32000, width=1280, layers=24, heads=20, kv_heads=5, hidden=3584),
}
CHAIN = Shape(vocabulary=0, width=384, layers=1, heads=6, kv_heads=1, hidden=32)


def pieces(count: int) -> list[str]:
    """Return ``count`` different pieces: printable characters, then syllables, with and without a space before."""
    found: dict[str, None] = dict.fromkeys(["\u2581", *(chr(code) for code in range(33, 127))])
    syllables = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
    for length in itertools.count(1):
        for word in map("".join, itertools.product(syllables, repeat=length)):
            for piece in (word, "\u2581" + word):
                if len(found) >= count:
                    return list(found)[:count]
                found[piece] = None
    raise AssertionError("unreachable")


def vocabulary(count: int, words: Sequence[str] = ()) -> tuple[list[bytes], list[float], list[gguf.TokenType]]:
    """Return texts, scores and types of a SentencePiece-like vocabulary with all 256 bytes and ChatML's two tokens.

    ``words``: the rest of it; none are syllables.
    """
    texts = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * 256
    texts += [b"<|im_start|>", b"<|im_end|>"]
    types += [gguf.TokenType.CONTROL] * 2
    words = words or pieces(count - len(texts))
    texts += [word.encode() for word in words]
    types += [gguf.TokenType.NORMAL] * len(words)
    scores = [0.0] * FIRST_PIECE + [-float(rank) for rank in range(len(words))]
    return texts, scores, types


class ModelFile:
    """A GGUF file while it is written."""

    def __init__(
        self,
        path: Path,
        name: str,
        shape: Shape,
        *,
        context: int,
        kind: str,
        template: str | None,
        words: Sequence[str] = (),
    ) -> None:
        self.kind = TYPES[kind]
        self.writer = gguf.GGUFWriter(path, "llama")
        self.writer.add_name(name)
        self.writer.add_context_length(context)
        self.writer.add_block_count(shape.layers)
        self.writer.add_embedding_length(shape.width)
        self.writer.add_feed_forward_length(shape.hidden)
        self.writer.add_head_count(shape.heads)
        self.writer.add_head_count_kv(shape.kv_heads)
        self.writer.add_rope_dimension_count(shape.width // shape.heads)
        self.writer.add_layer_norm_rms_eps(1e-5)
        self.writer.add_vocab_size(shape.vocabulary)
        self.writer.add_tokenizer_model("llama")
        self.writer.add_tokenizer_pre("default")
        texts, scores, types = vocabulary(shape.vocabulary, words)
        self.writer.add_token_list(texts)
        self.writer.add_token_scores(scores)
        self.writer.add_token_types(types)
        self.writer.add_bos_token_id(BOS)
        self.writer.add_eos_token_id(EOS)
        self.writer.add_eot_token_id(IM_END)
        self.writer.add_unk_token_id(UNKNOWN)
        self.writer.add_add_bos_token(True)
        self.writer.add_add_space_prefix(False)
        if template is not None:
            self.writer.add_chat_template(template)

    def add(self, name: str, values: NDArray[np.float32]) -> None:
        """Add a tensor; vectors stay in 32 bits, as llama.cpp wants its norms."""
        kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else self.kind
        self.writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def finish(self) -> None:
        """Write everything."""
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def layer_shapes(shape: Shape) -> list[tuple[str, tuple[int, int]]]:
    """Return name and size of each matrix of a layer."""
    kv_width = shape.width // shape.heads * shape.kv_heads
    return [
        ("attn_q", (shape.width, shape.width)),
        ("attn_k", (kv_width, shape.width)),
        ("attn_v", (kv_width, shape.width)),
        ("attn_output", (shape.width, shape.width)),
        ("ffn_gate", (shape.hidden, shape.width)),
        ("ffn_up", (shape.hidden, shape.width)),
        ("ffn_down", (shape.width, shape.hidden)),
    ]


def write_random(path: Path, preset: str, *, context: int, kind: str, seed: int, template: str | None) -> int:
    """Write a model with random weights and return how many it has."""
    shape = PRESETS[preset]
    random = np.random.default_rng(seed)
    file = ModelFile(path, f"random-{preset}", shape, context=context, kind=kind, template=template)
    count = 0

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        nonlocal count
        count += rows * columns
        return random.standard_normal((rows, columns), dtype=np.float32) / np.float32(np.sqrt(columns))

    embedding = matrix(shape.vocabulary, shape.width)
    file.add("token_embd.weight", embedding)
    for layer in range(shape.layers):
        for name, (rows, columns) in layer_shapes(shape):
            file.add(f"blk.{layer}.{name}.weight", matrix(rows, columns))
        for name in ("attn_norm", "ffn_norm"):
            file.add(f"blk.{layer}.{name}.weight", np.ones(shape.width, np.float32))
    file.add("output_norm.weight", np.ones(shape.width, np.float32))
    output = 3 * matrix(shape.vocabulary, shape.width)
    output[:FIRST_PIECE] = 0  # neither bytes nor the end come out of noise: the text stays readable and goes on
    file.add("output.weight", output)
    file.finish()
    return count


def write_chain(path: Path, say: str, *, context: int, loop: bool, template: str | None) -> int:
    """Write a model that says ``say``, byte by byte, and then ends, or begins again with ``loop``.

    The residual stream is the last token as a unit vector (every layer adds zero), and row ``n`` of the output matrix
    is large at the tokens that ``n`` follows. So each byte of ``say`` must occur only once in it.
    """
    said = [FIRST_BYTE + byte for byte in say.encode()]
    if len(set(said)) != len(said):
        raise SystemExit("each byte may occur once: a chain model remembers only the last token")
    count = CHAIN.width
    shape = Shape(
        vocabulary=count,
        width=count,
        layers=CHAIN.layers,
        heads=CHAIN.heads,
        kv_heads=CHAIN.kv_heads,
        hidden=CHAIN.hidden,
    )
    file = ModelFile(path, "chain", shape, context=context, kind="f32", template=template)
    file.add("token_embd.weight", np.eye(count, dtype=np.float32))
    for layer in range(shape.layers):
        for name, size in layer_shapes(shape):
            file.add(f"blk.{layer}.{name}.weight", np.zeros(size, np.float32))
        for name in ("attn_norm", "ffn_norm"):
            file.add(f"blk.{layer}.{name}.weight", np.ones(shape.width, np.float32))
    file.add("output_norm.weight", np.ones(shape.width, np.float32))
    follows = np.full(count, said[0])
    follows[said] = [*said[1:], said[0] if loop else IM_END]
    output = np.zeros((count, count), np.float32)
    output[follows, np.arange(count)] = 40
    file.add("output.weight", output)
    file.finish()
    return count * count * 2


def main(arguments: Sequence[str]) -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--say", help="write a chain model that says this")
    parser.add_argument("--loop", action="store_true", help="a chain model that begins again at its end")
    parser.add_argument("--type", choices=TYPES, default="f16", help="of a random model's matrices")
    parser.add_argument("--context", type=int, default=8192, help="tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--template", help="chat template; default ChatML, empty for none")
    options = parser.parse_args(arguments)
    template = CHAT_TEMPLATE if options.template is None else options.template or None
    began = time.perf_counter()
    if options.say is not None:
        count = write_chain(options.path, options.say, context=options.context, loop=options.loop, template=template)
    else:
        count = write_random(
            options.path,
            options.preset,
            context=options.context,
            kind=options.type,
            seed=options.seed,
            template=template,
        )
    megabytes = options.path.stat().st_size / 1e6
    took = time.perf_counter() - began
    sys.stdout.write(f"{options.path}: {count / 1e6:.1f}M weights, {megabytes:.1f} MB, {took:.1f} s\n")


if __name__ == "__main__":
    main(sys.argv[1:])
