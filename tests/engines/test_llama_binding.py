"""llama.cpp's refusals become errors, and what would end the process is refused before."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from sibyl.core.errors import EngineError, ModelUnusable
from sibyl.core.task import SamplingParams
from sibyl.engines.llama_binding import (
    SEGMENT_CHARACTERS,
    ComputationAborted,
    Context,
    Model,
    Sampler,
    _segments,
)
from sibyl.engines.sampling import Sampling
from tests.engines.conftest import WriteModel


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    """The babbling model."""
    model = Model(tiny_model)
    yield model
    model.close()


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    """Room for 256 tokens, 64 at once."""
    context = Context(model, tokens=256, batch_tokens=64, threads=1)
    yield context
    context.close()


def test_a_model_tells_its_name_its_template_and_its_size(model: Model) -> None:
    """As they stand in the file."""
    assert model.name == "random-tiny"
    assert model.context_tokens == 8192
    assert model.chat_template is not None
    assert "im_start" in model.chat_template


def test_a_model_without_a_template_says_so(write_model: WriteModel) -> None:
    """None, and not the null pointer's text."""
    model = Model(write_model("bare", "--template", ""))

    assert model.chat_template is None
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


def damaged(source: Path, folder: Path, damage: str) -> Path:
    """Return a damaged copy of a model."""
    data = source.read_bytes()
    path = folder / "damaged.gguf"
    path.write_bytes(
        {
            "empty": b"",
            "text": b"hello, I am no model\n",
            "magic alone": b"GGUF",
            "cut in the header": data[:100],
            "cut in the vocabulary": data[:20_000],
            "cut in the tensors": data[:200_000],
            "noise after the magic": b"GGUF" + bytes(range(256)) * 50,
            "a version of the future": data[:4] + b"\xff\0\0\0" + data[8:],
        }[damage]
    )
    return path


