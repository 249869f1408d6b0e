"""Who speaks in a shell gets the words on standard output, or the answer to them, and an exit code."""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import Command
from tests.cli.test_watching import CTRL_C, Screen
from tests.serving import RunningApi, WatchedEngine, run_api, run_worker, wait_until
from tests.speech.hearing import blocks, words
from tests.topology import Servers

RATE_HZ = 16_000
SILENCE = (0, 0, 0, 0)
SPEECH = (1, 2, 3, *SILENCE, 4, 5, *SILENCE)
TOLD = "w1 w2 w3\nw4 w5\n"


@pytest.fixture(scope="module")
def engine() -> WatchedEngine:
    """What answers; it remembers what it was asked."""
    return WatchedEngine()


@pytest.fixture(scope="module")
def hearing_api(redis_servers: Servers, engine: WatchedEngine) -> Iterator[RunningApi]:
    """An API that hears scripted words, with a worker that answers."""
    with (
        run_api(redis_servers.url, speech_provider="scripted", speech_grace_s=0.3) as api,
        run_worker(redis_servers.url, engine),
    ):
        yield api


@pytest.fixture
def api(hearing_api: RunningApi) -> RunningApi:
    """The API, which forgot the sessions of the last test."""
    assert wait_until(lambda: not len(hearing_api.context.sessions), limit_s=5)
    return hearing_api


@pytest.fixture
def sibyl(api: RunningApi, tmp_path: Path) -> Command:
    """The command."""
    return Command(tmp_path, api.url)


def record(path: Path, values: Sequence[int] = SPEECH, *, rate_hz: int = RATE_HZ, **form: str) -> Path:
    """Write a recording of these blocks."""
    samples = np.frombuffer(blocks(*values), "<i2")
    soundfile.write(path, samples, rate_hz, **form)
    return path


def wav(
    values: Sequence[int], *, channels: int = 1, size: int | None = None, rest: bytes = b"", bits: int = 16
) -> bytes:
    """A WAV of these blocks, as a pipe would carry it; ``size`` is what it says of its length."""
    samples = np.frombuffer(blocks(*values), "<i2")
    data = np.repeat(samples[:, None], channels, axis=1).tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, RATE_HZ, RATE_HZ * 2 * channels, 2 * channels, bits)
    noted = struct.pack("<4sI4s", b"LIST", 4, b"INFO")
    head = b"RIFF\xff\xff\xff\xffWAVE" + noted + form
    return head + struct.pack("<4sI", b"data", len(data) if size is None else size) + data + rest


@pytest.mark.parametrize("name", ["speech.wav", "speech.flac", "speech.aiff"])
def test_a_recording_is_written_utterance_by_utterance(sibyl: Command, name: str) -> None:
    """One a line, and nothing else, whatever the file is."""
    record(sibyl.folder / name)

    done = sibyl("listen", name)

    assert (done.returncode, done.stdout, done.stderr) == (0, TOLD, "")


def test_any_sound_that_can_be_read_is_heard(sibyl: Command) -> None:
    """Lossy formats, samples of other kinds, two channels, rates that no session takes: something is heard."""
    stereo = np.repeat(np.frombuffer(blocks(*SPEECH), "<i2")[:, None], 2, axis=1)
    soundfile.write(sibyl.folder / "stereo.wav", stereo, RATE_HZ)
    loud = np.frombuffer(blocks(*SPEECH), "<i2") / 32768
    soundfile.write(sibyl.folder / "float.wav", loud, RATE_HZ, subtype="FLOAT")
    record(sibyl.folder / "lossy.ogg", [1000, 2000, *SILENCE])
    record(sibyl.folder / "lossy.mp3", [1000, 2000, *SILENCE])
    record(sibyl.folder / "high.wav", [1000, 2000, *SILENCE], rate_hz=96_000)

    done = {name: sibyl("listen", name) for name in ("stereo.wav", "float.wav", "lossy.ogg", "lossy.mp3", "high.wav")}

    assert all(one.returncode == 0 for one in done.values()), done
    assert (done["stereo.wav"].stdout, done["float.wav"].stdout) == (TOLD, TOLD)
    assert all(one.stdout for one in done.values())


