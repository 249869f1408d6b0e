"""Models for llama.cpp that are written in a second and need no training, and the usual way to ask an engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sibyl.engines.llama import LlamaEngine
from tests.load.make_random_gguf import main as make_gguf

SAID = "aé你🎉!"  # one, two, three and four bytes a character, and each byte once

WriteModel = Callable[..., Path]


@pytest.fixture(scope="session")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> WriteModel:
    """Return a function that writes a GGUF file by the options of make_random_gguf.py."""
    folder = tmp_path_factory.mktemp("models")

    def write(name: str, *options: str) -> Path:
        path = folder / f"{name}.gguf"
        if not path.exists():
            make_gguf([str(path), *options])
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(write_model: WriteModel) -> Path:
    """A random model of 0.2 million weights that babbles without end."""
    return write_model("tiny")


@pytest.fixture(scope="session")
def chain_model(write_model: WriteModel) -> Path:
    """A model that says SAID, byte by byte, and ends."""
    return write_model("chain", "--say", SAID)


@pytest.fixture(scope="session")
def long_model(write_model: WriteModel) -> Path:
    """A random model of 30 million weights with room for 16,384 tokens, whose prompts take seconds."""
    return write_model("long", "--preset", "30m", "--context", "16384")


@pytest.fixture(scope="session")
def tiny_engine(tiny_model: Path) -> Iterator[LlamaEngine]:
    """The babbling model with four slots."""
    engine = LlamaEngine(tiny_model, slots=4, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def chain_engine(chain_model: Path) -> Iterator[LlamaEngine]:
    """The model that says one sentence."""
    engine = LlamaEngine(chain_model, slots=1, threads=1)
    yield engine
    engine.close()
