"""LiveKit's own test of speech-to-text plugins, unmodified, on our plugin and a real server with pocketsphinx.

    python -m tests.livekit.official --tree AGENTS --recordings DATA/cards [--python VENV/bin/python] [-- SERVE FLAGS]

AGENTS is a work tree of livekit/agents, DATA/... folders of pocketsphinx' test data: human speech with its transcript
(in Debian's ``pocketsphinx-testdata``, or ``test/data`` of the source distribution). Nothing in them is changed: their
``tests`` are copied to a temporary folder, where the recordings take the place of the audio file that is only a pointer
in the repository. The plugins of vendors are replaced by ones that say they have no key, so their tests are skipped; in
the place of the first one stands ours. What their tests need and ours do not: ``pytest-asyncio-concurrent==0.5.2``,
``tiktoken``, ``requests``; another Python that has them can be named.
"""

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from tests.processes import serving

RATE_HZ: Final = 16_000
GAP_S: Final = 1.0  # of silence behind each recording
LIMIT_S: Final = 240.0
PLUGIN: Final = Path(__file__).parents[2] / "Backend" / "livekit-plugin-custom-stt"
TESTS: Final = ("test_stream", "test_recognize")

_STUBS: Final = '''"""Vendors' plugins without keys, and ours in the place of the first."""
import sys, types, functools
sys.path.insert(0, {plugin!r})
import livekit.plugins
from livekit.plugins import custom_stt

def no_key(*args, **kwargs):
    raise ValueError("no key")

def stand_in(name, stt):
    module = types.ModuleType(name)
    module.STT = module.STTv2 = stt
    return module

ours = stand_in("livekit.plugins.custom_stt", functools.partial(custom_stt.STT, url={url!r}))
for number, name in enumerate({names!r}):
    module = ours if number == 0 else stand_in("livekit.plugins." + name, no_key)
    setattr(livekit.plugins, name, module)
    sys.modules["livekit.plugins." + name] = module
'''


def vendors(test_file: Path) -> list[str]:
    """Return the plugins that their test imports."""
    return [
        alias.name
        for node in ast.walk(ast.parse(test_file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "livekit.plugins"
        for alias in node.names
    ]


def transcribed(folder: Path) -> list[tuple[Path, str]]:
    """Return the recordings of a folder with what is said in them, in the folder's order."""
    [lines] = [*folder.glob("*.transcription"), *folder.glob("transcription")]
    said = {}
    for line in lines.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"<s>\s*(.*?)\s*</s>\s*\((.+)\)\s*", line):
            said[found[2]] = found[1]
    return [(folder / f"{name}.wav", text) for name, text in said.items()]


def write_speech(recordings: Sequence[tuple[Path, str]], tests: Path) -> float:
    """Put the recordings, with gaps between, where the tests look for audio and transcript; return the seconds."""
    gap = np.zeros(round(GAP_S * RATE_HZ), dtype=np.int16)
    parts = []
    for path, _ in recordings:
        samples, rate_hz = soundfile.read(path, dtype="int16")
        if rate_hz != RATE_HZ:
            raise SystemExit(f"{path} has {rate_hz} Hz, not {RATE_HZ}")
        parts += [samples, gap]
    audio = np.concatenate(parts)
    soundfile.write(tests / "long.mp3", audio, RATE_HZ, format="WAV")  # it is known by its content, not by its name
    (tests / "long_transcript.txt").write_text("\n".join(text for _, text in recordings), encoding="utf-8")
    return len(audio) / RATE_HZ


def run(tree: Path, folders: Sequence[Path], python: str, data_dir: Path, flags: Sequence[str]) -> int:
    """Run the tests and return pytest's exit status."""
    place = data_dir / "official"
    shutil.copytree(tree / "tests", place / "tests")
    shutil.copy(tree / "pyproject.toml", place)
    seconds = write_speech([pair for folder in folders for pair in transcribed(folder)], place / "tests")
    sys.stdout.write(f"{seconds:.1f} s of speech from {', '.join(folder.name for folder in folders)}\n")
    sys.stdout.flush()
    environment = {"SIBYL_SPEECH_PROVIDER": "pocketsphinx", "SIBYL_ENGINE": "scripted"}
    with serving(data_dir / "sibyl", *flags, env=environment) as server:
        url = f"ws://127.0.0.1:{server.port}/ws/transcribe"
        names = vendors(place / "tests" / "test_stt.py")
        stubs = _STUBS.format(plugin=str(PLUGIN), url=url, names=names)
        (place / "stubs_plugin.py").write_text(stubs, encoding="utf-8")
        words = [f"tests/test_stt.py::{test}" for test in TESTS]
        command = [python, "-m", "pytest", *words, "-p", "stubs_plugin", "-k", "custom_stt", "-rA", "-q", "--stt"]
        return subprocess.run(command, cwd=place, timeout=LIMIT_S, check=False).returncode


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="LiveKit's own speech-to-text test on our plugin and server")
    parser.add_argument("--tree", type=Path, required=True, help="work tree of livekit/agents")
    parser.add_argument("--recordings", type=Path, action="append", required=True, help="folder with a transcription")
    parser.add_argument("--python", default=sys.executable, help="Python that has what their tests need")
    parser.add_argument("flags", nargs="*", help="further flags of sibyl serve, behind --")
    arguments = parser.parse_args()
    folders = [folder.resolve() for folder in arguments.recordings]
    with tempfile.TemporaryDirectory() as data_dir:
        return run(arguments.tree.resolve(), folders, arguments.python, Path(data_dir), arguments.flags)


if __name__ == "__main__":
    sys.exit(main())
