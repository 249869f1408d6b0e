"""Who asks at a real terminal sees how far it is, and can stop it."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from tests.cli.conftest import Command
from tests.client.native_server import NativeServer, answering

LOGIN = "import os, sys; os.login_tty(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
CTRL_C = b"\x03"


class Screen:
    """A command in a terminal of its own."""

    def __init__(self, sibyl: Command, *arguments: str) -> None:
        self._master, terminal = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOGIN, str(terminal), *sibyl.line(*arguments)],
            pass_fds=[terminal],
            env=sibyl.environment | {"TERM": "xterm", "COLUMNS": "80"},
            cwd=sibyl.folder,
        )
        os.close(terminal)
        self.raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(10)
        os.close(self._master)

    def _read(self, limit_s: float) -> bool:
        if not select.select([self._master], [], [], limit_s)[0]:
            return True
        try:
            self.raw += (piece := os.read(self._master, 65536))
        except OSError:  # Linux: the other end is closed
            return False
        return bool(piece)

    def wait_for(self, text: str) -> None:
        """Return once this is on the screen."""
        end = time.monotonic() + 15
        while text.encode() not in self.raw:
            assert self._read(end - time.monotonic()) and time.monotonic() < end, (text, self.raw)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def ended(self) -> int:
        """The exit code, once it has ended."""
        end = time.monotonic() + 15
        while self._read(end - time.monotonic()):
            assert time.monotonic() < end, self.raw
        return self._process.wait(10)

    @property
    def lines(self) -> list[str]:
        """What a person sees: a carriage return goes to the start of the line, and what comes next overwrites."""
        lines = []
        for line in self.raw.decode().replace("\r\n", "\n").split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            lines.append("".join(cells).rstrip())
        return lines


def test_the_way_to_the_answer_is_one_line_that_vanishes(api: NativeServer, sibyl: Command) -> None:
    """Place in the queue, then the reading of the prompt, then nothing but the answer."""
    api.next_hints = [
        {"type": "position", "position": 12},
        {"type": "position", "position": 0},
        {"type": "progress", "prompt_tokens_evaluated": 5, "prompt_tokens": 10},
    ]

    with Screen(sibyl, "ask", "Why?") as screen:
        assert screen.ended() == 0

    seen = [part.strip() for part in re.split(r"[\r\n]+", screen.raw.decode())]
    assert [word for word in ("queued, 12 ahead", "queued, next", "reading: 5 of 10 tokens") if word in seen] == [
        "queued, 12 ahead",
        "queued, next",
        "reading: 5 of 10 tokens",
    ]
    assert screen.lines == ["Yes.", ""]


def test_an_answer_cannot_speak_to_the_terminal(api: NativeServer, sibyl: Command) -> None:
    """Escape sequences, bells and carriage returns are dropped, line ends and tabs stay."""
    api.next_events = answering("a\x1b[2Jb\x07\x9b1mc\r\td", "\x1b]0;title\x07\n")

    with Screen(sibyl, "ask", "Why?") as screen:
        assert screen.ended() == 0

    assert b"a[2Jb1mc\td]0;title\r\n" in screen.raw


def test_ctrl_c_cancels_the_task(api: NativeServer, sibyl: Command) -> None:
    """The server is asked, its confirmation is waited for, and what was there stays."""
    api.next_events = answering("Half")[:3]

    with Screen(sibyl, "ask", "Why?") as screen:
        screen.wait_for("Half")
        screen.press(CTRL_C)
        assert screen.ended() == 130

    assert screen.lines[-2:] == ["sibyl: the task was cancelled", ""]
    assert next(iter(api.scripts.values())).finished


def test_ctrl_c_while_it_waits_in_the_queue_cancels_it(api: NativeServer, sibyl: Command) -> None:
    """Before anything was answered."""
    api.next_events = answering("Half")[:1]
    api.next_hints = [{"type": "position", "position": 3}]

    with Screen(sibyl, "fortune", "Why?") as screen:
        screen.wait_for("queued, 3 ahead")
        screen.press(CTRL_C)
        assert screen.ended() == 130

    assert next(iter(api.scripts.values())).finished


def test_a_server_that_does_not_confirm_is_left_after_two_seconds(api: NativeServer, sibyl: Command) -> None:
    """With a word on how to cancel by hand."""
    api.next_events, api.on_cancel = answering("Half")[:3], None

    with Screen(sibyl, "ask", "Why?") as screen:
        screen.wait_for("Half")
        began = time.monotonic()
        screen.press(CTRL_C)
        assert screen.ended() == 130

    assert 1.9 < time.monotonic() - began < 4
    assert f"sibyl cancel {next(iter(api.scripts))}" in " ".join(screen.lines)


def test_a_second_ctrl_c_leaves_at_once(api: NativeServer, sibyl: Command) -> None:
    """Whatever the server does."""
    api.next_events, api.on_cancel = answering("Half")[:3], None

    with Screen(sibyl, "ask", "Why?") as screen:
        screen.wait_for("Half")
        began = time.monotonic()
        screen.press(CTRL_C)
        api.wait_for_request("/cancel")
        screen.press(CTRL_C)
        assert screen.ended() == 130

    assert time.monotonic() - began < 1.5
    assert "Traceback" not in screen.raw.decode()


def test_ctrl_c_leaves_a_followed_task_alone(api: NativeServer, sibyl: Command) -> None:
    """Who follows is not who asked."""
    script = api.add(*answering("Half")[:3])

    with Screen(sibyl, "follow", script.task_id) as screen:
        screen.wait_for("Half")
        screen.press(CTRL_C)
        assert screen.ended() == 130

    assert not script.finished
    assert "Traceback" not in screen.raw.decode()
