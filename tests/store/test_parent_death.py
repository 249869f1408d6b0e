"""A program that ends with its parent, with real processes."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from sibyl.store import parent_death

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")

PARENT = """
import subprocess, sys
from sibyl.store.parent_death import ending_with_parent
child = subprocess.Popen(ending_with_parent("/bin/sh", "-c", "echo $$; exec sleep 60"))
child.wait()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the supervisor does, with arguments of its own."""
    return subprocess.run(
        [sys.executable, "-I", "-S", parent_death.__file__, *arguments], capture_output=True, text=True, timeout=10
    )


@linux
def test_the_child_ends_when_the_parent_is_killed() -> None:
    """Kill -9 of the parent ends the program within a second."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            parent.wait()
            ended, _, _ = select.select([child], [], [], 1.0)
            assert ended
        finally:
            os.close(child)


@linux
def test_a_parent_that_is_already_gone_is_noticed(tmp_path: Path) -> None:
    """A program whose parent died before the kernel was asked does not start at all."""
    finished = run("1" if os.getpid() != 1 else "2", "/bin/sh", "-c", f"touch {tmp_path}/started")
    assert finished.returncode == 1
    assert "parent ended" in finished.stderr
    assert not (tmp_path / "started").exists()


def test_it_becomes_the_program_with_its_arguments(tmp_path: Path) -> None:
    """The program gets its arguments as they are, the same pid, and makes files that only this user may read."""
    script = 'echo "$1"; echo $$; : > "$2"'
    with subprocess.Popen(
        parent_death.ending_with_parent("/bin/sh", "-c", script, "sh", "a  b'c", f"{tmp_path}/made"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=10)
        assert output.splitlines() == ["a  b'c", str(process.pid)]
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def test_a_program_that_cannot_run_is_one_line() -> None:
    """No traceback for a program that is missing."""
    finished = run(str(os.getpid()), "/no/such/program")
    assert finished.returncode == 1
    assert finished.stderr == "/no/such/program: No such file or directory\n"