def test_bare_samples_need_their_rate(sibyl: Command) -> None:
    """From a file or a pipe; the words of the scripted recogniser last a tenth of a second at any rate."""
    (sibyl.folder / "call.raw").write_bytes(b"".join(struct.pack("<h", value) * 800 for value in SPEECH))

    file = sibyl("listen", "--raw", "--sample-rate", "8000", "call.raw")
    pipe = sibyl("listen", "-", stdin=blocks(*SPEECH) + b"\x01")
    looks_like_a_wav = sibyl("listen", "--raw", "-", stdin=wav([7]))

    assert (file.returncode, file.stdout) == (0, TOLD)
    assert (pipe.returncode, pipe.stdout) == (0, TOLD)
    assert (looks_like_a_wav.returncode, looks_like_a_wav.stdout) == (0, "garbled\nw7\n")


@pytest.mark.parametrize(
    "stream",
    [
        wav(SPEECH),
        wav(SPEECH, channels=3),
        wav(SPEECH, size=0),
        wav(SPEECH, size=0xFFFFFFFF),
        wav(SPEECH, rest=b"LIST\x04\0\0\0\x01\x02\x03\x04" * 500),
    ],
    ids=["mono", "three channels", "no length", "no length of ffmpeg", "something behind it"],
)
def test_a_wav_comes_through_a_pipe(sibyl: Command, stream: bytes) -> None:
    """Also one whose writer did not know its length; what stands behind the sound is no sound."""
    done = sibyl("listen", "-", stdin=stream)

    assert (done.returncode, done.stdout, done.stderr) == (0, TOLD, "")


def test_what_is_heard_is_asked(sibyl: Command, engine: WatchedEngine) -> None:
    """The answer alone is on standard output, as with sibyl ask."""
    record(sibyl.folder / "question.wav", [1, 2, *SILENCE, 3])

    done = sibyl("listen", "--ask", "question.wav")

    assert engine.requests[-1].messages[-1].content == "w1 w2 w3"
    assert done.returncode == 0 and len(done.stdout.split()) > 5
    assert done.stderr == "sibyl: heard: w1 w2\nsibyl: heard: w3\n"


def test_json_is_one_message_a_line(sibyl: Command) -> None:
    """As the server sends them; behind them the events of the answer."""
    record(sibyl.folder / "question.wav")

    done = sibyl("listen", "--json", "--ask", "question.wav")

    messages = [json.loads(line) for line in done.stdout.splitlines()]
    types = [message["type"] for message in messages]
    assert (types[0], types[types.index("session_ended") + 1], types[-1]) == ("ready", "queued", "completed")
    assert [message["text"] for message in messages if message["type"] == "final"] == ["w1 w2 w3", "w4 w5"]
    totals = messages[types.index("session_ended")]["totals"]
    assert totals["audio_received_s"] == totals["audio_processed_s"] == len(SPEECH) / 10


def test_real_time_is_as_fast_as_somebody_speaks(sibyl: Command) -> None:
    """A session of a second and a half lasts no less."""
    record(sibyl.folder / "speech.wav")

    done = sibyl("listen", "--real-time", "--json", "speech.wav")

    (ended,) = [line for line in map(json.loads, done.stdout.splitlines()) if line["type"] == "session_ended"]
    assert ended["totals"]["duration_s"] >= len(SPEECH) / 10 - 0.2


def test_a_silent_recording_is_no_question(sibyl: Command) -> None:
    """Without --ask it is simply empty."""
    record(sibyl.folder / "silence.wav", [0] * 20)

    told, asked = sibyl("listen", "silence.wav"), sibyl("listen", "--ask", "silence.wav")

    assert (told.returncode, told.stdout, asked.returncode, asked.stdout) == (0, "", 1, "")
    assert told.stderr == asked.stderr == "sibyl: nothing was said that could be understood\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "words_of_it"),
    [
        (["absent.wav"], b"", "absent.wav cannot be read: No such file or directory"),
        (["."], b"", "cannot be read: Is a directory"),
        (["text.txt"], b"", "ffmpeg -i text.txt speech.wav"),
        (["-"], b"fLaC" + bytes(99), "Standard input is FLAC"),
        (["-"], b"OggS" + bytes(99), "ffmpeg -i pipe:0"),
        (["-"], wav([1], bits=24), "not of 16 bit PCM"),
        (["-"], wav([1])[:20], "has no audio in it"),
        (["--sample-rate", "4", "-"], b"", "4"),
        (["--language", "?", "-"], b"", "language"),
        (["--provider", "nobody", "-"], b"", "provider"),
    ],
)
def test_what_cannot_be_heard_says_what_to_do(
    sibyl: Command, arguments: list[str], stdin: bytes, words_of_it: str
) -> None:
    """In one line, with the code of wrong usage."""
    (sibyl.folder / "text.txt").write_text("To whom it may concern. " * 50)

    done = sibyl("listen", *arguments, stdin=stdin)

    assert (done.returncode, done.stdout) == (2, "")
    assert words_of_it in done.stderr and "Traceback" not in done.stderr