@pytest.mark.parametrize(
    "damage",
    [
        "empty",
        "text",
        "magic alone",
        "cut in the header",
        "cut in the vocabulary",
        "cut in the tensors",
        "noise after the magic",
        "a version of the future",
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    """The line names the file and what is wrong with it, without llama.cpp's function names."""
    path = damaged(tiny_model, tmp_path, damage)

    with pytest.raises(ModelUnusable) as caught:
        Model(path)

    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert "llama_" not in caught.value.message
    assert "gguf_" not in caught.value.message


def test_a_missing_file_a_folder_and_a_locked_file_are_told_apart(tmp_path: Path) -> None:
    """Each asks the user to do something else."""
    locked = tmp_path / "locked.gguf"
    locked.symlink_to(locked)  # cannot be opened by anybody, not even root
    for path, reason in ((tmp_path / "none.gguf", "no model file"), (tmp_path, "folder"), (locked, "cannot be read")):
        with pytest.raises(ModelUnusable, match=reason):
            Model(path)


def test_a_model_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    """llama.cpp's complaint about it is passed on."""
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "no-such-architecture")
    writer.add_block_count(1)
    writer.add_tensor("x", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(ModelUnusable, match="no-such-architecture"):
        Model(path)


def test_what_llama_cpp_logs_goes_to_logging_and_not_to_the_terminal(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """At debug level, so that nobody sees it who does not ask."""
    with caplog.at_level(logging.DEBUG, logger="sibyl.engines.llama_binding"):
        Model(tiny_model).close()

    assert any(record.levelno == logging.DEBUG for record in caplog.records)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("count", [0, 65, 1000])
def test_a_batch_that_would_abort_the_process_is_refused(context: Context, count: int) -> None:
    """llama.cpp asserts that a batch is not larger than it was told."""
    with pytest.raises(EngineError, match="cannot be evaluated"):
        context.evaluate([5] * count)


def test_a_full_context_is_refused(context: Context) -> None:
    """Before llama.cpp looks for room in vain."""
    for _ in range(4):
        context.evaluate([5] * 64)

    with pytest.raises(EngineError, match="after 256 of 256"):
        context.evaluate([5])


def test_a_token_that_does_not_exist_is_an_error(context: Context) -> None:
    """And the context is usable afterwards."""
    with pytest.raises(EngineError, match="could not compute"):
        context.evaluate([10**6])

    context.begin()
    context.evaluate([5])


def test_scores_that_were_never_computed_are_refused(context: Context) -> None:
    """Asking llama.cpp for them ends the process, or gives those of somebody else's prompt."""
    sampling = Sampling.of(SamplingParams(seed=1))
    sampler = Sampler(sampling)
    with pytest.raises(EngineError):
        sampler.choose(context, 0)
    context.evaluate([5])
    sampler.choose(context, 0)
    context.begin()
    with pytest.raises(EngineError):
        sampler.choose(context, 0)
    sampler.close()


def test_scores_that_are_not_numbers_are_an_error(tmp_path: Path, tiny_model: Path) -> None:
    """Sorting them would be undefined behaviour in the sampler."""
    reader = gguf.GGUFReader(tiny_model)
    norm = next(tensor for tensor in reader.tensors if tensor.name == "output_norm.weight")
    data = bytearray(tiny_model.read_bytes())
    data[norm.data_offset : norm.data_offset + norm.n_bytes] = np.full(64, np.nan, np.float32).tobytes()
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)
    model = Model(path)
    context = Context(model, tokens=256, batch_tokens=64, threads=1)
    for temperature in (0.0, 1.0):
        sampler = Sampler(Sampling.of(SamplingParams(seed=1, temperature=temperature)))
        context.begin()
        context.evaluate([5])
        with pytest.raises(EngineError, match="not finite"):
            sampler.choose(context, 0)
        sampler.close()
    context.close()
    model.close()


def test_an_abort_stops_the_computation_and_only_that_one(context: Context) -> None:
    """A late call of an old abort, as a race can bring it, stops nobody else."""
    old = context.begin()
    old()
    with pytest.raises(ComputationAborted):
        context.evaluate([5] * 64)

    context.begin()
    old()
    context.evaluate([5] * 64)


def test_closing_twice_is_closing_once(tiny_model: Path) -> None:
    """And a closed handle is an error, not a crash."""
    model = Model(tiny_model)
    context = Context(model, tokens=64, batch_tokens=64, threads=1)
    for _ in range(2):
        context.close()
        model.close()

    with pytest.raises(EngineError):
        _ = context.pointer
    with pytest.raises(EngineError):
        Context(model, tokens=64, batch_tokens=64, threads=1)


def test_draws_follow_the_scores(context: Context) -> None:
    """Over many positions each token comes as often as its probability says, and top_k is obeyed."""
    context.evaluate([5, 6, 7])
    scores = context.logits().astype(float)
    top = np.argsort(scores)[::-1][:5]
    shares = np.exp(scores[top] - scores[top[0]])
    shares /= shares.sum()
    counts = dict.fromkeys(top.tolist(), 0)
    draws = 20_000
    sampler = Sampler(
        Sampling.of(SamplingParams(seed=1, temperature=1.0, top_k=5, top_p=1.0, min_p=0.0)),
    )

    for position in range(draws):
        counts[sampler.choose(context, position)] += 1

    sampler.close()
    chi_squared = sum(
        (counts[token] - draws * share) ** 2 / (draws * share)
        for token, share in zip(top.tolist(), shares, strict=True)
    )
    assert chi_squared < 20  # 4 degrees of freedom: 1 in 2,000 by chance, and the draws are the same in every run


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
from sibyl.engines.llama_binding import Model
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


def test_the_interpreter_leaves_quietly_with_a_model_open(tiny_model: Path) -> None:
    """Nothing is freed twice, nothing warns, whatever was left open."""
    program = (
        "import sys; from pathlib import Path; from sibyl.engines.llama_binding import Context, Model\n"
        "context = Context(Model(Path(sys.argv[1])), tokens=64, batch_tokens=64, threads=2)\n"
        "context.evaluate([5] * 64)"
    )
    began = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tiny_model)], capture_output=True, timeout=20
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert time.monotonic() - began < 15
