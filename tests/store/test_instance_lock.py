"""The lock on a data directory, between real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sibyl.store.instance_lock import InstanceLock, LockHolder

HOLDING = """
import os, sys
from pathlib import Path
from sibyl.store.instance_lock import InstanceLock, LockHolder
lock = InstanceLock(Path(sys.argv[1]))
assert lock.acquire()
lock.write(LockHolder(pid=os.getpid()))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_is_held_once_and_is_free_after_release(tmp_path: Path) -> None:
    """A second holder is refused until the first gives it up; both acts may be repeated."""
    first, second = InstanceLock(tmp_path / "lock"), InstanceLock(tmp_path / "lock")
    assert [first.acquire(), first.acquire(), second.acquire()] == [True, True, False]
    assert first.held
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    """Another process keeps the lock while it lives, is named in the file, and loses it with kill -9."""
    lock = InstanceLock(tmp_path / "lock")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert not lock.acquire()
            holder = lock.holder()
            assert holder == LockHolder(pid=process.pid)
            assert holder.is_alive()
        finally:
            process.send_signal(signal.SIGKILL)
    assert not holder.is_alive()
    assert lock.acquire()
    lock.release()


def test_a_child_that_inherits_the_lock_keeps_it(tmp_path: Path) -> None:
    """While a child that got the descriptor lives, the lock stays taken although its first holder let go."""
    lock, other = InstanceLock(tmp_path / "lock"), InstanceLock(tmp_path / "lock")
    assert lock.acquire()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor]):
        lock.release()
        assert not other.acquire()
    assert other.acquire()
    other.release()


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"[1]", b'{"pid": "1"}', b'{"pid": -1}', b'{"a": 1}', b"\xff"]
)
def test_a_file_that_says_nothing_names_nobody(tmp_path: Path, content: bytes | None) -> None:
    """An absent or spoilt file is no holder, and no error."""
    if content is not None:
        (tmp_path / "lock").write_bytes(content)
    assert InstanceLock(tmp_path / "lock").holder() is None


def test_what_is_written_replaces_all_that_was_there(tmp_path: Path) -> None:
    """A shorter text leaves no rest of a longer one, and the file is readable by its owner only."""
    lock = InstanceLock(tmp_path / "lock")
    lock.acquire()
    long = LockHolder(pid=os.getpid(), child_pid=7, socket_path="/" + "x" * 200, password="hush")
    lock.write(long)
    assert lock.holder() == long
    lock.write(LockHolder(pid=1))
    assert lock.holder() == LockHolder(pid=1)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    lock.release()


def test_a_lock_that_is_not_held_has_no_descriptor(tmp_path: Path) -> None:
    """A child cannot be given what is not held."""
    with pytest.raises(RuntimeError, match="not held"):
        _ = InstanceLock(tmp_path / "lock").descriptor


def test_the_password_is_not_shown() -> None:
    """A holder may be logged."""
    assert "hush" not in repr(LockHolder(pid=1, password="hush"))
