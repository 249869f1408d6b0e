"""The doctor looks, changes nothing, and says how to get what is missing."""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sibyl.engines.llama_build import installed_build
from tests.cli.conftest import Command
from tests.client.native_server import NativeServer

NAMES = ["redis", "data", "model", "engine", "gpu", "port", "pocketsphinx", "faster_whisper", "deepgram"]
NAMES += ["page", "node", "chromium"]
FREE = ("--port", "0", "--engine", "scripted")  # needs neither a certain port nor a model


def examine(sibyl: Command, *arguments: str, **environment: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and for each thing its verdict and the words about it."""
    done = sibyl("doctor", "--json", *arguments, environment=environment)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [finding["name"] for finding in found] == NAMES, done.stderr
    return done.returncode, {finding["name"]: (finding["verdict"], finding["text"]) for finding in found}


def test_a_machine_that_can_serve_is_told_so(sibyl: Command) -> None:
    """With the versions and places of what was found, one a line; nothing is made."""
    done = sibyl("doctor", *FREE)

    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == NAMES
    assert "missing" not in done.stdout
    assert list(sibyl.folder.iterdir()) == []


def test_llama_cpp_is_imported_to_see_whether_it_works(sibyl: Command) -> None:
    """In a process of its own; a module that breaks it shows."""
    (sibyl.folder / "llama_cpp.py").write_text("raise ImportError('libgomp.so.1 is missing')")

    _, found = examine(sibyl, "--port", "0")
    _, broken = examine(sibyl, "--port", "0", PYTHONPATH=str(sibyl.folder))

    assert found["engine"][0] == "ok" and re.match(r"llama-cpp-python 0\.\S+; CPU: \w+ \w+", found["engine"][1])
    assert broken["engine"][0] == "missing" and "libgomp.so.1 is missing" in broken["engine"][1]


def test_a_gpu_that_the_library_cannot_use_is_told(sibyl: Command) -> None:
    """It serves without one, but not as its settings say; and with another engine nothing is looked for."""
    code, found = examine(sibyl, "--port", "0", "--gpu-layers", "20")
    _, other = examine(sibyl, *FREE)

    if installed_build().offloads:
        assert "--gpu-layers" not in found["gpu"][1] or "finds none" in found["gpu"][1]
    else:
        assert found["gpu"][0] == "absent" and "GGML_CUDA=on" in found["gpu"][1]
        assert "--gpu-layers 20 has no effect" in found["gpu"][1]
    assert code == 0 and other["gpu"] == ("absent", "not looked for with the engine scripted")


@pytest.mark.parametrize(
    ("content", "verdict", "said"),
    [
        (b"GGUF\x03\0\0\0", "ok", "MB"),
        (b"<html>", "missing", "no GGUF file"),
        (None, "missing", "There is no model file"),
    ],
)
def test_a_model_is_a_gguf_file(sibyl: Command, content: bytes | None, verdict: str, said: str) -> None:
    """Not a page that was saved under that name."""
    model = sibyl.folder / "some.gguf"
    if content is not None:
        model.write_bytes(content)

    code, found = examine(sibyl, "--port", "0", "--model", str(model))

    assert found["model"][0] == verdict and said in found["model"][1]
    assert code == (0 if verdict == "ok" else 1)


def test_a_port_in_use_is_told_and_a_sibyl_there_is_recognised(sibyl: Command, api: NativeServer) -> None:
    """Something else has to go; a Sibyl that is ready is what was wanted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other, found = examine(sibyl, *FREE, "--port", str(listener.getsockname()[1]))
    own, ours = examine(sibyl, *FREE, "--port", str(api.port))

    assert other == 1 and "in use" in found["port"][1]
    assert own == 0 and "a Sibyl serves" in ours["port"][1]


def test_a_redis_out_of_reach_is_told_without_its_password(sibyl: Command) -> None:
    """Exit code 1: it cannot serve."""
    code, found = examine(sibyl, *FREE, SIBYL_REDIS_URL="redis://me:hush@127.0.0.1:9/0")

    assert code == 1
    assert found["redis"][0] == "missing" and "hush" not in str(found)


def test_a_folder_that_cannot_be_written_is_told(sibyl: Command) -> None:
    """Here a file stands in its way."""
    (sibyl.folder / "file").touch()

    code, found = examine(sibyl, *FREE, "--data-dir", str(sibyl.folder / "file" / "data"))

    assert code == 1
    assert found["data"][0] == "missing" and "--data-dir" in found["data"][1]


def test_what_only_the_page_needs_does_not_keep_it_from_serving(sibyl: Command, tmp_path: Path) -> None:
    """Without Node, without a browser, and without a Redis on PATH, but with the one that came with Sibyl."""
    code, found = examine(sibyl, *FREE, PATH=str(tmp_path))

    assert found["node"][0] == found["chromium"][0] == "absent"
    assert "nodejs" in found["node"][1] and "apt install chromium" in found["chromium"][1]
    assert code == (0 if found["redis"][0] == "ok" else 1)
    assert os.listdir(tmp_path) == []


def test_each_recogniser_is_looked_at_and_the_default_one_is_named(sibyl: Command, tmp_path: Path) -> None:
    """With a word on how to get what is absent (000-8)."""
    _, found = examine(sibyl, *FREE, "--whisper-model", str(tmp_path), DEEPGRAM_API_KEY="")

    assert found["pocketsphinx"][0] == "ok" and "the default" in found["pocketsphinx"][1]
    assert found["faster_whisper"][0] == "absent" and "model.bin" in found["faster_whisper"][1]
    assert found["deepgram"][0] == "absent" and "DEEPGRAM_API_KEY" in found["deepgram"][1]


@pytest.mark.parametrize(
    ("status", "verdict", "said"),
    [(200, "ok", "accepts the key"), (401, "absent", "not accept"), (None, "absent", "out of reach")],
)
def test_a_refused_key_is_told_apart_from_a_network_fault(
    sibyl: Command, status: int | None, verdict: str, said: str
) -> None:
    """Deepgram's answer, or none (000-8)."""
    with vendor(status) as url:
        _, found = examine(sibyl, *FREE, DEEPGRAM_API_KEY="secret-key", SIBYL_DEEPGRAM_URL=url)

    assert found["deepgram"][0] == verdict and said in found["deepgram"][1]
    assert "secret-key" not in str(found)
    assert "the default" in found["deepgram"][1]


@contextmanager
def vendor(status: int | None) -> Iterator[str]:
    """Answer everything with a status, as Deepgram might; None: nobody is there."""

    class Vendor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 500)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Vendor) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        if status is None:
            server.shutdown()
            server.server_close()
        try:
            yield url
        finally:
            server.shutdown()
            thread.join()
