"""Tasks: looked at, listed, cancelled and erased, in each of their states."""

import httpx
import pytest

from tests.serving import RunningApi, RunningWorker, ask, finish, read_events, run_worker, show, wait_until
from tests.topology import redis_with, shard_at

RUNNING = "[pace=20] [tokens=1000]"


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return response.status_code, response.json()["error"]["code"]


def begun(client: httpx.Client, question: str = RUNNING) -> str:
    """Ask, and return the id once some of the answer is there."""
    task_id: str = ask(client, question)["task_id"]
    assert wait_until(lambda: bool(show(client, task_id)["text"]))
    return task_id


def in_state(client: httpx.Client, state: str) -> str:
    """Return the id of a task in this state; a worker must be there, unless the state is queued."""
    match state:
        case "queued":
            return str(ask(client, "x")["task_id"])
        case "running":
            return begun(client)
        case "completed":
            return str(finish(client, "[tokens=3]")["task_id"])
        case "failed":
            return str(finish(client, "[fail=2]")["task_id"])
        case _:
            task_id = begun(client)
            client.post(f"/api/tasks/{task_id}/cancel")
            assert wait_until(lambda: show(client, task_id)["state"] == "cancelled")
            return task_id


def test_a_running_task_shows_what_it_has(client: httpx.Client, worker: RunningWorker) -> None:
    """State, attempt, model, start, and the text so far, which only grows."""
    task_id = begun(client)

    first = show(client, task_id)
    assert wait_until(lambda: len(show(client, task_id)["text"]) > len(first["text"]))
    second = show(client, task_id)

    assert (first["state"], first["attempt"], first["model"], first["position"]) == ("running", 1, "scripted", None)
    assert first["started_at"] is not None and first["finished_at"] is None and first["usage"] is None
    assert second["text"].startswith(first["text"])


def test_a_failed_task_says_why_and_keeps_its_text(client: httpx.Client, worker: RunningWorker) -> None:
    """The error for programs and for people, and what was answered until then."""
    task = show(client, in_state(client, "failed"))

    assert (task["state"], task["finish_reason"]) == ("failed", "error")
    assert task["error"] == {"code": "engine_error", "message": "The question asked for this failure."}
    assert len(task["text"].split()) == 2
    assert task["usage"] is None and task["finished_at"] is not None


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_cancelling_a_finished_task_changes_nothing(client: httpx.Client, worker: RunningWorker, state: str) -> None:
    """202 and the task as it was, again and again."""
    task_id = in_state(client, state)
    before = show(client, task_id)

    responses = [client.post(f"/api/tasks/{task_id}/cancel") for _ in range(3)]

    assert [response.status_code for response in responses] == [202] * 3
    assert [response.json() for response in responses] == [before] * 3
    assert before["state"] == state


def test_cancelling_a_queued_task_ends_it_at_once(client: httpx.Client) -> None:
    """Without any worker the answer to the request shows the end already; twice is once."""
    task_id = in_state(client, "queued")

    first, second = (client.post(f"/api/tasks/{task_id}/cancel") for _ in range(2))

    assert (first.status_code, first.json()["state"], first.json()["finish_reason"]) == (202, "cancelled", "cancelled")
    assert first.json() == second.json()
    assert [frame.event for frame in read_events(client, task_id)] == ["queued", "cancelled"]


def test_cancelling_a_running_task_keeps_its_text(client: httpx.Client, worker: RunningWorker) -> None:
    """What was answered stays and is not taken back; twice is once."""
    task_id = begun(client)
    before = show(client, task_id)["text"]

    responses = [client.post(f"/api/tasks/{task_id}/cancel") for _ in range(2)]
    frames = read_events(client, task_id)

    task = show(client, task_id)
    assert [response.status_code for response in responses] == [202, 202]
    assert (task["state"], task["finish_reason"], task["error"]) == ("cancelled", "cancelled", None)
    assert task["text"].startswith(before)
    assert [frame.event for frame in frames].count("cancelled") == 1
    assert frames[-1].event == "cancelled"


@pytest.mark.parametrize("state", ["queued", "running", "completed", "failed", "cancelled"])
def test_a_deleted_task_is_forgotten_everywhere(client: httpx.Client, redis_url: str, state: str) -> None:
    """204, then 410 for every call; it leaves the list, and its worker goes on with others."""
    if state == "queued":
        check_deleted(client, in_state(client, state))
        return
    with run_worker(redis_url, slots=1):
        check_deleted(client, in_state(client, state))
        assert finish(client, "[tokens=2]")["state"] == "completed"


