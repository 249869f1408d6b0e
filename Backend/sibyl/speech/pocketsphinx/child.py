"""The child processes of one recogniser: started before they are needed, asked, given back, and ended.

A child ends by itself when its pipe closes, so none outlives its parent, also not one that is killed. (The kernel's own
signal at a parent's death is tied to the thread that started the child, and ours come and go.)
"""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time

from sibyl.bridge.abort import Abort
from sibyl.core.errors import RecogniserBusy, RecogniserFailed
from sibyl.speech.pocketsphinx.messages import Ask, Reply, packed, unpacked

LOAD_S = 60.0
HANG_S = 10.0  # a request takes a fiftieth of that
SPARE_MOST = 2  # idle children that are kept, of 90 MB each
_LOOK_MS = 20  # so often it looks for an abort while it waits for a child
_READ_BYTES = 64 * 1024


class ChildDied(Exception):
    """The child is no more, or hangs and was killed."""


class Child:
    """One process. For one thread at a time."""

    def __init__(self) -> None:
        """Start it; it loads its model meanwhile."""
        self._process = subprocess.Popen(
            # -P: a file in the folder that Sibyl was started in is no module of ours.
            [sys.executable, "-P", "-m", "sibyl.speech.pocketsphinx.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in a terminal goes to all processes of a session
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._data = bytearray()
        self._owed = 1  # replies; the first one is the greeting
        self._greeting: Reply | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._process.poll() is None

    def greeting(self, abort: Abort) -> Reply:
        """Wait until it is loaded, and has answered what an earlier session asked and did not wait for.

        Raises:
            ChildDied: it is of no use.
            Exception: the reason of the abort.
        """
        while self._owed:
            reply = self._reply(abort, LOAD_S if self._greeting is None else HANG_S)
            self._greeting = self._greeting or reply
        assert self._greeting is not None
        return self._greeting

    def ask(self, ask: Ask, body: bytes, abort: Abort) -> Reply:
        """Have a request answered. Raises as ``greeting`` does."""
        # Never waits: the child has answered all before, so its pipe is empty, and holds more than any request.
        try:
            self._stdin.write(packed(ask.value, body))
        except OSError as error:
            raise ChildDied from error
        self._owed += 1
        return self._reply(abort, HANG_S)

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _reply(self, abort: Abort, limit_s: float) -> Reply:
        give_up = time.monotonic() + limit_s
        while (message := unpacked(self._data)) is None:
            abort.raise_if_requested()
            if self._poll.poll(_LOOK_MS):
                more = os.read(self._stdout.fileno(), _READ_BYTES)
                if not more:
                    raise ChildDied
                self._data += more
            elif time.monotonic() > give_up:
                self._process.kill()
                raise ChildDied
        _, body, size = message
        del self._data[:size]
        self._owed -= 1
        return Reply.read(body)


class Children:
    """All of a recogniser's. Every method may be called from any thread."""

    def __init__(self, most: int) -> None:
        """Start none yet.

        Args:
            most: processes at a time, and so sessions.
        """
        self._most = most
        self._lock = threading.Lock()
        self._spare: list[Child] = []
        self._busy: list[Child] = []
        self._closed = False

    def prepare(self) -> None:
        """Have a spare child, if one more may be."""
        with self._lock:
            if self._closed or self._spare or len(self._busy) >= self._most:
                return
            self._spare.append(Child())

    def take(self) -> Child:
        """Return a child, a loaded one if there is one.

        Raises:
            RecogniserBusy: all that may be are taken.
        """
        with self._lock:
            if self._closed:
                raise RecogniserFailed("The recogniser is closed.")
            if len(self._busy) >= self._most:
                raise RecogniserBusy
            child = self._spare_or_new()
            self._busy.append(child)
        self.prepare()
        return child

    def replace(self, dead: Child) -> Child:
        """Return another child for one that died in a session."""
        dead.end()
        with self._lock:
            child = self._spare_or_new()
            self._busy[self._busy.index(dead)] = child
        self.prepare()
        return child

    def give_back(self, child: Child) -> None:
        """A session is done with it."""
        with self._lock:
            self._busy.remove(child)
            keep = child.alive and not self._closed and len(self._spare) < SPARE_MOST
            if keep:
                self._spare.append(child)
        if not keep:
            child.end()

    def close(self) -> None:
        """End all; none can be taken any more."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, []
        for child in spare:
            child.end()

    def _spare_or_new(self) -> Child:
        while self._spare:
            child = self._spare.pop(0)
            if child.alive:
                return child
            child.end()
        return Child()
