"""The audio of transcriptions: stored before its task, as long as its task, and never more than may be."""

import os
from dataclasses import replace

import pytest

from sibyl.core.errors import InvalidRequest, QueueFull
from sibyl.core.event import Cancelled, Failed, Terminal
from sibyl.core.task import LOCAL_OWNER, Recording, TaskId, TaskSpec
from sibyl.store.audio import PART_BYTES, UNACCEPTED_MS, AudioFiles, AudioGone
from sibyl.store.connection import Store
from sibyl.store.dead import DeadLetters
from tests.store.desk import COMPLETED, LIMITS, Desk, all_keys

AUDIO = os.urandom(3 * PART_BYTES + 17)


@pytest.fixture
def desk(store: Store) -> Desk:
    """A client and a worker."""
    return Desk(store)


@pytest.fixture
def files(store: Store) -> AudioFiles:
    """The stored audio."""
    return AudioFiles(store)


def spec(audio: bytes = AUDIO) -> TaskSpec:
    """A transcription of this."""
    return TaskSpec(kind="transcription", messages=(), recording=Recording(audio_bytes=len(audio)))


async def accepted(desk: Desk, files: AudioFiles, audio: bytes = AUDIO, key: str | None = None) -> TaskId:
    """Store the audio and submit its task; return the id of that."""
    task_id = desk.queue.new_id(LOCAL_OWNER, key)
    await files.put(task_id, audio)
    return await desk.queue.submit(
        spec(audio), owner=LOCAL_OWNER, limits=LIMITS, idempotency_key=key, request="x", task_id=task_id
    )


async def left(desk: Desk) -> list[str]:
    """The keys that hold audio, and how much of it is counted."""
    sizes: list[str] = await desk.store.command("HVALS", desk.store.shards[0].audios)
    return [key for key in await all_keys(desk.store) if ":audio:" in key] + sizes


async def test_audio_comes_back_as_it_was(desk: Desk, files: AudioFiles) -> None:
    """Every byte, in parts, whatever they are."""
    task_id = await accepted(desk, files)

    assert await files.get(task_id, len(AUDIO)) == AUDIO
    assert (await desk.claimed()).spec == spec()


async def test_audio_is_kept_as_long_as_its_task_may_live(desk: Desk, files: AudioFiles) -> None:
    """Accepted is kept; what nobody accepted is dropped by Redis itself."""
    task_id = await accepted(desk, files)
    unaccepted = desk.queue.new_id(LOCAL_OWNER)
    await files.put(unaccepted, AUDIO)

    shard = desk.store.shards[0]
    assert await desk.store.command("PTTL", shard.audio(task_id)) > (LIMITS.deadline_s + LIMITS.retention_s - 60) * 1000
    assert 0 < await desk.store.command("PTTL", shard.audio(unaccepted)) <= UNACCEPTED_MS


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "erased", "cancelled while it waits", "expired"])
async def test_audio_is_gone_as_soon_as_its_task_has_ended(desk: Desk, files: AudioFiles, how: str) -> None:
    """In whatever way; nothing of it is counted any more."""
    task_id = await accepted(desk, files)
    assert len(await left(desk)) == 2
    if how == "cancelled while it waits":
        await desk.queue.request_cancel(task_id, LOCAL_OWNER)
    elif how == "expired":
        await desk.overdue(task_id)
        await desk.queue.reap()
    elif how == "erased":
        await desk.queue.erase(task_id, LOCAL_OWNER)
    else:
        lease = (await desk.claimed()).lease
        ends: dict[str, Terminal] = {
            "completed": COMPLETED,
            "failed": Failed(code="x", message="y"),
            "cancelled": Cancelled(),
        }
        end = ends[how]
        await desk.queue.settle(lease, 0, end)

    assert await left(desk) == []
    with pytest.raises(AudioGone):
        await files.get(task_id, len(AUDIO))


async def test_a_task_without_its_audio_is_not_accepted(desk: Desk, files: AudioFiles) -> None:
    """Nor one with half of it: it could only fail."""
    with pytest.raises(AudioGone):
        await desk.queue.submit(spec(), owner=LOCAL_OWNER, limits=LIMITS)
    task_id = desk.queue.new_id(LOCAL_OWNER)
    await files.put(task_id, AUDIO[:-1])

    with pytest.raises(AudioGone):
        await desk.queue.submit(spec(), owner=LOCAL_OWNER, limits=LIMITS, task_id=task_id)

    assert await desk.claim() is None


async def test_no_more_audio_is_stored_than_may_be(desk: Desk, files: AudioFiles) -> None:
    """What comes then is refused, and accepted again once another one has ended."""
    tight = replace(LIMITS, audio_bytes=2 * len(AUDIO))
    first = await accepted(desk, files)
    await accepted(desk, files)
    task_id = desk.queue.new_id(LOCAL_OWNER)
    await files.put(task_id, AUDIO)

    with pytest.raises(QueueFull, match="audio"):
        await desk.queue.submit(spec(), owner=LOCAL_OWNER, limits=tight, task_id=task_id)
    await desk.queue.request_cancel(first, LOCAL_OWNER)

    assert await desk.queue.submit(spec(), owner=LOCAL_OWNER, limits=tight, task_id=task_id) == task_id


async def test_a_key_that_was_used_gives_the_first_task_with_the_first_audio(desk: Desk, files: AudioFiles) -> None:
    """What was stored for the repeat is dropped by who stored it."""
    first = await accepted(desk, files, key="key")
    second = desk.queue.new_id(LOCAL_OWNER, "key")
    await files.put(second, AUDIO)

    known = await desk.queue.submit(
        spec(), owner=LOCAL_OWNER, limits=LIMITS, idempotency_key="key", request="x", task_id=second
    )
    await files.drop(second)

    assert known == first
    assert await files.get(first, len(AUDIO)) == AUDIO
    assert len(await left(desk)) == 2


async def test_a_dead_transcription_cannot_be_tried_again(desk: Desk, files: AudioFiles) -> None:
    """Its audio went with its end; the words say what to do."""
    task_id = await accepted(desk, files)
    for _ in range(3):
        await desk.claimed()
        await desk.lapse(task_id)
    assert await desk.claim() is None

    with pytest.raises(InvalidRequest, match="send the file again"):
        await DeadLetters(desk.store).retry(task_id, queue_tasks=100, owner_tasks=100)
