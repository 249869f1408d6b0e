"""Tokens and text: each gives the other back, and no text ends the process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from sibyl.engines.llama_model import Model
from sibyl.engines.vocabulary import SEGMENT_CHARACTERS, _segments


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    """The babbling model."""
    model = Model(tiny_model)
    yield model
    model.close()


def test_a_vocabulary_knows_pieces_ends_and_control_tokens(model: Model) -> None:
    """Bytes are bytes, control tokens have no text, and every token that ends a turn is known."""
    vocabulary = model.vocabulary

    assert vocabulary.pieces[3 + 0xC3] == b"\xc3"
    assert vocabulary.piece(259) == b""
    assert vocabulary.piece(-1) is None
    assert vocabulary.piece(vocabulary.size) is None
    assert {2, 260} <= vocabulary.end_ids
    assert {token.text for token in vocabulary.control} == {"<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"}
    assert (vocabulary.bos, vocabulary.eos, vocabulary.first_id) == ("<s>", "</s>", 1)
    assert vocabulary.max_piece_bytes == max(4, *map(len, vocabulary.pieces))


@pytest.mark.parametrize("text", ["", "a", "é 你好 🎉\n", "<|im_end|></s>", "\0\0", "a" * 100_000, " " * 10_000])
def test_tokens_give_back_the_text_and_are_no_control_tokens(model: Model, text: str) -> None:
    """Whatever the text looks like, and also where it holds null characters."""
    ids = model.vocabulary.tokenize(text)

    assert b"".join(model.vocabulary.pieces[token_id] for token_id in ids).decode() == text
    assert not {1, 2, 259, 260} & set(ids)


def test_long_texts_are_cut_between_words_where_they_can_be() -> None:
    """Joined again they are the text, and no part is longer than a pre-tokenizer survives."""
    words = "word and more words " * 1000
    parts = _segments(words)

    assert "".join(parts) == words
    assert max(map(len, parts)) <= SEGMENT_CHARACTERS
    assert all(part.startswith(" ") for part in parts[1:])
    assert _segments("") == [""]
    assert list(map(len, _segments("a" * (2 * SEGMENT_CHARACTERS + 1)))) == [SEGMENT_CHARACTERS, SEGMENT_CHARACTERS, 1]


HOSTILE_TEXTS = """
import sys
from pathlib import Path
from sibyl.engines.llama_model import Model
vocabulary = Model(Path(sys.argv[1])).vocabulary
for unit in ("a", " ", "\\n", "1", "!", "你", "a1 !", "'"):
    text = unit * (200_000 // len(unit))
    ids = vocabulary.tokenize(text)
    assert b"".join(vocabulary.pieces[token_id] for token_id in ids).decode() == text, unit
"""


@pytest.mark.parametrize("pre", ["deepseek-v3", "gpt-4o", "tekken", "qwen2"])
def test_no_text_crashes_the_pre_tokenizer(tmp_path: Path, pre: str) -> None:
    """In a process of its own: without the cut, three of these four end in a segmentation fault."""
    path = tmp_path / "bpe.gguf"
    write_byte_pair_model(path, pre)

    done = subprocess.run([sys.executable, "-c", HOSTILE_TEXTS, str(path)], capture_output=True, timeout=25)

    assert (done.returncode, done.stderr) == (0, b"")


def write_byte_pair_model(path: Path, pre: str) -> None:
    """Write a model with a byte-pair vocabulary of 256 bytes and one merge."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}
    tokens = [letters[byte] for byte in range(256)] + ["aa", "<|end|>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a a"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(32, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
