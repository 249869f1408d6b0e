"""A model's name becomes a file: bundled, by path, or from a hub, which here is a server on this machine."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from sibyl.core.errors import ModelUnusable
from sibyl.engines import library
from sibyl.engines.library import resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Librarian(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download needs."""

    server: "Hub"
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.server.asked.append(f"{self.command} {path}")
        for repo, files in self.server.repos.items():
            if path == f"/api/models/{repo}":
                model = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return self._send(200, json.dumps(model).encode(), content_type="application/json")
            if path.startswith(f"/{repo}/resolve/"):
                data = files.get(path.removeprefix(f"/{repo}/resolve/").partition("/")[2])
                if data is None:
                    return self._send(404, b"", x_error_code="EntryNotFound", x_repo_commit=COMMIT)
                return self._send(200, data, x_repo_commit=COMMIT, etag=f'"{hashlib.sha1(data).hexdigest()}"')
        return self._send(404, b"", x_error_code="RepoNotFound")

    def _send(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Hub(ThreadingHTTPServer):
    """Repositories in memory."""

    daemon_threads = True
    repos: dict[str, dict[str, bytes]]
    asked: list[str]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A running hub with four repositories."""
    server = Hub(("127.0.0.1", 0), Librarian)
    server.asked = []
    server.repos = {
        "owner/one": {"README.md": b"#", "model.gguf": b"GGUF one", "mmproj-model.gguf": b"GGUF eye"},
        "owner/many": {"m-Q4_K_M.gguf": b"GGUF q4", "m-Q8_0.gguf": b"GGUF q8", "sub/m-F16.gguf": b"GGUF f16"},
        "owner/parts": {f"m-0000{n}-of-00002.gguf": b"GGUF %d" % n for n in (1, 2)},
        "owner/none": {"README.md": b"#"},
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_path_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below the home folder; what is in it is not looked at."""
    path = tmp_path / "any.bin"
    path.write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert resolve_model(str(path)).path == path
    assert resolve_model("~/any.bin").path == path
    assert resolve_model(str(path)).source == "path"


def test_a_path_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    """With a hint where the text looks like a name on the hub."""
    with pytest.raises(ModelUnusable, match="no model file"):
        resolve_model(str(tmp_path / "none.gguf"))
    with pytest.raises(ModelUnusable, match="folder"):
        resolve_model(str(tmp_path))
    with pytest.raises(ModelUnusable, match="write hf:owner/name"):
        resolve_model("owner/name")


def test_nothing_means_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file inside the package, and a clear line in an installation without one."""
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(library, "files", lambda package: tmp_path)
    with pytest.raises(ModelUnusable, match="no bundled model"):
        resolve_model(None)

    bundled = tmp_path / "models" / library.BUNDLED
    bundled.write_bytes(b"GGUF")

    assert resolve_model(None) == library.ResolvedModel(path=bundled, source="bundled")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hf:owner/one", b"GGUF one"),
        ("hf:owner/one:model.gguf", b"GGUF one"),
        ("hf:owner/many:Q4_K_M", b"GGUF q4"),
        ("hf:owner/many:q8_0", b"GGUF q8"),
        ("hf:owner/many:sub/m-F16.gguf", b"GGUF f16"),
    ],
)
def test_a_name_on_the_hub_is_downloaded(hub: Hub, tmp_path: Path, name: str, content: bytes) -> None:
    """By the repository if it has one model, by the file's name, or by a part of it."""
    resolved = resolve_model(name, cache_dir=tmp_path, endpoint=hub.url)

    assert resolved.source == "hub"
    assert resolved.path.read_bytes() == content


@pytest.mark.parametrize("name", ["hf:owner/parts", "hf:owner/parts:m-00002-of-00002.gguf"])
def test_a_model_in_parts_is_downloaded_whole(hub: Hub, tmp_path: Path, name: str) -> None:
    """The first part is what llama.cpp is to open; the others lie beside it."""
    path = resolve_model(name, cache_dir=tmp_path, endpoint=hub.url).path

    assert path.read_bytes() == b"GGUF 1"
    assert path.with_name("m-00002-of-00002.gguf").read_bytes() == b"GGUF 2"


def test_a_download_reports_its_progress(hub: Hub, tmp_path: Path) -> None:
    """In bytes, up to the last."""
    size = 25_000_000
    hub.repos["owner/big"] = {"big.gguf": bytes(size)}
    reports: list[tuple[int, int]] = []

    resolve_model(
        "hf:owner/big",
        cache_dir=tmp_path,
        endpoint=hub.url,
        on_download=lambda done, of: reports.append((done, of)),
    )

    assert len(reports) > 1
    assert reports == sorted(reports)
    assert reports[-1] == (size, size)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf:owner/many", "several GGUF files.*m-Q4_K_M.gguf"),
        ("hf:owner/many:m-", "several GGUF files"),
        ("hf:owner/many:Q2_K", "matches 'Q2_K'.*m-Q8_0.gguf"),
        ("hf:owner/one:other.gguf", "no GGUF file that matches 'other.gguf'"),
        ("hf:owner/none", "no GGUF file"),
        ("hf:owner/missing", "no model owner/missing"),
        ("hf:owner/missing:x.gguf", "no model owner/missing"),
        ("hf:owner", "no model name"),
        ("hf:a/b/c", "no model name"),
        ("hf:", "no model name"),
        ("hf:../..:x.gguf", "no model"),
        ("hf:owner/one:../../etc/passwd.gguf", "no GGUF file"),
    ],
)
def test_a_name_that_means_no_one_file_is_refused(hub: Hub, tmp_path: Path, name: str, reason: str) -> None:
    """It says what there is instead."""
    with pytest.raises(ModelUnusable, match=reason) as caught:
        resolve_model(name, cache_dir=tmp_path, endpoint=hub.url)
    assert "\n" not in caught.value.message


def test_without_a_network_what_was_downloaded_is_used(hub: Hub, tmp_path: Path) -> None:
    """By the same names; what was not is said."""
    names = ["hf:owner/one", "hf:owner/one:model.gguf"]
    paths = [resolve_model(name, cache_dir=tmp_path, endpoint=hub.url).path for name in names]
    hub.repos.clear()
    away = "http://127.0.0.1:1"

    assert [resolve_model(name, cache_dir=tmp_path, endpoint=away).path for name in names] == paths
    for name in ("hf:owner/other", "hf:owner/other:x.gguf"):
        with pytest.raises(ModelUnusable, match="cannot be reached"):
            resolve_model(name, cache_dir=tmp_path, endpoint=away)


def test_a_second_start_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    """The file is only asked after."""
    resolve_model("hf:owner/one:model.gguf", cache_dir=tmp_path, endpoint=hub.url)
    hub.asked.clear()

    resolve_model("hf:owner/one:model.gguf", cache_dir=tmp_path, endpoint=hub.url)

    assert all(asked.startswith("HEAD") for asked in hub.asked)


def test_without_the_hubs_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra that most never need."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(ModelUnusable, match=r"sibyl\[hub\]"):
        resolve_model("hf:owner/one")