def check_deleted(client: httpx.Client, task_id: str) -> None:
    """Delete and look everywhere."""
    response = client.delete(f"/api/tasks/{task_id}")

    assert (response.status_code, response.content) == (204, b"")
    for method, path in [("DELETE", ""), ("GET", ""), ("GET", "/events"), ("POST", "/cancel")]:
        assert error_of(client.request(method, f"/api/tasks/{task_id}{path}")) == (410, "task_forgotten")
    assert client.get("/api/tasks").json() == {"tasks": [], "next_before": None}


def test_a_deleted_question_leaves_no_word_in_redis(
    client: httpx.Client, worker: RunningWorker, redis_url: str
) -> None:
    """Prompt, answer and log are gone, not only hidden."""
    task = finish(client, "[text=the secret answer] to a secret question", metadata={"note": "secret"})
    client.delete(f"/api/tasks/{task['task_id']}")

    with redis_with(redis_url, shard_at(task["task_id"]).running) as redis:
        dumped = b"".join(redis.dump(key) or b"" for key in redis.keys("*"))

    assert b"secret" not in dumped


def test_tasks_are_listed_newest_first_in_pages(client: httpx.Client) -> None:
    """Every task once, whatever the size of a page, also those of one millisecond."""
    asked = [ask(client, f"number {number}")["task_id"] for number in range(23)]

    for limit in (1, 5, 22, 23, 24, 100):
        listed: list[str] = []
        before: str | None = None
        while True:
            parameters = {"limit": limit} | ({} if before is None else {"before": before})
            page = client.get("/api/tasks", params=parameters).json()
            assert len(page["tasks"]) <= limit
            listed += [task["task_id"] for task in page["tasks"]]
            before = page["next_before"]
            if before is None:
                break
            assert before == listed[-1]
        assert sorted(listed) == sorted(asked)
        created = [show(client, task_id)["created_at"] for task_id in listed]
        assert created == sorted(created, reverse=True)


def test_a_page_has_twenty_tasks_unless_told_otherwise(client: httpx.Client) -> None:
    """The default is said in the contract."""
    for number in range(21):
        ask(client, str(number))

    page = client.get("/api/tasks").json()

    assert len(page["tasks"]) == 20
    assert page["next_before"] == page["tasks"][-1]["task_id"]


def test_tasks_are_listed_by_state(client: httpx.Client, redis_url: str) -> None:
    """Only those in the state, each as it would be shown alone; pages skip the others."""
    with run_worker(redis_url):
        ended = {state: in_state(client, state) for state in ("completed", "failed", "cancelled")}
        ended_too = in_state(client, "completed")
    waiting = [in_state(client, "queued") for _ in range(3)]

    def listed(**parameters: str | int) -> list[str]:
        page = client.get("/api/tasks", params=parameters).json()
        assert page["tasks"] == [show(client, task["task_id"]) for task in page["tasks"]]
        return [task["task_id"] for task in page["tasks"]]

    assert sorted(listed(state="queued")) == sorted(waiting)
    assert listed(state="failed") == [ended["failed"]]
    assert listed(state="cancelled") == [ended["cancelled"]]
    assert listed(state="completed") == [ended_too, ended["completed"]]
    assert listed(state="completed", limit=1) == [ended_too]
    assert listed(state="completed", limit=1, before=ended_too) == [ended["completed"]]
    assert listed(state="running") == listed(state="expired") == []


def test_a_list_after_a_deleted_task_says_that_it_is_gone(client: httpx.Client) -> None:
    """The place is lost; 404 tells to begin anew."""
    task_id = in_state(client, "queued")
    client.delete(f"/api/tasks/{task_id}")

    assert error_of(client.get("/api/tasks", params={"before": task_id})) == (404, "unknown_task")


def test_a_fortune_is_listed_with_its_poem(api: RunningApi, client: httpx.Client) -> None:
    """The list shows what the task itself shows."""
    fortune = client.post("/api/fortunes", json={"question": "x", "seed": 1}).json()

    assert client.get("/api/tasks").json()["tasks"] == [fortune]
