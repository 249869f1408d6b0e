"""The scripted engine is a pure function, keeps its pace, fails on request and stops at once."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.bridge.abort import Abort
from sibyl.core.errors import EngineError, InvalidRequest, PromptTooLong, TaskCancelled
from sibyl.core.event import Output
from sibyl.core.task import SamplingParams
from sibyl.engines.scripted import DEFAULT_TOKENS, ScriptedEngine
from tests.engines.asking import answer, asking, said, text_of

ENGINE = ScriptedEngine()


def seeded(seed: int, **more: object) -> SamplingParams:
    """Return sampling parameters with a seed."""
    return SamplingParams(seed=seed, **more)  # type: ignore[arg-type]


def test_the_answer_depends_on_messages_and_seed_and_on_nothing_else() -> None:
    """Two engines agree; another question or another seed gets another answer."""
    texts = [
        text_of(answer(engine, asking(question, sampling=seeded(seed)))[0])
        for engine, question, seed in (
            (ENGINE, "a", 1),
            (ScriptedEngine(model="other"), "a", 1),
            (ENGINE, "b", 1),
            (ENGINE, "a", 2),
        )
    ]

    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    ("question", "max_tokens", "count", "reason"),
    [
        ("a", None, DEFAULT_TOKENS, "stop"),
        ("a", 200, 200, "length"),
        ("a [tokens=7]", None, 7, "stop"),
        ("a [tokens=7]", 7, 7, "stop"),
        ("a [tokens=7]", 6, 6, "length"),
        ("a [text=one two  three ]", None, 3 + 1, "stop"),
        ("a [text=]", None, 0, "stop"),
        ("[tokens=3] then [tokens=5]", None, 5, "stop"),
    ],
)
def test_the_length_is_what_the_question_says(question: str, max_tokens: int | None, count: int, reason: str) -> None:
    """One token an output; max_tokens alone says it too."""
    outputs, result = answer(ENGINE, asking(question, sampling=seeded(1, max_tokens=max_tokens)))

    assert [len(output.token_ids) for output in outputs] == [1] * count
    assert result.finish_reason == reason
    assert result.usage.completion_tokens == count


def test_it_says_a_text_exactly() -> None:
    """With its spaces."""
    assert text_of(answer(ENGINE, asking("[text= Yes,  ünd 🎉\nno! ]"))[0]) == " Yes,  ünd 🎉\nno! "


@given(
    question=st.sampled_from(["x", "[tokens=9]", "[text=the end is the river and the end]"]),
    stop=st.lists(st.sampled_from([" the", "the end", "river", "nd"]), max_size=2).map(tuple),
    seed=st.integers(0, 50),
)
def test_resumed_anywhere_it_joins_to_the_uninterrupted_answer(question: str, stop: tuple[str, ...], seed: int) -> None:
    """Outputs, ids, usage and reason, one by one or merged."""
    sampling = seeded(seed, stop=stop)
    whole, end = answer(ENGINE, asking(question, sampling=sampling))

    for kept in range(len(whole) + 1):
        stored = whole[:kept]
        rest, resumed_end = answer(ENGINE, asking(question, sampling=sampling, stored=stored))
        assert ([*stored, *rest], resumed_end) == (whole, end)


def test_an_answer_of_another_model_is_not_gone_on_with() -> None:
    """Its words could not be taken up, and readers would see nonsense."""
    with pytest.raises(EngineError, match="another model"):
        answer(ENGINE, asking("a", stored=[Output(text="something else", token_ids=(1, 2))]))


@pytest.mark.parametrize(("directive", "emitted"), [("[fail]", 0), ("[fail=5]", 5)])
def test_it_fails_where_it_is_told_to(directive: str, emitted: int) -> None:
    """After so many tokens; resumed beyond, it goes on."""
    outputs: list[Output] = []
    question = f"a {directive}"

    with pytest.raises(EngineError):
        ENGINE.generate(asking(question), outputs.append)

    assert len(outputs) == emitted


def test_it_crashes_where_it_is_told_to() -> None:
    """As a failed assertion in a C library does: by a signal, with what it had emitted already outside."""
    program = (
        "from tests.engines.asking import asking\n"
        "from sibyl.engines.scripted import ScriptedEngine\n"
        "ScriptedEngine().generate(asking('[crash=3]'), lambda output: print(output.text, flush=True))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20)

    assert done.returncode < 0
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    "directive", ["[tokens=0]", "[tokens=x]", "[tokens=]", "[tokens=9999999]", "[pace=-1]", "[pace]", "[fail=-1]"]
)
def test_a_directive_with_nonsense_is_an_invalid_request(directive: str) -> None:
    """It says what it takes."""
    with pytest.raises(InvalidRequest):
        answer(ENGINE, asking(directive))


def test_it_keeps_its_pace() -> None:
    """Twenty tokens at 200 a second take 95 ms and not much more; the first comes at once."""
    times: list[float] = []
    began = time.monotonic()

    ENGINE.generate(asking("[tokens=20] [pace=200]"), lambda output: times.append(time.monotonic() - began))

    assert times[0] < 0.05
    assert 0.095 <= times[-1] < 1


def test_it_reports_while_it_evaluates_a_prompt() -> None:
    """In ten steps, for as long as it is told."""
    reports: list[tuple[int, int]] = []
    began = time.monotonic()

    answer(ENGINE, asking("one two [prompt_s=0.1]", on_progress=lambda done, of: reports.append((done, of))))

    assert time.monotonic() - began >= 0.1
    assert len(reports) == 10
    assert reports[-1] == (3, 3)


@pytest.mark.parametrize("question", ["[prompt_s=1000]", "[pace=0.001]"])
def test_a_stop_ends_every_wait_at_once(question: str) -> None:
    """While the prompt is evaluated and between two tokens."""
    abort = Abort()
    with ThreadPoolExecutor(1) as pool:
        begun = threading.Event()
        waiting: Callable[[object], None] = lambda output: begun.set()  # noqa: E731
        future = pool.submit(ENGINE.generate, asking(question, abort=abort), waiting)
        if "pace" in question:
            assert begun.wait(10)
        asked = time.monotonic()
        abort.request(TaskCancelled())
        with pytest.raises(TaskCancelled):
            future.result(10)

    assert time.monotonic() - asked < 0.2


def test_logprobs_are_made_up_the_same_each_time() -> None:
    """One for each token, the word itself first, and as many as asked for."""
    params = SamplingParams(seed=1, logprobs=3, max_tokens=6)

    outputs, _ = answer(ENGINE, asking("Why?", sampling=params))
    rest, _ = answer(ENGINE, asking("Why?", sampling=params, stored=outputs[:2]))
    none, _ = answer(ENGINE, asking("[text=Why not]", sampling=replace(params, logprobs=0)))

    places = [place for output in outputs for place in output.logprobs]
    assert [place.chosen.piece.decode() for place in places] == [output.text for output in outputs]
    assert all(place.likeliest[0] == place.chosen and len(place.likeliest) == 3 for place in places)
    assert outputs[2:] == rest
    assert [place.likeliest for output in none for place in output.logprobs] == [(), ()]


def test_it_keeps_to_no_grammar_and_says_so() -> None:
    """A free answer to who asked for JSON would be worse."""
    for bound in (SamplingParams(grammar="root ::= ."), SamplingParams(json_schema="{}")):
        with pytest.raises(InvalidRequest, match="no grammar"):
            answer(ENGINE, asking("a", sampling=bound))


def test_a_prompt_beyond_its_context_is_too_long() -> None:
    """As with a real model; and a context that is full ends the answer."""
    engine = ScriptedEngine(context_tokens=10)
    assert engine.count_prompt_tokens((said("a b c"), said("d"))) == 4

    with pytest.raises(PromptTooLong):
        answer(engine, asking("w " * 10))
    outputs, result = answer(engine, asking("w " * 7))
    assert (len(outputs), result.finish_reason) == (3, "length")


def test_an_exception_of_the_taker_passes() -> None:
    """And the engine answers again."""

    def refuse(output: Output) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        ENGINE.generate(asking("a"), refuse)
    assert answer(ENGINE, asking("a"))[0]
