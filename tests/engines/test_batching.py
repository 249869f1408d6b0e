"""Real llama.cpp computes several answers at once: each as if it were alone, and what befalls one spares the others."""

import ctypes
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import EngineError, TaskCancelled
from sibyl.core.event import Output
from sibyl.core.task import SamplingParams
from sibyl.engines import llama_binding
from sibyl.engines.base import GenerationRequest
from sibyl.engines.library import resolve_model
from sibyl.engines.llama import LlamaEngine
from tests.engines.asking import answer, asking, said, text_of

GREEDY = SamplingParams(temperature=0.0, max_tokens=48)
QUESTIONS = [
    f"Will I {what} {when}?"
    for what in ("find love", "change my work", "travel far", "pass the exam")
    for when in ("this year", "in spring", "before I am old", "with luck")
]


@pytest.fixture(scope="module", params=[None, 600], ids=["own room", "shared room"])
def oracle(request: pytest.FixtureRequest) -> Iterator[LlamaEngine]:
    """The bundled model with eight slots, with room for all or for a few answers at a time."""
    engine = LlamaEngine(resolve_model(None).path, slots=8, threads=1, context_tokens=512, pool_tokens=request.param)
    yield engine
    engine.close()


def together(engine: LlamaEngine, requests: list[GenerationRequest]) -> list[str]:
    """Return the answers to requests that are made at once."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: text_of(answer(engine, request)[0]), requests))


def test_answers_computed_together_are_the_answers_computed_alone(oracle: LlamaEngine) -> None:
    """Sixteen questions on eight slots. A trained model is sure enough of its words for rounding not to matter."""
    alone = [text_of(answer(oracle, asking(question, sampling=GREEDY))[0]) for question in QUESTIONS]

    assert len(set(alone)) > len(alone) // 2
    assert together(oracle, [asking(question, sampling=GREEDY) for question in QUESTIONS]) == alone
    assert together(oracle, [asking(question, sampling=GREEDY) for question in QUESTIONS[::-1]]) == alone[::-1]


def test_a_common_system_prompt_is_computed_once(oracle: LlamaEngine) -> None:
    """Eight at once, of which seven take over what the first one reads; and the answers do not change."""
    system = said("You are an oracle that answers in verse and never tires of it. " * 4, "system")
    requests = [asking((system, said(question)), sampling=GREEDY) for question in QUESTIONS[:8]]
    alone = [text_of(answer(oracle, request)[0]) for request in requests]
    answer(oracle, asking("Something else altogether, so that nothing is left behind. " * 6))
    before = oracle.counters["reused_tokens"]
    shared = len(oracle._prompts.tokens((system,)))

    assert together(oracle, requests) == alone
    assert oracle.counters["reused_tokens"] - before >= 6 * (shared - 16)


def test_the_next_turn_of_a_chat_computes_only_what_is_new(oracle: LlamaEngine) -> None:
    """The first question and its answer are still there."""
    question = said(QUESTIONS[0] + " Tell me more about it, and about all that follows from it, word by word.")
    first = text_of(answer(oracle, asking((question,), sampling=GREEDY))[0])
    before = oracle.counters["reused_tokens"]
    second = (question, said(first, "assistant"), said("And then?"))
    answer(oracle, asking(second, sampling=GREEDY))

    assert oracle.counters["reused_tokens"] - before >= len(oracle._prompts.tokens((question,))) - 8


def test_a_full_room_puts_answers_aside_and_loses_none() -> None:
    """Eight long answers in the room of two."""
    engine = LlamaEngine(resolve_model(None).path, slots=8, threads=1, context_tokens=256, pool_tokens=512)
    long = SamplingParams(temperature=1.5, max_tokens=150, seed=3)
    requests = [asking(question, sampling=long) for question in QUESTIONS[:8]]

    texts = together(engine, requests)
    counters = engine.counters
    engine.close()

    assert counters["preemptions"] > 0
    assert all(texts)


def test_an_answer_that_rests_holds_nobody_up(oracle: LlamaEngine) -> None:
    """Its reader has enough; it goes on when the reader has caught up, and nothing is lost."""
    expected = text_of(answer(oracle, asking(QUESTIONS[1], sampling=GREEDY))[0])
    outputs: list[Output] = []
    resting, may_go_on = threading.Event(), threading.Event()

    def backlogged() -> bool:
        if len(outputs) >= 3 and not may_go_on.is_set():
            resting.set()
            return True
        return False

    request = asking(QUESTIONS[1], sampling=GREEDY)
    slow = GenerationRequest(
        messages=request.messages, sampling=request.sampling, abort=request.abort, backlogged=backlogged
    )
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(oracle.generate, slow, outputs.append)
        assert resting.wait(10)
        answer(oracle, asking(QUESTIONS[2], sampling=GREEDY))
        assert len(outputs) == 3
        may_go_on.set()
        future.result(10)

    assert text_of(outputs) == expected


def test_a_resting_answer_can_be_stopped(oracle: LlamaEngine) -> None:
    """Though nothing is computed for it."""
    resting, abort = threading.Event(), Abort()

    def backlogged() -> bool:
        resting.set()
        return True

    request = GenerationRequest(messages=(said("?"),), sampling=GREEDY, abort=abort, backlogged=backlogged)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(oracle.generate, request, lambda output: None)
        assert resting.wait(10)
        abort.request(TaskCancelled())
        with pytest.raises(TaskCancelled):
            future.result(10)


def test_one_that_is_stopped_while_it_reads_takes_no_token_of_the_others(oracle: LlamaEngine) -> None:
    """The others' answers are the same, token by token."""
    alone = [text_of(answer(oracle, asking(question, sampling=GREEDY))[0]) for question in QUESTIONS[:4]]
    stop, stopped = threading.Event(), []

    def disturb() -> None:
        while not stop.is_set():
            abort = Abort()
            timer = threading.Timer(0.001, abort.request, (TaskCancelled(),))
            timer.start()
            try:
                oracle.generate(asking("so " * 150, abort=abort), lambda output: None)
            except TaskCancelled:
                stopped.append(1)
            timer.join()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        for _ in range(5):
            assert together(oracle, [asking(question, sampling=GREEDY) for question in QUESTIONS[:4]]) == alone
    finally:
        stop.set()
        disturber.join()
    assert stopped


