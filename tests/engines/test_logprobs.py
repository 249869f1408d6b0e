"""Logarithmic probabilities are those of the model's own scores."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.engines.logprobs import IMPOSSIBLE, logprobs_of

SCORES = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=50)


@given(SCORES, st.integers(0, 20), st.data())
def test_they_are_the_softmax_of_the_scores(scores: list[float], count: int, data: st.DataObject) -> None:
    """Against the definition, in more digits; best first, and as many as there are."""
    chosen = data.draw(st.integers(0, len(scores) - 1))
    total = math.log(math.fsum(math.exp(score - max(scores)) for score in scores)) + max(scores)
    pieces = [b"%d" % place for place in range(len(scores))]

    told = logprobs_of(np.array(scores, np.float32), chosen, count, pieces)

    assert (told.chosen.token_id, told.chosen.piece) == (chosen, pieces[chosen])
    assert told.chosen.logprob == pytest.approx(scores[chosen] - total, abs=2e-4)
    best = sorted(scores, reverse=True)[:count]
    assert [token.logprob for token in told.likeliest] == pytest.approx([score - total for score in best], abs=2e-4)
    assert [scores[token.token_id or 0] for token in told.likeliest] == best


def test_large_and_impossible_scores_are_no_trouble() -> None:
    """Neither an overflow nor an infinity, which JSON does not know."""
    row = np.array([1e30, 3e38, -math.inf, 0], np.float32)

    told = logprobs_of(row, 2, 2, [b"a", b"b", b"c", b"d"])

    assert told.chosen.logprob == IMPOSSIBLE
    assert [(token.piece, token.logprob) for token in told.likeliest] == [(b"b", 0.0), (b"a", IMPOSSIBLE)]


def test_one_token_alone_is_certain() -> None:
    """Zero, and not minus zero."""
    assert math.copysign(1, logprobs_of(np.zeros(1, np.float32), 0, 5, [b"x"]).chosen.logprob) == 1
