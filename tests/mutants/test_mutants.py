"""The fence mutants: the table is up to date, and a sample of them is caught. ``python -m tests.mutants`` runs all."""

import re

import pytest

from tests.mutants.sandbox import ROOT, Inapplicable, mutated, sandbox
from tests.mutants.table import MUTANTS, Mutant

SAMPLE = ("append without the epoch check", "the floor ignored", "append again what is stored", "the reader compares")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made(mutant: Mutant) -> None:
    """The text that it changes is still there, once; and so are the tests that ought to notice."""
    assert mutated(mutant) != (ROOT / "Backend/sibyl" / mutant.file).read_text(encoding="utf-8")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"def {name}\(" if name else "def test_", (ROOT / file).read_text(encoding="utf-8")), test


def test_names_of_mutants_differ() -> None:
    """A name says which."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 18


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    """A fence that was rewritten is not taken for one that is tested."""
    with pytest.raises(Inapplicable):
        mutated(Mutant("gone", "store/lua/append.lua", "no such text", "", ()))
    with pytest.raises(Inapplicable):
        mutated(Mutant("everywhere", "store/lua/append.lua", "held", "", ()))


@pytest.mark.timeout(180)
def test_a_sample_of_mutants_is_caught() -> None:
    """And the unchanged tree is not: what catches them is the change."""
    chosen = [mutant for mutant in MUTANTS if mutant.name.startswith(SAMPLE)]
    assert len(chosen) == len(SAMPLE)
    with sandbox() as place:
        assert place.failure(sorted({test for mutant in chosen for test in mutant.tests})) is None
        for mutant in chosen:
            assert place.failure(mutant.tests, mutant) is not None, mutant.name
