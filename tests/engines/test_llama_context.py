"""Places hold what they say they hold, and what would end the process is refused before llama.cpp sees it."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from sibyl.core.errors import EngineError
from sibyl.core.task import SamplingParams
from sibyl.engines.llama_context import ComputationAborted, Context, Part, PoolFull
from sibyl.engines.llama_model import Model
from sibyl.engines.sampler import Sampler
from sibyl.engines.sampling import Sampling


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    """The babbling model."""
    model = Model(tiny_model)
    yield model
    model.close()


def opened(model: Model, pool_tokens: int | None = None) -> Context:
    """Return four places for 256 tokens each, 64 at once; or all of them in one pool."""
    return Context(model, places=4, place_tokens=256, batch_tokens=64, threads=1, pool_tokens=pool_tokens)


@pytest.fixture(params=[None, 1024], ids=["own room", "shared room"])
def context(model: Model, request: pytest.FixtureRequest) -> Iterator[Context]:
    """Both ways to have room."""
    context = opened(model, request.param)
    yield context
    context.close()


# What was computed is kept in 16 bits and added up in another order where batches differ; scores are 3 apart here.
TOLERANCE = 0.02


def text(place: int, tokens: list[int], scored: bool = True) -> Part:
    """Return a part."""
    return Part(place, tokens, scored)


def scores_after(model: Model, tokens: list[int]) -> np.ndarray:
    """Return the scores after these tokens, computed alone."""
    context = opened(model)
    rows = context.compute([text(0, tokens)])
    scores: np.ndarray = context.scores(rows[0]).copy()
    context.close()
    return scores


@pytest.mark.parametrize("count", [0, 65, 1000])
def test_a_batch_that_would_abort_the_process_is_refused(context: Context, count: int) -> None:
    """llama.cpp asserts that a batch is not larger than it was told."""
    with pytest.raises(EngineError, match="cannot be computed"):
        context.compute([text(0, [5] * count)])


def test_a_full_place_is_refused(context: Context) -> None:
    """Before llama.cpp looks for room in vain; the others go on."""
    for _ in range(4):
        context.compute([text(1, [5] * 64)])

    with pytest.raises(EngineError, match="after 256 of 256"):
        context.compute([text(1, [5])])
    context.compute([text(2, [5])])

    assert context.held == [0, 256, 1, 0]


def test_a_full_pool_says_so_and_takes_everything_back(model: Model) -> None:
    """So that room can be made, and the same asked again."""
    context = opened(model, pool_tokens=256)
    for place in (0, 1, 2, 2):
        context.compute([text(place, [5] * 60)])

    with pytest.raises(PoolFull):
        context.compute([text(3, [5] * 15), text(0, [5] * 4)])
    assert context.held == [60, 60, 120, 0]

    context.trim(2, 100)
    context.compute([text(3, [5] * 15), text(0, [5] * 4)])
    assert context.held == [64, 60, 100, 15]
    context.close()


def test_a_token_that_does_not_exist_is_an_error_and_takes_nothing_with_it(context: Context) -> None:
    """The places hold what they held."""
    context.compute([text(0, [5, 6]), text(1, [7])])

    with pytest.raises(EngineError, match="could not compute"):
        context.compute([text(0, [10**6]), text(1, [8])])

    assert context.held == [2, 1, 0, 0]
    context.compute([text(0, [5]), text(1, [8])])


def test_every_place_gets_the_scores_of_its_own_tokens(model: Model, context: Context) -> None:
    """Three places in one batch, of several lengths, against each of them alone."""
    texts = {0: [5, 6, 7], 1: [300], 3: [9] * 20}

    rows = context.compute([text(place, tokens) for place, tokens in texts.items()])

    for row, tokens in zip(rows, texts.values(), strict=True):
        assert np.allclose(context.scores(row), scores_after(model, tokens), atol=TOLERANCE)


def test_a_copy_goes_on_as_if_it_had_been_computed(model: Model, context: Context) -> None:
    """Of a part of a place, while that goes on as well; and a second copy takes the place of the first."""
    context.compute([text(0, list(range(5, 45))), text(2, [400, 401])])
    context.copy(0, 2, 30)
    context.compute([text(0, [50])])
    assert context.held == [41, 0, 30, 0]

    rows = context.compute([text(0, [51]), text(2, [60])])
    assert np.allclose(context.scores(rows[0]), scores_after(model, [*range(5, 45), 50, 51]), atol=TOLERANCE)
    assert np.allclose(context.scores(rows[1]), scores_after(model, [*range(5, 35), 60]), atol=TOLERANCE)

    context.copy(2, 0, 31)
    (row,) = context.compute([text(0, [61])])
    assert np.allclose(context.scores(row), scores_after(model, [*range(5, 35), 60, 61]), atol=TOLERANCE)


@pytest.mark.parametrize(("source", "target", "tokens"), [(0, 0, 2), (0, 1, 4), (0, 1, -1)])
def test_a_copy_of_what_is_not_there_is_refused(context: Context, source: int, target: int, tokens: int) -> None:
    """llama.cpp would copy anyway, or end the process."""
    context.compute([text(0, [5, 6, 7])])

    with pytest.raises(EngineError, match="cannot be copied"):
        context.copy(source, target, tokens)


def test_a_trimmed_place_goes_on_from_there(model: Model, context: Context) -> None:
    """As if the rest had never been."""
    context.compute([text(1, [5, 6, 7, 8])])
    context.trim(1, 2)
    (row,) = context.compute([text(1, [9])])

    assert context.held[1] == 3
    assert np.allclose(context.scores(row), scores_after(model, [5, 6, 9]), atol=TOLERANCE)


def test_scores_that_were_never_computed_are_refused(context: Context) -> None:
    """Asking llama.cpp for them ends the process, or gives those of somebody else's prompt."""
    sampler = Sampler(Sampling.of(SamplingParams(seed=1)))
    with pytest.raises(EngineError):
        sampler.choose(context, 0, 0)
    rows = context.compute([text(0, [5, 6]), text(1, [5], scored=False)])
    sampler.choose(context, rows[0], 0)
    for row in (0, rows[1], 3, -1):
        with pytest.raises(EngineError):
            sampler.choose(context, row, 0)
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
    context = opened(model)
    for temperature in (0.0, 1.0):
        sampler = Sampler(Sampling.of(SamplingParams(seed=1, temperature=temperature)))
        (row,) = context.compute([text(0, [5])])
        with pytest.raises(EngineError, match="not finite"):
            sampler.choose(context, row, 0)
        sampler.close()
    context.close()
    model.close()