def failing(monkeypatch: pytest.MonkeyPatch, code: int, when: threading.Event, rows: int | None = None) -> None:
    """Have llama.cpp report a failure of batches, of this number of rows or of any, while an event is set."""
    decode = llama_binding.decode

    def refusing(context: ctypes.c_void_p, batch: ctypes.Structure) -> int:
        if when.is_set() and (rows is None or batch.n_tokens == rows):
            return code
        return int(decode(context, batch))

    monkeypatch.setattr(llama_binding, "decode", refusing)


def test_a_failed_batch_is_computed_again_one_by_one(oracle: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only fails together fails nobody."""
    alone = [text_of(answer(oracle, asking(question, sampling=GREEDY))[0]) for question in QUESTIONS[:3]]
    always = threading.Event()
    always.set()
    failing(monkeypatch, -3, always, rows=3)

    assert together(oracle, [asking(question, sampling=GREEDY) for question in QUESTIONS[:3]]) == alone


def test_a_failure_of_the_model_ends_the_answers_and_not_the_engine(
    oracle: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards it answers as before."""
    expected = text_of(answer(oracle, asking(QUESTIONS[0], sampling=GREEDY))[0])
    now = threading.Event()
    failing(monkeypatch, -3, now)

    def take(output: Output) -> None:
        now.set()

    with pytest.raises(EngineError, match="could not compute"):
        oracle.generate(asking(QUESTIONS[0], sampling=GREEDY), take)
    now.clear()

    assert text_of(answer(oracle, asking(QUESTIONS[0], sampling=GREEDY))[0]) == expected


def test_a_memory_that_is_full_too_soon_only_costs_time(oracle: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's word counts, whatever the bookkeeping says."""
    alone = [text_of(answer(oracle, asking(question, sampling=GREEDY))[0]) for question in QUESTIONS[:3]]
    decode, full = llama_binding.decode, [30]

    def crowded(context: ctypes.c_void_p, batch: ctypes.Structure) -> int:
        if batch.n_tokens > 1 and full[0] > 0:
            full[0] -= 1
            return 1
        return int(decode(context, batch))

    monkeypatch.setattr(llama_binding, "decode", crowded)

    assert together(oracle, [asking(question, sampling=GREEDY) for question in QUESTIONS[:3]]) == alone
    assert full[0] < 30


def test_a_lost_decode_thread_ends_every_answer_and_says_so(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever, and the process is told to end."""
    dead = threading.Event()
    engine = LlamaEngine(tiny_model, slots=2, threads=1, on_death=dead.set)
    begun = threading.Event()

    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    with ThreadPoolExecutor(2) as pool:
        endless = SamplingParams(temperature=0.0, max_tokens=4000)
        running = pool.submit(engine.generate, asking("?", sampling=endless), lambda output: begun.set())
        assert begun.wait(10)
        monkeypatch.setattr(engine._scheduler, "plan", broken)
        with pytest.raises(EngineError, match="stopped"):
            running.result(10)
    assert dead.wait(10)
    with pytest.raises(EngineError, match="stopped"):
        answer(engine, asking("?"))
    engine.close()


def test_priorities_decide_who_gets_a_slot(tiny_model: Path) -> None:
    """Of those that wait in the engine."""
    engine = LlamaEngine(tiny_model, slots=1, threads=1)
    order: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def hold(output: Output) -> None:
        begun.set()
        assert go.wait(10)

    def ask(name: str, priority: int) -> None:
        request = asking("?", sampling=SamplingParams(temperature=0.0, max_tokens=3))
        request = GenerationRequest(
            messages=request.messages, sampling=request.sampling, abort=request.abort, priority=priority
        )
        engine.generate(request, lambda output: order.append(name))

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(engine.generate, asking("?", sampling=SamplingParams(temperature=0.0, max_tokens=1)), hold)
        assert begun.wait(10)
        others = [pool.submit(ask, name, priority) for name, priority in (("low", 1), ("high", 9))]
        deadline = time.monotonic() + 10
        while len(engine._decoding._arrived) < 2:
            assert time.monotonic() < deadline
        go.set()
        first.result(10)
        for other in others:
            other.result(10)
    engine.close()

    assert order.index("high") < order.index("low")
