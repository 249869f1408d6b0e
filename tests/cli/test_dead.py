"""``sibyl dead``: what it prints, what it changes, and where it finds its Redis."""

import asyncio
import json
from pathlib import Path

import pytest

from sibyl.core.task import LOCAL_OWNER, TaskId
from sibyl.store.connection import Store
from sibyl.store.embedded import EmbeddedRedis
from tests.cli.conftest import Command
from tests.store.desk import Desk
from tests.topology import SHARDS

UNKNOWN = "0." + 32 * "7"


@pytest.fixture
def desk(store: Store) -> Desk:
    """A client and a worker."""
    return Desk(store)


async def die(desk: Desk, question: str = "What is my secret?") -> TaskId:
    """A task that lost its only worker."""
    task_id = await desk.submit(question)
    claim = await desk.claimed()
    await desk.queue.release(claim.lease)
    assert await desk.claim(max_attempts=1) is None
    return task_id


async def run(sibyl: Command, *arguments: str, **environment: str) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, and standard error of ``sibyl dead``."""
    settings = {"SIBYL_SHARDS": str(SHARDS)} | environment
    done = await asyncio.to_thread(sibyl, "dead", *arguments, environment=settings)
    return done.returncode, done.stdout.splitlines(), done.stderr


async def test_the_list_shows_each_dead_task_and_no_word_of_it(sibyl: Command, desk: Desk, redis_url: str) -> None:
    """For people a table, for programs an object a line; in neither a question or an answer."""
    older = await die(desk)
    await desk.store.command("ZADD", desk.shard(older).dead, 1_000_000_000_000, older)
    newer = await die(desk, "And mine?")

    code, lines, said = await run(sibyl, "list", "--redis-url", redis_url)
    _, objects, _ = await run(sibyl, "list", "--json", SIBYL_REDIS_URL=redis_url)

    assert (code, said) == (0, "")
    assert [line.split()[0] for line in lines] == ["ID", newer, older]
    assert lines[2].split() == [older, "local", "question", "2001-09-09T01:46:40Z", "1", "0", "oracle"]
    assert [json.loads(line)["task_id"] for line in objects] == [newer, older]
    assert json.loads(objects[1]) == {
        "task_id": older,
        "owner": "local",
        "kind": "question",
        "died_at": 1_000_000_000.0,
        "tries": 1,
        "tokens": 0,
        "model": "oracle",
    }
    assert "secret" not in "".join([*lines, *objects])


async def test_no_dead_tasks_is_no_error(sibyl: Command, redis_url: str) -> None:
    """Nothing on standard output, so that a script sees nothing."""
    assert await run(sibyl, "list", "--redis-url", redis_url) == (0, [], "sibyl: no dead tasks\n")
    for what in ("retry", "drop"):
        assert await run(sibyl, what, "--all", "--redis-url", redis_url) == (0, [], "")


async def test_a_retry_says_which_task_became_which(sibyl: Command, desk: Desk, redis_url: str) -> None:
    """Those that can be are retried, and the others are named with the reason; again, it gives the same."""
    old, erased = await die(desk), await die(desk)
    await desk.queue.erase(erased, LOCAL_OWNER)

    code, lines, said = await run(sibyl, "retry", UNKNOWN, old, erased, old, "--redis-url", redis_url)
    again, repeated, _ = await run(sibyl, "retry", old, "--redis-url", redis_url)

    assert (code, again) == (1, 0)
    new = lines[0].removeprefix(f"{old} -> ")
    assert lines == repeated == [f"{old} -> {new}"]
    assert (await desk.claimed()).lease.task_id == new
    assert said.splitlines() == [
        f"sibyl: {UNKNOWN}: There is no task with this id.",
        f"sibyl: {erased}: The task was deleted, or its retention ended.",
    ]


async def test_all_are_retried_as_far_as_the_queue_has_room(sibyl: Command, desk: Desk, redis_url: str) -> None:
    """The rest stays on the list, and the exit code says: too busy."""
    dead = {await die(desk) for _ in range(3)}

    code, lines, said = await run(sibyl, "retry", "--all", "--redis-url", redis_url, SIBYL_QUEUE_TASKS="2")
    _, left, _ = await run(sibyl, "list", "--json", "--redis-url", redis_url)

    assert code == 3 and len(lines) == 2 and said.count("The queue is full") == 1
    assert {line.partition(" ")[0] for line in lines} | {json.loads(left[0])["task_id"]} == dead


async def test_drop_takes_off_what_is_named_or_all(sibyl: Command, desk: Desk, redis_url: str) -> None:
    """And says so for each; a task that is not on the list is named with its state."""
    first, second, third = [await die(desk) for _ in range(3)]
    alive = await desk.submit()

    code, lines, said = await run(sibyl, "drop", first, alive, "--redis-url", redis_url)
    _, rest, _ = await run(sibyl, "drop", "--all", "--redis-url", redis_url)

    assert (code, lines) == (1, [f"{first} dropped"])
    assert said == f"sibyl: {alive}: This task is not on the list of dead tasks; it is queued.\n"
    assert set(rest) == {f"{second} dropped", f"{third} dropped"}


@pytest.mark.parametrize("arguments", [["retry"], ["drop"], ["retry", "--all", UNKNOWN], ["drop", "--all", UNKNOWN]])
async def test_either_ids_or_all(sibyl: Command, arguments: list[str]) -> None:
    """Nothing is done to all by leaving something out."""
    code, _, said = await run(sibyl, *arguments)

    assert code == 2 and "Name the tasks, or give --all" in said


async def test_the_redis_of_a_running_serve_is_found_by_its_folder(sibyl: Command, tmp_path: Path) -> None:
    """Without an API; and without a Redis one line says what to do."""
    folder = tmp_path / "data"
    embedded = EmbeddedRedis(folder, fsync="everysec")
    await embedded.start()
    store = Store(embedded.url, shards=SHARDS)
    try:
        task_id = await die(Desk(store))
        code, lines, _ = await run(sibyl, "list", "--json", "--data-dir", str(folder))
    finally:
        await store.close()
        await embedded.stop()
    ended, nothing, said = await run(sibyl, "list", SIBYL_DATA_DIR=str(folder))

    assert code == 0 and json.loads(lines[0])["task_id"] == task_id
    assert (ended, nothing) == (3, [])
    assert (
        said == f"sibyl: No Redis: no Sibyl runs on {folder}. Name the Redis with --redis-url, or start sibyl serve.\n"
    )


async def test_a_redis_out_of_reach_is_one_line(sibyl: Command) -> None:
    """Exit code 3, and no password."""
    code, lines, said = await run(sibyl, "list", "--redis-url", "redis://me:hush@127.0.0.1:9/0")

    assert (code, lines) == (3, [])
    assert said.startswith("sibyl: Redis did not answer") and said.count("\n") == 1 and "hush" not in said


async def test_a_socket_that_nobody_answers_on_is_told(sibyl: Command, tmp_path: Path) -> None:
    """What a killed Sibyl left behind."""
    folder = tmp_path / "data" / "redis"
    folder.mkdir(parents=True)
    (folder / "redis.sock").write_bytes(b"")
    (folder / "lock").write_text(json.dumps({"pid": 1, "socket_path": str(folder / "redis.sock")}))

    code, _, said = await run(sibyl, "list", "--data-dir", str(tmp_path / "data"))

    assert code == 3 and said.count("\n") == 1 and "Is the Sibyl on" in said
