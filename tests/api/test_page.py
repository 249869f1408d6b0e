"""The page under ``/``: its files and headers, or what to do when it is not built."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import sibyl.api.page
from tests.serving import run_api


@pytest.fixture
def with_page(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """An API with a page of two files."""
    directory = tmp_path / "page"
    (directory / "assets").mkdir(parents=True)
    (directory / "index.html").write_text("<!doctype html><title>Sibyl</title>")
    (directory / "assets" / "index-abc123.js").write_text("export {}")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(sibyl.api.page, "page_directory", lambda: directory)
    with run_api(redis_url) as api, api.client() as client:
        yield client


def test_the_page_is_served_with_the_headers_of_a_page_that_loads_nothing_from_elsewhere(
    with_page: httpx.Client,
) -> None:
    """No foreign script, frame or guess; the page is asked for anew, its hashed parts never."""
    page = with_page.get("/")
    script = with_page.get("/assets/index-abc123.js")

    assert (page.status_code, script.status_code) == (200, 200)
    assert page.headers["content-type"].startswith("text/html")
    assert "javascript" in script.headers["content-type"]
    for response in (page, script):
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-cache"
    assert "immutable" in script.headers["cache-control"]
    assert with_page.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
    assert with_page.head("/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/assets//../../secret.txt",
    ],
)
def test_nothing_beside_the_page_is_served(with_page: httpx.Client, path: str) -> None:
    """No way out of its folder."""
    url = httpx.URL(with_page.base_url, raw_path=path.encode())

    response = with_page.get(url)

    assert response.status_code == 404
    assert "secret" not in response.text


def test_the_page_hides_no_route(with_page: httpx.Client) -> None:
    """The API answers under its paths, also with its 404 and 405."""
    assert with_page.get("/healthz").status_code == 200
    assert with_page.get("/api/questions").status_code == 405
    assert with_page.get("/api/nope").json()["error"]["code"] == "not_found"
    assert with_page.post("/").json()["error"]["code"] == "method_not_allowed"


def test_without_a_page_the_api_says_how_to_build_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text with what is missing, what to do, and that the API works."""
    monkeypatch.setattr(sibyl.api.page, "page_directory", lambda: None)
    with run_api(redis_url) as api, api.client() as client:
        response = client.get("/")

        assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert "make page" in response.text and "/api/questions" in response.text
        assert "{" not in response.text.replace('{"question": "..."}', "")
        assert client.get("/nope").json()["error"]["code"] == "not_found"
        assert client.get("/api/questions").status_code == 405


def test_a_folder_without_an_index_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that was interrupted is as good as none."""
    monkeypatch.setattr("sibyl.api.page.resources.files", lambda _: tmp_path)
    (tmp_path / "page").mkdir()

    assert sibyl.api.page.page_directory() is None

    (tmp_path / "page" / "index.html").write_text("x")
    assert sibyl.api.page.page_directory() == tmp_path / "page"
