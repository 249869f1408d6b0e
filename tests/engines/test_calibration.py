"""What was measured is kept for the very same model and machine, and a broken record is measured anew."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from sibyl.engines.calibration import LIMIT_S, Calibration, calibrate
from sibyl.engines.llama_context import Context
from sibyl.engines.llama_model import Model
from tests.engines.conftest import WriteModel


@pytest.fixture
def context(tiny_model: Path) -> Iterator[Context]:
    """Four places."""
    model = Model(tiny_model)
    context = Context(model, places=4, place_tokens=256, batch_tokens=64, threads=1)
    yield context
    context.close()
    model.close()


def measured(context: Context, path: Path, folder: Path | None, **more: object) -> Calibration:
    """Calibrate for one thread."""
    return calibrate(context, model_path=path, threads=[1], rows=True, folder=folder, **more)  # type: ignore[arg-type]


def test_every_number_of_rows_is_measured_and_the_context_is_empty_again(context: Context, tiny_model: Path) -> None:
    """With times above nothing."""
    found = measured(context, tiny_model, None)

    assert list(found.row_seconds) == [1, 2, 3, 4]
    assert min(found.row_seconds.values()) > 0
    assert (found.threads, found.batch_threads) == (1, 1)
    assert context.held == [0, 0, 0, 0]


def test_a_measurement_is_kept_for_the_next_start(context: Context, tiny_model: Path, tmp_path: Path) -> None:
    """The second one is the first one."""
    first = measured(context, tiny_model, tmp_path / "new")

    assert measured(context, tiny_model, tmp_path / "new") == first
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"threads": "x"}', "\0"])
def test_a_broken_record_is_measured_anew(context: Context, tiny_model: Path, tmp_path: Path, text: str) -> None:
    """And replaced."""
    measured(context, tiny_model, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(text)

    found = measured(context, tiny_model, tmp_path)

    assert json.loads(path.read_text())["threads"] == found.threads


def test_another_model_is_another_record(
    context: Context, tiny_model: Path, tmp_path: Path, write_model: WriteModel
) -> None:
    """Also one of the same name."""
    measured(context, tiny_model, tmp_path)
    measured(context, write_model("other", "--seed", "5"), tmp_path)

    assert len(list(tmp_path.iterdir())) == 2


def test_a_slow_model_is_not_measured_for_long(context: Context, tiny_model: Path) -> None:
    """By a clock that passes half a second at each look: what is not known by the limit stays unknown."""
    ticks = count(step=0.5)
    found = measured(context, tiny_model, None, clock=lambda: next(ticks))

    assert len(found.row_seconds) < 4
    assert all(took_s < LIMIT_S for took_s in found.row_seconds.values())


def test_a_folder_that_cannot_be_written_is_no_error(context: Context, tiny_model: Path, tmp_path: Path) -> None:
    """The next start measures again."""
    (tmp_path / "file").write_text("")

    assert measured(context, tiny_model, tmp_path / "file" / "folder").row_seconds
