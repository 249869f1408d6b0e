"""The command in a process of its own, and the server that it speaks to."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.client.native_server import NativeServer


class Command:
    """Runs ``sibyl``, in a folder of its own and with no settings but those of the test."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SIBYL_")}
        self.environment = kept | {"SIBYL_URL": url, "HOME": str(folder), "PYTHONWARNINGS": "error"}

    def line(self, *arguments: str | bytes) -> list[str | bytes]:
        """The command line."""
        return [sys.executable, "-m", "sibyl", *arguments]

    def __call__(
        self, *arguments: str | bytes, stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """What became of it."""
        done = subprocess.run(
            self.line(*arguments),
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            env=self.environment | dict(environment or {}),
            timeout=25,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="session")
def running_server() -> Iterator[NativeServer]:
    """One server for all tests."""
    with NativeServer() as server:
        yield server


@pytest.fixture
def api(running_server: NativeServer) -> NativeServer:
    """The server, without tasks, faults and memories."""
    running_server.clear()
    return running_server


@pytest.fixture
def sibyl(api: NativeServer, tmp_path: Path) -> Command:
    """The command."""
    return Command(tmp_path, api.url)