def test_an_abort_takes_back_the_batch_and_leaves_the_rest(context: Context) -> None:
    """What the places held before, they hold after, and the next computation is not aborted."""
    context.compute([text(0, [5] * 10)])
    context.abort()
    with pytest.raises(ComputationAborted):
        context.compute([text(0, [6] * 30), text(1, [7] * 30)])

    assert context.held == [10, 0, 0, 0]
    context.compute([text(0, [6] * 30), text(1, [7] * 30)])
    assert context.held == [40, 30, 0, 0]


def test_closing_twice_is_closing_once(tiny_model: Path) -> None:
    """And a closed handle is an error, not a crash."""
    model = Model(tiny_model)
    context = opened(model)
    for _ in range(2):
        context.close()
        model.close()

    with pytest.raises(EngineError):
        _ = context.pointer
    with pytest.raises(EngineError):
        opened(model)


def test_draws_follow_the_scores(context: Context) -> None:
    """Over many positions each token comes as often as its probability says, and top_k is obeyed."""
    (row,) = context.compute([text(0, [5, 6, 7])])
    scores = context.scores(row).astype(float)
    top = np.argsort(scores)[::-1][:5]
    shares = np.exp(scores[top] - scores[top[0]])
    shares /= shares.sum()
    counts = dict.fromkeys(top.tolist(), 0)
    draws = 20_000
    sampler = Sampler(
        Sampling.of(SamplingParams(seed=1, temperature=1.0, top_k=5, top_p=1.0, min_p=0.0)),
    )

    for position in range(draws):
        counts[sampler.choose(context, row, position)] += 1

    sampler.close()
    chi_squared = sum(
        (counts[token] - draws * share) ** 2 / (draws * share)
        for token, share in zip(top.tolist(), shares, strict=True)
    )
    assert chi_squared < 20  # 4 degrees of freedom: 1 in 2,000 by chance, and the draws are the same in every run