def test_a_server_that_is_away_is_named(sibyl: Command) -> None:
    """With what starts one."""
    record(sibyl.folder / "speech.wav")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"

        done = sibyl("listen", "--url", url, "speech.wav")

    assert (done.returncode, done.stdout) == (3, "")
    assert f"No connection to {url}: Connection refused. Does `sibyl serve` run there?" in done.stderr


def test_a_recogniser_that_fails_or_is_missing_is_said(sibyl: Command) -> None:
    """In the server's words; what was heard before stands."""
    record(sibyl.folder / "speech.wav", [1, 2, *SILENCE, -1])

    failed = sibyl("listen", "speech.wav")
    missing = sibyl("listen", "--provider", "deepgram", "speech.wav")

    assert (failed.returncode, failed.stdout) == (1, "w1 w2\n")
    assert failed.stderr.count("\n") == 1 and "recogniser failed" in failed.stderr
    assert missing.returncode == 2 and "DEEPGRAM_API_KEY" in missing.stderr


@contextlib.contextmanager
def speaking(sibyl: Command, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command with an open pipe into it."""
    process = subprocess.Popen(
        sibyl.line("listen", *arguments, "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=sibyl.folder,
        env=sibyl.environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_a_live_source_and_what_it_said_is_asked(sibyl: Command, engine: WatchedEngine) -> None:
    """As its own end would."""
    with speaking(sibyl, "--ask") as process:
        assert isinstance(process.stdin, io.BufferedWriter) and process.stderr is not None
        process.stdin.write(blocks(1, 2, *SILENCE, 3))
        process.stdin.flush()
        first = process.stderr.readline()  # it hears

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (first, err) == (b"sibyl: heard: w1 w2\n", b"sibyl: heard: w3\n")
    assert process.returncode == 0 and len(out.split()) > 5
    assert engine.requests[-1].messages[-1].content == "w1 w2 w3"


def test_a_second_ctrl_c_leaves_at_once(sibyl: Command) -> None:
    """Also while the server hangs on the rest."""
    with speaking(sibyl) as process:
        assert isinstance(process.stdin, io.BufferedWriter) and process.stdout is not None
        process.stdin.write(blocks(1, *SILENCE, -3))
        process.stdin.flush()
        assert process.stdout.readline() == b"w1\n"

        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)

        assert process.wait(10) == 130


def test_ctrl_c_leaves_out_the_rest_of_a_file(sibyl: Command) -> None:
    """What was sent is told; nothing is asked."""
    record(sibyl.folder / "long.wav", [*range(1, 600)])
    with Screen(sibyl, "listen", "--real-time", "--ask", "long.wav") as screen:
        screen.wait_for("0:")
        screen.wait_for("w3")
        screen.press(CTRL_C)
        code = screen.ended()

    assert code == 130
    assert b"heard: w1 w2 w3" in screen.raw
    assert b"w500" not in screen.raw


def test_on_a_screen_the_words_show_while_they_are_said(sibyl: Command) -> None:
    """On one line, with how far it is; the final line stands alone."""
    record(sibyl.folder / "speech.wav", [*range(1, 30), *SILENCE])
    with Screen(sibyl, "listen", "--real-time", "speech.wav") as screen:
        screen.wait_for("of 0:03")
        screen.wait_for("w1 w2")
        code = screen.ended()

    assert code == 0
    assert (words(1, 29) + "\r\n").encode() in screen.raw
    # Nothing of the passing lines stays: the last thing before the words is the wiped line.
    assert all(len(line) < 80 for line in screen.raw.split(b"\r") if b"of 0:03" in line)


def test_a_reader_who_leaves_ends_it_quietly(sibyl: Command) -> None:
    """As head does."""
    record(sibyl.folder / "speech.wav", [value for word in range(1, 200) for value in (word, *SILENCE)])
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            sibyl.line("listen", "speech.wav"),
            stdout=nobody,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=sibyl.folder,
            env=sibyl.environment,
            timeout=20,
        )

    assert (done.returncode, done.stderr) == (141, b"")


def test_help_teaches(sibyl: Command) -> None:
    """Examples that can be typed, and the exit codes."""
    done = sibyl("listen", "--help")

    assert "sibyl listen talk.flac > talk.txt" in done.stdout and "130  Ctrl-C" in done.stdout
