"""Real llama.cpp says what the programmed model's answers are known to be."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.llama import LlamaEngine
from tests.chaos import programmed
from tests.chaos.asks import answer_to, draw_ask
from tests.chaos.history import Ask


@pytest.fixture(scope="module", params=[None, programmed.CONTEXT_TOKENS], ids=["own room", "shared room"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    """The programmed model with six slots, with room for all or for two answers at a time."""
    path = tmp_path_factory.mktemp("programmed") / "model.gguf"
    programmed.write_model(path)
    engine = LlamaEngine(path, slots=6, threads=1, pool_tokens=request.param)
    yield engine
    engine.close()


def outputs_of(engine: LlamaEngine, ask: Ask, stored: tuple[Output, ...] = ()) -> list[Output]:
    """Return what the engine answers, after what is stored of it."""
    outputs: list[Output] = []
    stop = tuple(ask.sampling.get("stop", ()))
    request = GenerationRequest(
        messages=(Message(role="user", content=ask.question),),
        sampling=SamplingParams(**{**ask.sampling, "seed": ask.seed, "stop": stop}),
        abort=Abort(),
        stored=stored,
    )
    engine.generate(request, outputs.append)
    return outputs


def text_of(outputs: list[Output]) -> str:
    """Return the joined text."""
    return "".join(output.text for output in outputs)


def drawn(count: int) -> list[Ask]:
    """Return questions as a campaign asks them."""
    draw = random.Random(5)
    return [draw_ask("llama", draw, f"chaos-5-0-{number}") for number in range(count)]


def test_the_answers_of_a_campaign_are_those_of_the_engine(engine: LlamaEngine) -> None:
    """Eighteen questions, six at a time, of which many begin alike: each is answered in its own dialect."""
    asks = sorted(drawn(18), key=lambda ask: ask.question)

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda ask: text_of(outputs_of(engine, ask)), asks))

    assert said == [answer_to("llama", ask) for ask in asks]
    assert engine.counters["reused_tokens"] > 0


def test_an_answer_that_was_cut_anywhere_goes_on_to_the_same_end(engine: LlamaEngine) -> None:
    """Also between words that were held back because a stop string might have begun."""
    for ask in drawn(18)[::6]:
        whole = outputs_of(engine, ask)
        for kept in {0, len(whole) // 3, len(whole) - 1} & set(range(len(whole))):
            assert text_of(whole[:kept] + outputs_of(engine, ask, tuple(whole[:kept]))) == answer_to("llama", ask)


def test_an_answer_ends_after_the_last_place_or_begins_there_anew(engine: LlamaEngine) -> None:
    """By its dialect."""
    ends, goes_on = (
        Ask(key="k", question=f"{programmed.MARKS[dialect]} k 一", seed=1, sampling={"max_tokens": 800})
        for dialect in (0, programmed.DIALECTS - 1)
    )

    assert len(text_of(outputs_of(engine, ends))) == len(answer_to("llama", ends)) == programmed.PLACES - 1
    assert text_of(outputs_of(engine, goes_on)) == answer_to("llama", goes_on)
    assert len(answer_to("llama", goes_on)) == 800


def test_what_is_said_follows_the_mark_the_last_word_and_the_limits() -> None:
    """The expectation itself, spelled out."""
    question = f"{programmed.MARKS[6]}why {programmed.word(2, 9)}"
    words = [programmed.word(6, place) for place in range(10, 15)]

    assert programmed.answer(question, max_tokens=5) == "".join(words)
    assert programmed.answer(question, max_tokens=5, stop=["".join(words[2:4])]) == "".join(words[:2])
    assert programmed.answer(question, max_tokens=5, stop=[words[3] + words[2]]) == "".join(words)
    assert len({programmed.word(dialect, place) for dialect in range(8) for place in range(366)}) == 8 * 366


def test_a_campaign_asks_for_answers_that_stop_strings_end_and_for_some_that_they_nearly_end() -> None:
    """And for those that end by themselves, at their limit, and never twice the same prompt."""
    asks = drawn(300)
    with_stop = [ask for ask in asks if "stop" in ask.sampling]
    free = {ask.key: programmed.answer(ask.question, max_tokens=ask.sampling["max_tokens"]) for ask in asks}

    assert any(answer_to("llama", ask) != free[ask.key] for ask in with_stop)
    assert any(answer_to("llama", ask) == free[ask.key] for ask in with_stop)
    assert any(len(free[ask.key]) < ask.sampling["max_tokens"] for ask in asks)
    assert all(before.question != after.question for before, after in pairwise(sorted(asks, key=lambda a: a.question)))


def test_a_prompt_in_the_cells_of_another_one_gives_the_other_dialect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a right answer proves that the cache held what it should."""
    monkeypatch.setattr("sibyl.engines.places.common_prefix", lambda ours, theirs, most: min(most, len(theirs)))
    programmed.write_model(tmp_path / "model.gguf")
    engine = LlamaEngine(tmp_path / "model.gguf", slots=2, threads=1)
    first, second = (
        Ask(key="k", question=f"{programmed.MARKS[dialect]}{'x' * 50}一", seed=1, sampling={"max_tokens": 20})
        for dialect in (5, 6)
    )

    assert text_of(outputs_of(engine, first)) == answer_to("llama", first)
    assert text_of(outputs_of(engine, second)) == answer_to("llama", first) != answer_to("llama", second)
    engine.close()
