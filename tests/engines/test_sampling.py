"""Gaps are filled, nonsense is refused, and chance depends on seed and position alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.core.errors import InvalidRequest
from sibyl.core.task import SamplingParams
from sibyl.engines.sampling import Sampling, draw_seed, recommended_sampling


def test_gaps_are_filled_with_the_stated_defaults() -> None:
    """Who says nothing but a seed gets llama.cpp's defaults."""
    sampling = Sampling.of(SamplingParams(seed=7))

    assert (sampling.max_tokens, sampling.temperature, sampling.seed, sampling.stop) == (512, 0.8, 7, ())
    assert (sampling.top_p, sampling.top_k, sampling.min_p) == (0.95, 40, 0.05)


def test_a_models_own_recommendation_comes_before_the_defaults_and_after_the_request() -> None:
    """A GGUF may carry its makers' sampling; what a request says is stronger, what neither says is llama.cpp's."""
    recommended = SamplingParams(temperature=0.6, min_p=0.08)

    sampling = Sampling.of(SamplingParams(seed=7, temperature=0.0), recommended)

    assert (sampling.temperature, sampling.min_p, sampling.top_k) == (0.0, 0.08, 40)


def test_a_recommendation_is_read_from_the_metadata_and_nonsense_there_counts_as_nothing() -> None:
    """Values are text, of any quality."""
    values = {"temp": "0.6", "top_k": "40", "top_p": "7", "min_p": "often"}

    found = recommended_sampling(lambda key: values.get(key.removeprefix("general.sampling."), ""))

    assert found == SamplingParams(temperature=0.6, top_k=40)


def test_zero_is_a_value_and_no_gap() -> None:
    """Greedy, all candidates, no floor: each is asked for by a zero."""
    sampling = Sampling.of(SamplingParams(temperature=0.0, top_k=0, min_p=0.0, seed=0))

    assert (sampling.temperature, sampling.top_k, sampling.min_p, sampling.seed) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1, max_tokens=0),
        SamplingParams(seed=1, temperature=-0.1),
        SamplingParams(seed=1, temperature=math.nan),
        SamplingParams(seed=1, temperature=math.inf),
        SamplingParams(seed=1, top_p=0.0),
        SamplingParams(seed=1, top_p=1.1),
        SamplingParams(seed=1, top_k=-1),
        SamplingParams(seed=1, min_p=-0.1),
        SamplingParams(seed=1, min_p=math.nan),
        SamplingParams(),
    ],
)
def test_nonsense_is_refused(params: SamplingParams) -> None:
    """Each number out of its range, and chance without a seed, is the request's fault."""
    with pytest.raises(InvalidRequest):
        Sampling.of(params)


def test_greedy_needs_no_seed() -> None:
    """Where nothing is drawn, nobody has to continue a draw."""
    assert Sampling.of(SamplingParams(temperature=0.0)).temperature == 0


@given(seed=st.integers(), position=st.integers(0, 2**31))
def test_a_draw_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    """It fits into 32 bits and is never the number that tells llama.cpp to choose for itself."""
    drawn = draw_seed(seed, position)

    assert drawn == draw_seed(seed, position)
    assert 0 <= drawn < 2**32 - 1


def test_draws_of_neighbours_differ() -> None:
    """No two positions and no two seeds share a random state."""
    drawn = {draw_seed(seed, position) for seed in range(100) for position in range(100)}

    assert len(drawn) > 9_990  # two of 10,000 numbers of 32 bits meet by chance with a probability of 1 %
