"""Recorded human speech with what was said: PocketSphinx's own test recordings, fetched when a test needs them.

They are not ours to commit. They come from PocketSphinx' source package, through pip and with the hash in our lock, or
else from Debian's ``pocketsphinx-testdata``, and are kept in ``.cache/recordings``, outside git.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

RATE_HZ = 16_000
REQUIRED = "SIBYL_CI_REQUIRE_RECORDINGS"
_ROOT = Path(__file__).parents[1]
_CACHE = _ROOT / ".cache" / "recordings"
_LOCK = _ROOT / "requirements" / "run.txt"
_DIGEST = "d41176e9656a23f489e40342586b2446ccc6862effcecc6287d355de533b98a9"  # of all samples and transcripts
_FETCH_S = 240
_SETS = {"librivox": ("fileids", "transcription"), "cards": ("cards.fileids", "cards.transcription")}
_SAID = re.compile(r"<s>(.*)</s>\s*\((.*)\)")


@dataclass(frozen=True, slots=True)
class Recording:
    """Somebody speaking, alone and clearly."""

    name: str
    pcm: bytes  #: 16 kHz, mono, signed 16 bit, little-endian
    transcript: str  #: lower case, no punctuation

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.pcm) / 2 / RATE_HZ


class NoRecordings(RuntimeError):
    """They cannot be had here."""


def librivox() -> list[Recording]:
    """Return five sentences read from a novel: 24.7 s, 71 words.

    Raises:
        NoRecordings: neither source can be reached, and nothing was kept.
    """
    return _recordings(_fetched(), "librivox")


def cards() -> list[Recording]:
    """Return five calls of playing cards: 9.7 s, 21 words. Raises as ``librivox`` does."""
    return _recordings(_fetched(), "cards")


def for_tests(recordings: Callable[[], list[Recording]]) -> list[Recording]:
    """Return recordings to a test; skip it where there are none, or fail it where the environment says they must be."""
    try:
        return recordings()
    except NoRecordings as error:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, but: {error}")
        pytest.skip(str(error))


def joined(recordings: list[Recording], *, pause_s: float = 1.0) -> Recording:
    """Return recordings as one, with digital silence behind each."""
    pause = bytes(2 * round(pause_s * RATE_HZ))
    return Recording(
        "+".join(each.name for each in recordings),
        b"".join(each.pcm + pause for each in recordings),
        " ".join(each.transcript for each in recordings),
    )


def _fetched() -> Path:
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        data = _CACHE / "data"
        if data.exists():
            return data
        failures = []
        for name, fetch in (("pip", _with_pip), ("apt-get", _with_apt)):
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=_CACHE) as scratch:
                try:
                    found = fetch(Path(scratch))
                    if _digest(found) != _DIGEST:
                        raise NoRecordings("these are other recordings than the tests know")
                    found.rename(data)
                except (OSError, subprocess.SubprocessError, tarfile.TarError, LookupError, NoRecordings) as error:
                    failures.append(f"{name}: {_reason(error)}")
                else:
                    return data
        raise NoRecordings(f"no recordings of human speech ({'; '.join(failures)})")


def _with_pip(scratch: Path) -> Path:
    # With hashes pip checks the archive before it looks into it; without isolation it fetches nothing besides.
    block = re.search(r"^pocketsphinx==(?:.*\\\n)*.*$", _LOCK.read_text(), re.MULTILINE)
    if block is None:
        raise LookupError("the lock does not name pocketsphinx")
    (scratch / "wanted.txt").write_text(block.group() + "\n")
    _run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"),
        *("--require-hashes", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "--requirement=wanted.txt"),
        scratch=scratch,
    )
    (archive,) = scratch.glob("pocketsphinx-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    return _kept(next(path / "test" / "data" for path in scratch.glob("pocketsphinx-*") if path.is_dir()), scratch)


def _with_apt(scratch: Path) -> Path:
    _run("apt-get", "download", "pocketsphinx-testdata", scratch=scratch)
    (package,) = scratch.glob("pocketsphinx-testdata_*.deb")
    _run("dpkg", "-x", str(package), str(scratch / "package"), scratch=scratch)
    return _kept(scratch / "package" / "usr" / "share" / "pocketsphinx" / "test" / "data", scratch)


def _kept(data: Path, scratch: Path) -> Path:
    for folder, lists in _SETS.items():
        target = scratch / "data" / folder
        target.mkdir(parents=True)
        for source in (*(data / folder / name for name in lists), *(data / folder).glob("*.wav")):
            shutil.copy(source, target)
    return scratch / "data"


def _recordings(data: Path, folder: str) -> list[Recording]:
    files, transcription = (data / folder / name for name in _SETS[folder])
    said = {found[2]: " ".join(found[1].split()) for found in _SAID.finditer(transcription.read_text())}
    return [Recording(name, _samples(data / folder / f"{name}.wav"), said[name]) for name in files.read_text().split()]


def _samples(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE_HZ, 1, 2):
            raise NoRecordings(f"{path.name} is not of 16 kHz, mono, 16 bit")
        samples: bytes = file.readframes(file.getnframes())
        return samples


def _digest(data: Path) -> str:
    whole = hashlib.sha256()
    for folder in _SETS:
        for each in _recordings(data, folder):
            whole.update(f"{each.name}: {each.transcript}\n".encode() + each.pcm)
    return whole.hexdigest()


def _run(*command: str, scratch: Path) -> None:
    subprocess.run(
        command, cwd=scratch, check=True, timeout=_FETCH_S, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or "").strip().splitlines()
        return lines[-1][:200] if lines else f"exit status {error.returncode}"
    return str(error) or type(error).__name__
