"""Fortunes: a poem at once, its interpretation as a task."""

import httpx

from sibyl.fortune.poems import poem_by_number
from tests.serving import RunningWorker, read_events, show


def test_a_fortune_shows_its_poem_at_once_and_for_ever(client: httpx.Client, worker: RunningWorker) -> None:
    """202 with the poem, which stays beside the answer."""
    response = client.post("/api/fortunes", json={"question": "Will the journey go well?", "seed": 42})

    task = response.json()
    poem = poem_by_number(task["poem"]["number"])
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/tasks/{task['task_id']}"
    assert task["kind"] == "fortune"
    assert task["poem"] == {
        "number": poem.number,
        "title": poem.title,
        "grade": poem.grade.value,
        "themes": [theme.value for theme in poem.themes],
        "lines": list(poem.lines),
    }
    read_events(client, task["task_id"])
    shown = show(client, task["task_id"])
    assert (shown["state"], shown["poem"]) == ("completed", task["poem"])


def test_the_same_seed_draws_the_same_poem(client: httpx.Client) -> None:
    """And different seeds draw different ones."""

    def number(seed: int) -> int:
        return int(client.post("/api/fortunes", json={"question": "x", "seed": seed}).json()["poem"]["number"])

    assert number(7) == number(7)
    assert len({number(seed) for seed in range(20)}) > 5


def test_without_a_seed_chance_draws(client: httpx.Client) -> None:
    """Twenty draws are not all one poem."""
    numbers = {client.post("/api/fortunes", json={"question": "x"}).json()["poem"]["number"] for _ in range(20)}

    assert len(numbers) > 1


def test_the_same_key_draws_once(client: httpx.Client) -> None:
    """Sent again with its key, also without a seed, it is the same fortune with the same poem."""
    first, second = (
        client.post("/api/fortunes", json={"question": "x"}, headers={"Idempotency-Key": "k"}).json() for _ in range(2)
    )

    assert first == second


def test_the_model_is_told_poem_and_question(client: httpx.Client, worker: RunningWorker) -> None:
    """Sampling, priority and metadata are taken as with a question."""
    body = {
        **{"question": "[text=I see] my travels", "seed": 3, "priority": 7, "metadata": {"a": "b"}},
        "sampling": {"max_tokens": 1},
    }
    task_id = client.post("/api/fortunes", json=body).json()["task_id"]

    read_events(client, task_id)

    task = show(client, task_id)
    assert (task["text"], task["finish_reason"], task["metadata"]) == ("I", "length", {"a": "b"})
    assert task["usage"]["prompt_tokens"] > len(" ".join(task["poem"]["lines"]).split())
