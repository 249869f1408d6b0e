"""The negative controls fit the sources of today."""

from dataclasses import replace
from pathlib import Path

import pytest

import sibyl
from tests.chaos.broken import BREAKS, BreakDoesNotFit, broken_tree
from tests.chaos.plan import KINDS


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_changes_one_file_of_a_copy(name: str, tmp_path: Path) -> None:
    """The sources stay; of the copy one file differs; the faults that show it exist."""
    original = (Path(sibyl.__file__).parent / BREAKS[name].file).read_text(encoding="utf-8")

    tree = broken_tree(name, tmp_path)

    assert (tree / "sibyl" / BREAKS[name].file).read_text(encoding="utf-8") != original
    assert (Path(sibyl.__file__).parent / BREAKS[name].file).read_text(encoding="utf-8") == original
    assert (tree / "sibyl" / "__main__.py").exists()
    assert set(BREAKS[name].faults) <= set(KINDS)


def test_a_break_that_no_longer_fits_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that changes nothing would be no control."""
    monkeypatch.setitem(BREAKS, "rewind", replace(BREAKS["rewind"], old="no such text"))

    with pytest.raises(BreakDoesNotFit, match="rewind replaces stands 0 times"):
        broken_tree("rewind", tmp_path)
