"""The application as a whole: its contract, the methods of its paths, and what runs beside its requests."""

import asyncio
import threading
from typing import Any

import httpx
import pytest

from sibyl.api.app import create_app
from sibyl.store.connection import Store
from sibyl.store.tail import Tail
from tests.serving import RunningApi, ask, finish, run_api, run_worker, settings_for, show, wait_until
from tests.topology import SHARDS

METHODS: dict[str, set[str]] = {
    "/api/questions": {"POST"},
    "/api/fortunes": {"POST"},
    "/api/tasks": {"GET"},
    "/api/tasks/0.0": {"GET", "DELETE"},
    "/api/tasks/0.0/events": {"GET"},
    "/api/tasks/0.0/cancel": {"POST"},
    "/healthz": {"GET"},
    "/readyz": {"GET"},
    "/metrics": {"GET"},
}
ALL = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, known in METHODS.items() for method in sorted(ALL - known)]
)
def test_another_method_is_not_allowed(client: httpx.Client, path: str, method: str) -> None:
    """405 with all methods that the path has, whether or not the page is there."""
    response = client.request(method, path)

    assert response.status_code == 405
    assert {name.strip() for name in response.headers["allow"].split(",")} == METHODS[path]
    if method != "HEAD":
        assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    ["/nope", "/api", "/api/", "/api/nope", "/api/tasks/", "/api/questions/", "/api/tasks/0.0/nope", "//", "/%2e%2e"],
)
def test_what_is_not_there_is_not_found(client: httpx.Client, path: str) -> None:
    """404 in the shape of all errors, and no redirect to another path."""
    response = client.get(path)

    if path == "//" and response.status_code == 200:
        return  # the page
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def documented(client: httpx.Client) -> dict[str, Any]:
    """The OpenAPI document."""
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


UNREADABLE = {400, 408, 413, 415}
STATUSES = {
    ("post", "/api/questions"): {202, 410, 422, 429, 503} | UNREADABLE,
    ("post", "/api/fortunes"): {202, 410, 422, 429, 503} | UNREADABLE,
    ("post", "/v1/audio/transcriptions"): {200, 403, 409, 410, 422, 429, 500, 502, 503, 504} | UNREADABLE,
    ("get", "/api/tasks"): {200, 404, 422, 503},
    ("get", "/api/tasks/{task_id}"): {200, 404, 410, 422, 503},
    ("delete", "/api/tasks/{task_id}"): {204, 404, 410, 422, 503} | UNREADABLE,
    ("get", "/api/tasks/{task_id}/events"): {200, 204, 404, 410, 422, 503},
    ("post", "/api/tasks/{task_id}/cancel"): {202, 404, 410, 422, 503} | UNREADABLE,
    ("get", "/healthz"): {200},
    ("get", "/readyz"): {200, 503},
    ("get", "/metrics"): {200, 503},
}


def test_every_status_that_occurs_is_documented_in_its_shape(client: httpx.Client) -> None:
    """Errors all have one shape, ours."""
    document = documented(client)
    found = {
        (method, path): {int(status) for status in operation["responses"]}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert found == STATUSES
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400" and path.startswith("/api/"):
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}


def test_the_contract_has_examples_that_hold(client: httpx.Client) -> None:
    """Each example of a body is accepted as it stands; answers have examples too."""
    schemas = documented(client)["components"]["schemas"]

    for example in schemas["QuestionBody"]["examples"]:
        assert client.post("/api/questions", json=example).status_code == 202
    for example in schemas["FortuneBody"]["examples"]:
        assert client.post("/api/fortunes", json=example).status_code == 202
    assert schemas["TaskBody"]["examples"]
    assert schemas["TaskBody"]["examples"][0].keys() <= ask(client, "x").keys()


def test_a_task_past_its_deadline_expires_without_any_worker(redis_url: str) -> None:
    """The API ends what no worker can, within about a second."""
    with run_api(redis_url, deadline_s=1) as api, api.client() as client:
        task_id = ask(client, "x")["task_id"]

        assert wait_until(lambda: show(client, task_id)["state"] == "expired", 4)
        task = show(client, task_id)
        assert (task["finish_reason"], task["error"], task["started_at"]) == ("error", None, None)


async def test_what_fails_beside_the_requests_ends_the_process(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An API whose tail is dead would stream nothing and look alive; so it says that it has failed."""

    async def broken(_: Tail) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Tail, "run", broken)
    failed = asyncio.Event()
    app = create_app(settings_for(redis_url), Store(redis_url, shards=SHARDS), on_failure=failed.set)

    async with app.router.lifespan_context(app):
        await asyncio.wait_for(failed.wait(), 2)

    assert "tail failed" in caplog.text
    caplog.clear()


def test_many_questions_at_once_are_all_answered(api: RunningApi, client: httpx.Client, redis_url: str) -> None:
    """Forty clients on threads of their own, each with an answer of its own."""
    answers: dict[int, str] = {}

    def one(number: int) -> None:
        with api.client() as own:
            answers[number] = finish(own, f"[text=answer {number}]")["text"]

    with run_worker(redis_url, slots=8):
        threads = [threading.Thread(target=one, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert answers == {number: f"answer {number}" for number in range(40)}
