"""A copy of the tree in which one file is changed, and the tests that run on it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.mutants.table import Mutant

ROOT = Path(__file__).parents[2]
_LIMIT_S = 120.0
_COPIED = ("Backend/sibyl", "tests", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "models", "page", "results", ".hypothesis")
_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "SIBYL_TEST_SHRINK": "0"}  # that it fails is enough
_SUMMARY = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


class Inapplicable(Exception):
    """The mutant's old text does not stand exactly once in its file."""


class Broken(Exception):
    """pytest did not get so far as to run tests."""


def mutated(mutant: Mutant, source: Path = ROOT) -> str:
    """Return the text of the mutant's file with the change made.

    Raises:
        Inapplicable: the table is out of date.
    """
    text = (source / "Backend/sibyl" / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise Inapplicable(f"{mutant.name}: {mutant.file} has its text {text.count(mutant.old)} times, not once.")
    return text.replace(mutant.old, mutant.new)


class Sandbox:
    """The copy."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def failure(self, tests: Sequence[str], mutant: Mutant | None = None) -> str | None:
        """Run tests until the first fails, and return that one; None when all pass.

        Args:
            mutant: what is changed meanwhile.

        Raises:
            Inapplicable, Broken
        """
        if mutant is None:
            return self._run(tests)
        file = self._directory / "Backend/sibyl" / mutant.file
        file.write_text(mutated(mutant, self._directory), encoding="utf-8")
        try:
            return self._run(tests)
        finally:
            shutil.copy(ROOT / "Backend/sibyl" / mutant.file, file)

    def _run(self, tests: Sequence[str]) -> str | None:
        options = ["-x", "-q", "-rfE", "--tb=no", "--no-header", "--timeout=20", "-p", "no:cacheprovider"]
        path = os.pathsep.join([str(self._directory / "Backend"), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=self._directory,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path.rstrip(os.pathsep)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise Broken(f"pytest took longer than {_LIMIT_S:.0f} s") from None
        failed = _SUMMARY.search(output)
        match process.returncode:
            case 0:
                return None
            case 1 if failed:
                return failed[1]
            case _:
                raise Broken(f"pytest ended with {process.returncode}:\n{output[-2000:]}")


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    """A fresh copy, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="sibyl-mutants-") as name:
        directory = Path(name)
        for part in _COPIED:
            source, target = ROOT / part, directory / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=_LEFT_OUT)
            else:
                shutil.copy(source, target)
        models = Path("Backend/sibyl/models")
        (directory / models).symlink_to(ROOT / models)
        yield Sandbox(directory)
