"""One attempt: how each way in which an engine can end is settled, and what may be said about it."""

import io
import logging
from collections.abc import Iterator, Sequence

import pytest

from sibyl.core import policy
from sibyl.core.errors import UpstreamError
from sibyl.core.event import Output
from sibyl.core.state import State
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.scripted import ScriptedEngine
from sibyl.store.commit import _Pending, _ShardCommits
from sibyl.telemetry import start_logging
from tests.serving import WatchedEngine, working
from tests.worker.desk import Desk, uninterrupted

SECRET = "Is my lover's name Rumpelstilzchen?"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as a process would write it, at the finest level."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()  # else they would be closed
    start_logging("worker", level="debug", form="json", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


class FlakyEngine(WatchedEngine):
    """The scripted engine over a network: it fails after so many outputs, once for each number."""

    def __init__(self, *fails: int) -> None:
        super().__init__()
        self.fails = list(fails)

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Generate, and fail as told."""
        left = self.fails.pop(0) if self.fails else None

        def counted(output: Output) -> None:
            nonlocal left
            if left is not None:
                if left == 0:
                    raise UpstreamError()
                left -= 1
            on_tokens(output)

        return super().generate(request, counted)


class BrokenEngine(ScriptedEngine):
    """An engine with a fault of its own, whose words quote the prompt."""

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Fail on the question, answer all others."""
        question = request.messages[-1].content
        if SECRET in question:
            try:
                raise KeyError(question)
            except KeyError as error:
                raise ValueError(f"cannot read {question}") from error
        return super().generate(request, on_tokens)


async def test_an_engine_that_fails_fails_the_task(desk: Desk) -> None:
    """Code and message for the reader; what was answered stays."""
    async with working(desk.redis_url):
        task = await desk.end(await desk.ask("[tokens=20] [fail=5]"))

    assert (task.state, task.finish_reason, task.attempt) == (State.FAILED, "error", 1)
    assert task.error is not None
    assert (task.error.code, task.error.message) == ("engine_error", "The question asked for this failure.")
    assert len(task.text.split()) == 5


async def test_a_prompt_that_does_not_fit_fails_the_task(desk: Desk) -> None:
    """Whatever the API knew when it accepted it."""
    async with working(desk.redis_url, ScriptedEngine(context_tokens=3)):
        task = await desk.end(await desk.ask("one two three four"))

    assert task.error is not None and task.error.code == "prompt_too_long"


async def test_a_fault_of_the_upstream_server_is_tried_again(desk: Desk) -> None:
    """Another attempt goes on where the last one ended; the text is that of an uninterrupted run."""
    engine = FlakyEngine(4, 0)
    async with working(desk.redis_url, engine):
        task = await desk.end(await desk.ask("[pace=200] [tokens=20]"), 8)

    assert (task.state, task.attempt) == (State.COMPLETED, 3)
    assert task.text == await uninterrupted("[pace=200] [tokens=20]")
    tokens = [sum(len(output.token_ids) for output in request.stored) for request in engine.requests]
    assert tokens == [0, 4, 4]


async def test_an_upstream_that_stays_away_is_not_tried_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last attempt the task fails, and says that it was the upstream and no lost worker."""
    monkeypatch.setattr(policy, "UPSTREAM_ATTEMPTS", 3)
    engine = FlakyEngine(*[0] * 10)
    async with working(desk.redis_url, engine, max_attempts=1):
        task = await desk.end(await desk.ask("x"), 8)

    assert task.state is State.FAILED
    assert task.error is not None and task.error.code == "upstream_error"
    assert len(engine.requests) == 3


async def test_an_unexpected_error_fails_one_task_and_not_the_worker(desk: Desk, logged: io.StringIO) -> None:
    """internal_error for the reader without any detail; the next question is answered."""
    async with working(desk.redis_url, BrokenEngine()):
        task = await desk.end(await desk.ask(SECRET))
        following = await desk.end(await desk.ask("[tokens=1]"))

    assert task.error is not None and task.error.code == "internal_error"
    assert "Rumpel" not in task.error.message and "ValueError" not in task.error.message
    assert following.state is State.COMPLETED


async def test_no_log_line_holds_a_question_or_an_answer(desk: Desk, logged: io.StringIO) -> None:
    """Not at the finest level, not in a traceback whose message quotes the prompt; where it was is told."""
    answer = "Geheimnisvoll"
    async with working(desk.redis_url, BrokenEngine()):
        await desk.end(await desk.ask(SECRET))
        await desk.end(await desk.ask(f"[text={answer}]"))
        await desk.end(await desk.ask(f"{answer} [fail]"))
        cancelled = await desk.ask(f"{answer} [prompt_s=20]")
        await desk.until(cancelled, lambda entry: True)
        await desk.cancel(cancelled)
        await desk.end(cancelled)

    lines = logged.getvalue()
    assert "attempt_begins" in lines and "ValueError" in lines and "test_attempt.py" in lines
    for word in ("Rumpel", "lover", answer):
        assert word not in lines


class HalfPairEngine(ScriptedEngine):
    """Its answers to some questions hold half of a surrogate pair, which is no Unicode."""

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Write the half after the fifth output, if the question asks for it."""
        written = 0

        def halved(output: Output) -> None:
            nonlocal written
            written += 1
            on_tokens(Output(text="\ud800", token_ids=output.token_ids) if written == 6 else output)

        return super().generate(request, halved if "half" in request.messages[-1].content else on_tokens)


async def test_a_text_that_is_no_unicode_fails_its_task_and_no_other(desk: Desk, logged: io.StringIO) -> None:
    """What came before it stays; answers whose words go in the same commits are whole."""
    questions = [f"[pace=100] [tokens=20] {what}" for what in ("whole 1", "half", "whole 2")]
    async with working(desk.redis_url, HalfPairEngine(), slots=3):
        task_ids = [await desk.ask(question) for question in questions]
        first, halved, last = [await desk.end(task_id) for task_id in task_ids]

    assert (halved.state, halved.attempt) == (State.FAILED, 1)
    assert halved.error is not None and halved.error.code == "text_unwritable"
    assert (await uninterrupted(questions[1])).startswith(halved.text)
    assert (first.state, last.state) == (State.COMPLETED, State.COMPLETED)
    assert [first.text, last.text] == [await uninterrupted(question) for question in questions[::2]]
    assert "ud800" not in logged.getvalue()


async def test_a_fault_of_the_commits_fails_who_met_it_and_the_worker_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, logged: io.StringIO
) -> None:
    """Its engine is stopped, its task has an end that says so, and the next question is answered."""
    works = _ShardCommits._packed
    calls = 0

    def fail_once(self: _ShardCommits, batch: Sequence[_Pending]) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyError("unexpected")
        return works(self, batch)

    monkeypatch.setattr(_ShardCommits, "_packed", fail_once)
    async with working(desk.redis_url):
        task = await desk.end(await desk.ask("[pace=400] [tokens=200]"))
        following = await desk.end(await desk.ask("[tokens=1]"))

    assert (task.state, task.attempt) == (State.FAILED, 1)
    assert task.error is not None and task.error.code == "write_failed"
    assert (await uninterrupted("[pace=400] [tokens=200]")).startswith(task.text)
    assert following.state is State.COMPLETED
    assert logged.getvalue().count("commit_fault") == 1
