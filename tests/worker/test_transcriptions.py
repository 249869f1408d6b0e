"""Transcriptions in a worker: run to their end, gone on with, cancelled, handed over; and without a recogniser."""

import threading

import pytest

from sibyl.core.errors import RecogniserUnavailable
from sibyl.core.event import Output
from sibyl.core.state import State
from sibyl.core.task import LOCAL_OWNER, Recording, TaskId, TaskSpec
from sibyl.speech.catalogue import Catalogue, SpeechSettings
from sibyl.speech.inlet import AudioInlet
from sibyl.speech.recogniser import OnHeard, Recogniser, RecognitionRequest
from sibyl.speech.scripted import ScriptedRecogniser
from sibyl.store.audio import AudioFiles
from sibyl.store.queue import Limits
from tests.recordings import HANG, SLOW, said, spoken
from tests.serving import working
from tests.worker.desk import Desk

LIMITS = Limits(queue_tasks=100, owner_tasks=100, deadline_s=60.0, retention_s=60.0)
UTTERANCES = ([1, 2], [3], [SLOW], [4, 5], [SLOW], [6])


async def send(desk: Desk, audio: bytes, provider: str | None = None, language: str | None = None) -> TaskId:
    """Store a file and submit its transcription."""
    task_id = desk.queue.new_id(LOCAL_OWNER)
    await AudioFiles(desk.store).put(task_id, audio)
    recording = Recording(audio_bytes=len(audio), provider=provider, language=language)
    spec = TaskSpec(kind="transcription", messages=(), recording=recording)
    return await desk.queue.submit(spec, owner=LOCAL_OWNER, limits=LIMITS, task_id=task_id)


async def test_a_recording_becomes_text_with_segments_and_a_length(desk: Desk) -> None:
    """As any task: outputs in the log, then the end; its audio is gone."""
    async with working(desk.redis_url):
        task = await desk.end(await send(desk, spoken(*UTTERANCES)))

    assert (task.state, task.finish_reason, task.text) == (State.COMPLETED, "stop", said(*UTTERANCES))
    assert " ".join(segment.text for segment in task.segments) == task.text
    assert [segment.start_s for segment in task.segments] == sorted(segment.start_s for segment in task.segments)
    assert task.audio_s == 3.2


async def test_another_worker_goes_on_where_one_died(desk: Desk) -> None:
    """Nothing lost, nothing repeated, and every time as if nothing had been."""
    audio = spoken(*UTTERANCES)
    async with working(desk.redis_url):
        whole = await desk.end(await send(desk, audio))
    async with working(desk.redis_url, name="first") as first:
        task_id = await send(desk, audio)
        await desk.begun(task_id)
        await first.die()
    desk.lose_lease(task_id)

    async with working(desk.redis_url, name="second"):
        task = await desk.end(task_id)

    assert (task.text, task.segments, task.audio_s) == (whole.text, whole.segments, whole.audio_s)
    assert await desk.attempts(task_id) == [1, 2]


async def test_a_draining_worker_hands_a_recording_over(desk: Desk) -> None:
    """At its limit it gives the task back, and the next one goes on."""
    async with working(desk.redis_url, name="first", drain_s=0.05) as first:
        task_id = await send(desk, spoken([1], [2], *[[SLOW]] * 6, [3]))
        await desk.begun(task_id)
        await first.drain()

        async with working(desk.redis_url, name="second"):
            task = await desk.end(task_id)

    assert task.text == said([1], [2], *[[SLOW]] * 6, [3])
    assert await desk.attempts(task_id) == [1, 2]


async def test_a_cancel_stops_a_recogniser_that_hangs(desk: Desk) -> None:
    """What was heard stays; the slot is free at once."""
    async with working(desk.redis_url, slots=1):
        task_id = await send(desk, spoken([1, 2], [HANG]))
        await desk.begun(task_id)
        await desk.cancel(task_id)
        task = await desk.end(task_id, 5)
        after = await desk.end(await desk.ask("[tokens=3]"), 5)

    assert (task.state, task.text) == (State.CANCELLED, "w1 w2")
    assert after.state is State.COMPLETED


FAILURES = {
    "no audio": (b"Why?", None, "audio_unreadable", "This is no audio that can be read."),
    "a recogniser that fails": (spoken([1], [-1]), None, "recogniser_failed", "The audio asked for a failure."),
    "no recogniser of that name": (spoken([1]), "pythia", "recogniser_unavailable", "There is no recogniser"),
    "a recogniser without its key": (spoken([1]), "deepgram", "recogniser_unavailable", "DEEPGRAM_API_KEY"),
}


@pytest.mark.parametrize(("audio", "provider", "code", "words"), FAILURES.values(), ids=FAILURES)
async def test_what_cannot_be_heard_fails_in_words(
    desk: Desk, audio: bytes, provider: str | None, code: str, words: str
) -> None:
    """A code for programs and a line that says what to do; and it is not tried again and again."""
    async with working(desk.redis_url):
        task = await desk.end(await send(desk, audio, provider))

    assert task.state is State.FAILED and task.error is not None
    assert task.error.code == code and words in task.error.message
    assert task.attempt == 1


async def test_a_worker_without_any_recogniser_answers_questions(desk: Desk) -> None:
    """It starts, and says what is missing to who needs it."""

    def missing(name: str | None) -> Recogniser:
        raise RecogniserUnavailable("Install one.")

    async with working(desk.redis_url, recogniser_of=missing):
        task = await desk.end(await send(desk, spoken([1])))
        answer = await desk.end(await desk.ask("[tokens=3]"))

    assert task.error is not None and (task.error.code, task.error.message) == (
        "recogniser_unavailable",
        "Install one.",
    )
    assert answer.state is State.COMPLETED


async def test_a_recogniser_is_made_in_a_thread_and_once(desk: Desk) -> None:
    """It may load for seconds: nobody else waits, and leases are renewed meanwhile."""
    threads: list[str] = []
    catalogue = Catalogue(SpeechSettings(provider="scripted", scripted=True))

    def made(name: str | None) -> Recogniser:
        threads.append(threading.current_thread().name)
        return catalogue.recogniser(name)

    async with working(desk.redis_url, recogniser_of=made):
        await desk.end(await send(desk, spoken([1])))

    assert len(threads) == 1 and threads[0].startswith("bridge")


async def test_the_language_that_was_asked_for_reaches_the_recogniser(desk: Desk) -> None:
    """And English does where none was."""
    asked: list[str] = []

    class Listening(ScriptedRecogniser):
        """Takes note of what it is asked for."""

        def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
            asked.append(request.language)
            super().recognise(request, audio, on_heard)

    async with working(desk.redis_url, recogniser_of=lambda name: Listening()):
        await desk.end(await send(desk, spoken([1]), language="de"))
        await desk.end(await send(desk, spoken([1])))

    assert asked == ["de", "en"]


async def test_the_log_holds_each_segment_once(desk: Desk) -> None:
    """Readers of the log see text and times together."""
    async with working(desk.redis_url):
        task_id = await send(desk, spoken([1], [SLOW], [2]))
        await desk.end(task_id)

    outputs = [entry.event for entry in await desk.log.read(task_id) if isinstance(entry.event, Output)]
    assert [segment.text for output in outputs for segment in output.segments] == ["w1", "w-2", "w2"]
    assert "".join(output.text for output in outputs) == "w1 w-2 w2"
