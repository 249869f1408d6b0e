"""A model says what it is, and a file that is none is refused in one line."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from sibyl.core.errors import ModelUnusable
from sibyl.engines.llama_model import (
    Model,
)
from tests.engines.conftest import WriteModel


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    """The babbling model."""
    model = Model(tiny_model)
    yield model
    model.close()


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


def test_the_interpreter_leaves_quietly_with_a_model_open(tiny_model: Path) -> None:
    """Nothing is freed twice, nothing warns, whatever was left open."""
    program = (
        "import sys; from pathlib import Path; from sibyl.engines.llama_model import Model\n"
        "from sibyl.engines.llama_context import Context, Part\n"
        "context = Context(Model(Path(sys.argv[1])), places=2, place_tokens=64, batch_tokens=64, threads=2)\n"
        "context.compute([Part(0, [5] * 64, True)])"
    )
    began = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tiny_model)], capture_output=True, timeout=20
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert time.monotonic() - began < 15
