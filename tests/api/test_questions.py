"""Asking: what is accepted, what it gives, and what the same key gives."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx
import pytest
from redis import Redis

from sibyl.config import Settings
from sibyl.engines.scripted import ScriptedEngine
from tests.serving import (
    RunningApi,
    RunningWorker,
    ask,
    data_of,
    finish,
    read_events,
    run_api,
    run_worker,
    show,
    wait_ready,
)
from tests.topology import one_shard

MEMBERS = {
    *(
        "task_id",
        "kind",
        "state",
        "position",
        "attempt",
        "model",
        "text",
        "finish_reason",
        "usage",
        "error",
        "metadata",
    ),
    *("created_at", "started_at", "finished_at", "expires_at", "events_url"),
}


def test_an_accepted_question_is_a_queued_task(client: httpx.Client) -> None:
    """202, Location, and the whole task, with nothing in it that has not happened yet."""
    response = client.post("/api/questions", json={"question": "Will it rain?"})

    task = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/tasks/{task['task_id']}"
    assert task.keys() == MEMBERS
    assert (task["kind"], task["state"], task["position"], task["attempt"]) == ("question", "queued", 0, 0)
    assert [task[name] for name in ("model", "finish_reason", "usage", "error", "started_at", "finished_at")] == [
        None
    ] * 6
    assert (task["text"], task["metadata"]) == ("", {})
    assert task["events_url"] == f"/api/tasks/{task['task_id']}/events"
    assert show(client, task["task_id"]) == task


def test_an_answered_question_tells_how_it_went(client: httpx.Client, worker: RunningWorker) -> None:
    """The finished task holds answer, usage, reason and times, in RFC 3339 and in order."""
    task = finish(client, "[text=It will rain. So it goes.]")

    assert (task["state"], task["text"]) == ("completed", "It will rain. So it goes.")
    assert (task["finish_reason"], task["usage"]) == ("stop", {"prompt_tokens": 6, "completion_tokens": 6})
    assert (task["attempt"], task["model"], task["position"], task["error"]) == (1, "scripted", None, None)
    times = [task[name] for name in ("created_at", "started_at", "finished_at", "expires_at")]
    assert all(time.endswith("Z") for time in times)
    assert sorted(datetime.fromisoformat(time) for time in times) == [datetime.fromisoformat(time) for time in times]


def test_every_field_reaches_the_model(client: httpx.Client, worker: RunningWorker) -> None:
    """System, history, sampling, priority and metadata are taken, and the seed decides the answer."""
    body = {
        "system": "Be brief.",
        "history": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}],
        "sampling": {
            **{"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 3},
            "stop": ["never said"],
        },
        "priority": 9,
        "metadata": {"from": "a test", "empty": ""},
    }

    first, second = (finish(client, "And now?", **body) for _ in range(2))
    other = finish(client, "And now?", **body | {"sampling": {"max_tokens": 7, "seed": 4}})

    assert first["text"] == second["text"] != other["text"]
    assert len(first["text"].split()) == 7
    assert first["finish_reason"] == "length"
    assert first["metadata"] == {"from": "a test", "empty": ""}
    assert first["usage"]["prompt_tokens"] == len("Be brief. Hello Good day. And now?".split())


def test_logprobs_are_in_the_stream_and_in_the_task(client: httpx.Client, worker: RunningWorker) -> None:
    """One for each token, the same in both; a list of tasks leaves them out, as does who did not ask."""
    task = finish(client, "[tokens=5]", sampling={"logprobs": 2, "seed": 1})
    free = finish(client, "[tokens=5]", sampling={"seed": 1})

    events = read_events(client, task["task_id"])
    told = [place for event in events for place in data_of(event).get("logprobs", [])]
    assert task["logprobs"] == told and len(told) == 5
    assert "".join(place["token"] for place in told) == task["text"] == free["text"]
    assert all(len(place["top_logprobs"]) == 2 and place["id"] >= 0 for place in told)
    assert "logprobs" not in free
    assert all("logprobs" not in listed for listed in client.get("/api/tasks").json()["tasks"])


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"grammar": 'root ::= "a'}, "Grammar, line 1: a text is not closed"),
        ({"grammar": 'root ::= root "a"'}, "left recursion"),
        ({"grammar": "root ::= " + "(" * 9000}, "nested more than 50 deep"),
        (
            {"json_schema": {"type": "object", "properties": {"a": {"pattern": "b"}}}},
            "at properties/a: keyword 'pattern'",
        ),
        ({"json_schema": {"$ref": "#"}}, "refers to itself"),
        ({"json_schema": {"enum": ["x" * 20_000]}}, "16384 are allowed"),
        ({"grammar": "root ::= .", "json_schema": {}}, "not both"),
        ({"logprobs": 21}, "20"),
    ],
    ids=str,
)
def test_a_binding_that_no_engine_could_keep_is_refused(
    client: httpx.Client, sampling: dict[str, object], said: str
) -> None:
    """At once, with what is wrong, and before a worker sees it."""
    response = client.post("/api/questions", json={"question": "a", "sampling": sampling})

    assert response.status_code == 422
    assert response.json()["error"]["code"] == "invalid_request"
    assert said in response.json()["error"]["message"]


def test_an_engine_that_cannot_be_bound_says_so(client: httpx.Client, worker: RunningWorker) -> None:
    """The task fails with a sentence; it is not answered freely."""
    task = finish(client, "a", sampling={"json_schema": {"type": "null"}})

    assert (task["state"], task["error"]["code"]) == ("failed", "invalid_request")
    assert "scripted" in task["error"]["message"]


def test_a_whole_number_may_be_written_with_a_point(client: httpx.Client) -> None:
    """JSON knows one kind of number; some writers give 5 as 5.0. It is the same request."""
    bodies = [b'{"question": "x", "priority": 6}', b'{"question": "x", "priority": 6.0}']
    headers = {"content-type": "application/json", "Idempotency-Key": "k"}

    first, second = (client.post("/api/questions", content=body, headers=headers).json() for body in bodies)

    assert first["task_id"] == second["task_id"]


def test_text_of_any_script_comes_back_unchanged(client: httpx.Client, worker: RunningWorker) -> None:
    """Letters of one to four bytes, line ends and separators survive the way in and out."""
    said = "Zażółć 你好 😀\u2028x\u0085y\tz\r\nend"

    task = finish(client, f"[text={said}]", metadata={"ключ": "😀"})

    assert task["text"] == said
    assert task["metadata"] == {"ключ": "😀"}


@one_shard
def test_what_waits_longer_is_next_and_priority_goes_first(client: httpx.Client) -> None:
    """The position counts the tasks ahead."""
    first, second = ask(client, "one"), ask(client, "two")
    hurried = ask(client, "three", priority=6)

    positions = [show(client, task["task_id"])["position"] for task in (hurried, first, second)]

    assert (second["position"], positions) == (1, [0, 1, 2])


def test_the_same_key_gives_the_same_task(client: httpx.Client) -> None:
    """A request that is sent again, perhaps because its answer was lost, is one task."""
    headers = {"Idempotency-Key": "!~{}:key"}

    first, second = (client.post("/api/questions", json={"question": "a"}, headers=headers) for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["task_id"] == second.json()["task_id"]
    assert first.headers["location"] == second.headers["location"]
    assert len(client.get("/api/tasks").json()["tasks"]) == 1


def test_the_same_key_gives_the_finished_task_too(client: httpx.Client, worker: RunningWorker) -> None:
    """Much later is still once: the answer is not generated anew."""
    headers = {"Idempotency-Key": "k"}
    client.headers.update(headers)
    done = finish(client, "a")

    again = client.post("/api/questions", json={"question": "a"})

    assert again.json() == done


@pytest.mark.parametrize(
    "other", [{"question": "b"}, {"question": "a", "priority": 6}, {"question": "a", "system": "s"}]
)
def test_the_same_key_with_another_question_is_refused(client: httpx.Client, other: dict[str, object]) -> None:
    """A key names one request; the first task stays as it is."""
    headers = {"Idempotency-Key": "k"}
    client.post("/api/questions", json={"question": "a"}, headers=headers)

    response = client.post("/api/questions", json=other, headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert len(client.get("/api/tasks").json()["tasks"]) == 1


def test_the_same_key_at_another_route_is_refused(client: httpx.Client) -> None:
    """A question is no fortune."""
    headers = {"Idempotency-Key": "k"}
    client.post("/api/questions", json={"question": "a"}, headers=headers)

    response = client.post("/api/fortunes", json={"question": "a"}, headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_mismatch")


def test_the_key_of_a_deleted_task_gives_no_new_one(client: httpx.Client) -> None:
    """410: who deleted it does not want it again; a new key asks anew."""
    headers = {"Idempotency-Key": "k"}
    first = client.post("/api/questions", json={"question": "a"}, headers=headers).json()
    client.delete(f"/api/tasks/{first['task_id']}")

    again = client.post("/api/questions", json={"question": "a"}, headers=headers)

    assert (again.status_code, again.json()["error"]["code"]) == (410, "task_forgotten")
    assert client.get("/api/tasks").json()["tasks"] == []


def test_the_same_key_twenty_times_at_once_is_one_task(api: RunningApi, client: httpx.Client) -> None:
    """Whoever comes first creates it, everybody gets it."""

    def post(_: int) -> httpx.Response:
        return client.post("/api/questions", json={"question": "a"}, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(post, range(20)))

    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["task_id"] for response in responses}) == 1
    assert len(client.get("/api/tasks").json()["tasks"]) == 1


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
def test_a_key_that_is_no_key_is_refused(client: httpx.Client, key: str) -> None:
    """1 to 255 visible ASCII characters."""
    headers = {b"Idempotency-Key": key.encode("latin-1")}

    response = client.post("/api/questions", json={"question": "a"}, headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    assert client.get("/api/tasks").json()["tasks"] == []


def test_a_full_queue_says_when_to_come_back(redis_url: str) -> None:
    """429 with Retry-After; what was accepted stays, and once there is room it goes on."""
    with run_api(redis_url, queue_tasks=1) as api, api.client() as client:
        first = ask(client, "a")

        refused = client.post("/api/questions", json={"question": "b"})

        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        client.post(f"/api/tasks/{first['task_id']}/cancel")
        ask(client, "b")


def test_an_owner_with_too_many_tasks_is_told_so(redis_url: str) -> None:
    """429 with Retry-After, before the queue is full for others."""
    with run_api(redis_url, owner_tasks=1) as api, api.client() as client:
        ask(client, "a")

        refused = client.post("/api/questions", json={"question": "b"})

        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_tasks")
        assert int(refused.headers["retry-after"]) > 0


def test_a_prompt_that_no_context_holds_is_refused(api: RunningApi, client: httpx.Client, redis_url: str) -> None:
    """The live worker knows the model's context, so the client hears of it before the task is accepted."""
    with run_worker(redis_url, ScriptedEngine(context_tokens=200)):
        wait_ready(client)

        refused = client.post("/api/questions", json={"question": "word " * 300})

        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "prompt_too_long")
        assert finish(client, "word " * 150 + "[tokens=3]")["state"] == "completed"


