"""Models that cannot take back, share or pad answer all the same, and as well together as alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import TaskCancelled
from sibyl.core.task import SamplingParams
from sibyl.engines.generation import Generation
from sibyl.engines.llama import LlamaEngine
from sibyl.engines.llama_context import Context, Part
from sibyl.engines.llama_model import Model
from tests.engines.architectures import write_recurrent, write_windowed
from tests.engines.asking import answer, asking, said, text_of

QUESTIONS = [" ".join(["why", "so", "far", "away", "then"][number % 5 :] * (number + 3)) for number in range(6)]
SAMPLING = SamplingParams(temperature=0.0, max_tokens=40)


@pytest.fixture(scope="module", params=[write_recurrent, write_windowed], ids=["recurrent", "sliding window"])
def model_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model."""
    path = tmp_path_factory.mktemp("models") / f"{request.param.__name__}.gguf"
    request.param(path)
    return path


@pytest.fixture(params=[None, 2048], ids=["own room", "shared room"])
def engine(model_path: Path, request: pytest.FixtureRequest) -> Iterator[LlamaEngine]:
    """With four slots."""
    engine = LlamaEngine(model_path, slots=4, threads=1, context_tokens=1024, pool_tokens=request.param)
    yield engine
    engine.close()


def first_words(engine: LlamaEngine, question: str) -> str:
    """Return a greedy answer."""
    return text_of(answer(engine, asking(question, sampling=SAMPLING))[0])


def test_answers_go_on_where_they_were_left(engine: LlamaEngine) -> None:
    """After a takeover, and after the same place served somebody else."""
    outputs, result = answer(engine, asking(QUESTIONS[0], sampling=SAMPLING))
    first_words(engine, QUESTIONS[1])

    rest, again = answer(engine, asking(QUESTIONS[0], sampling=SAMPLING, stored=outputs[:17]))

    assert text_of(outputs[:17] + rest) == text_of(outputs)
    assert again == result


def test_several_at_once_have_the_scores_that_they_have_alone(
    engine: LlamaEngine, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of scores, after others left tokens behind, against the same tokens in a context of their own.

    llama.cpp gives cells outside a sliding window to others; sharing them made scores wrong by a third of their spread.
    """
    model = Model(model_path)
    own = Context(model, places=1, place_tokens=1024, batch_tokens=256, threads=1)
    furthest = 0.0
    choose = Generation._choose

    def compared(generation: Generation, context: Context, row: int) -> None:
        nonlocal furthest
        own.trim(0, 0)
        seen = generation.token_ids[: generation.seen]
        last = -1
        for first in range(0, len(seen), 256):
            (last,) = own.compute([Part(0, seen[first : first + 256], scored=True)])
        furthest = max(furthest, float(np.abs(own.scores(last) - context.scores(row)).max() / own.scores(last).std()))
        choose(generation, context, row)

    monkeypatch.setattr(Generation, "_choose", compared)
    for question in QUESTIONS:
        first_words(engine, question)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda question: first_words(engine, question), QUESTIONS))
    own.close()
    model.close()

    assert furthest < 0.05  # rounding: what is kept has 16 bits, and sums have another order


def test_a_stopped_prompt_leaves_the_engine_usable(engine: LlamaEngine) -> None:
    """Its state cannot be taken back to before the batch; it is emptied."""
    expected = first_words(engine, QUESTIONS[2])
    for stop_at in (1, 2):
        abort = Abort()
        reports = iter(range(1, 100))

        def on_progress(
            done: int, of: int, abort: Abort = abort, left: Iterator[int] = reports, at: int = stop_at
        ) -> None:
            if next(left) == at:
                abort.request(TaskCancelled())

        with pytest.raises(TaskCancelled):
            answer(engine, asking(("so ", "far ")[stop_at - 1] * 300, abort=abort, on_progress=on_progress))

        assert first_words(engine, QUESTIONS[2]) == expected


def test_a_chat_goes_on(engine: LlamaEngine) -> None:
    """Whether its beginning is reused or computed again, the answer is the same."""
    chat = (said(QUESTIONS[3]), said(first_words(engine, QUESTIONS[3]), "assistant"), said("And then?"))
    reused = text_of(answer(engine, asking(chat, sampling=SAMPLING))[0])
    for question in QUESTIONS:
        first_words(engine, question)

    assert text_of(answer(engine, asking(chat, sampling=SAMPLING))[0]) == reused