def test_a_redis_that_refuses_writes_is_said_so(api: RunningApi, client: httpx.Client, redis_admin: Redis) -> None:
    """503 with Retry-After, and no task; afterwards it goes on."""
    redis_admin.config_set("maxmemory", "1")
    try:
        refused = client.post("/api/questions", json={"question": "a"})
    finally:
        redis_admin.config_set("maxmemory", "0")

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_full")
    assert int(refused.headers["retry-after"]) > 0
    ask(client, "a")


def test_a_task_expires_at_the_deadline_that_was_asked_for(client: httpx.Client, worker: RunningWorker) -> None:
    """Sooner than the server's own limit; a longer one is cut down to that."""
    soon = ask(client, "[pace=1] [tokens=100]", deadline_s=1)
    late = ask(client, "[tokens=1]", deadline_s=1e9)

    assert read_events(client, soon["task_id"])[-1].event == "expired"
    times = [datetime.fromisoformat(late[name]) for name in ("created_at", "expires_at")]
    settings = Settings.model_fields
    assert (times[1] - times[0]).total_seconds() == settings["deadline_s"].default + settings["retention_s"].default


@pytest.mark.parametrize("deadline_s", [0, -1, 0.5, "soon", 1e10])
def test_a_deadline_is_a_number_of_seconds(client: httpx.Client, deadline_s: object) -> None:
    """Anything else is refused, and named."""
    response = client.post("/api/questions", json={"question": "When?", "deadline_s": deadline_s})

    assert response.status_code == 422
    assert "deadline_s" in response.text
