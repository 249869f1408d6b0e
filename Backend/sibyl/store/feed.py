"""A followed log in this process: folded once, encoded once, and one wake-up for all who follow it.

What a further follower costs is a place in the entries and the write to its connection. Each entry becomes its frame
when the first follower comes to it; followers in step get the very same bytes. All of it goes when the last one leaves.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate, islice

from sibyl.core.errors import LogUnreadable
from sibyl.core.event import Entry, Output, Started
from sibyl.core.fold import Fold
from sibyl.core.task import TaskId
from sibyl.store.history import as_stored
from sibyl.wire import events

CHUNK_BYTES = 64 * 1024  # a reader that takes nothing costs about this, however long the log is
ENCODED_AT_ONCE = 256
SHARED_CHUNKS = 32  # kept for followers who come to the same place; 2 MiB at most
# To wake a follower and write to it costs some 25 us, most of it in the kernel. So the followers of one answer take a
# quarter of the process' time at most, and the more there are, the more events go into one write.
PAUSE_PER_FOLLOWER_S = 0.0001
PAUSE_LEAST_S = 0.002  # a shorter one is none
PAUSE_MOST_S = 0.25
WOKEN_AT_ONCE = 128  # then others on the loop have their turn


class Frames:
    """The entries of a fold as frames of the event stream."""

    def __init__(self, task_id: TaskId, fold: Fold) -> None:
        self.fold = fold
        self._task_id = task_id
        self._first = 0  # frames before it were never asked for
        self._frames: list[bytes] = []
        self._shared: dict[int, tuple[bytes, int]] = {}
        self._length = 0  # of the entries, when the shared chunks were made

    def chunk(self, start: int) -> tuple[bytes, int]:
        """Return what is there from the entry number ``start`` on, in one piece, and the number of the next one.

        It ends with the frame that makes it ``CHUNK_BYTES`` or more.
        """
        length = len(self.fold.entries)
        if self._length != length or len(self._shared) >= SHARED_CHUNKS:
            self._shared.clear()
            self._length = length
        found = self._shared.get(start)
        if found is None:
            found = self._shared[start] = self._join(start, length)
        return found

    def _join(self, start: int, length: int) -> tuple[bytes, int]:
        frames: list[bytes] = []
        size = 0
        while size < CHUNK_BYTES and (place := start + len(frames)) < length:
            more = self._frames_of(place, min(place + ENCODED_AT_ONCE, length))
            sizes = list(accumulate(map(len, more), initial=size))
            frames += more[: bisect_left(sizes, CHUNK_BYTES)]
            size = sizes[min(bisect_left(sizes, CHUNK_BYTES), len(more))]
        return b"".join(frames), start + len(frames)

    def _frames_of(self, start: int, stop: int) -> list[bytes]:
        if not self._frames:
            self._first = start
        elif start < self._first:
            self._frames = self._encoded(start, self._first) + self._frames
            self._first = start
        if (end := self._first + len(self._frames)) < stop:
            self._frames += self._encoded(end, stop)
        return self._frames[start - self._first : stop - self._first]

    def _encoded(self, start: int, stop: int) -> list[bytes]:
        task_id, output_frame = self._task_id, events.output_frame
        return [
            events.entry_frame(task_id, entry) if isinstance(entry, Entry) else output_frame(entry[0], entry[1][1])
            for entry in as_stored(self.fold.entries, start, stop)
        ]


class Feed:
    """One followed task: what its log says so far."""

    def __init__(self, task_id: TaskId) -> None:
        self.task_id = task_id
        self.fold = Fold()
        self.forgotten = False  #: the log is gone: erased, or its retention ended
        self.unreadable: LogUnreadable | None = None  #: set when an entry means nothing to us
        self.position: int | None = None  #: in the queue, while it waits
        self.progress: tuple[int, int] | None = None  #: prompt tokens evaluated, and how many there are
        self.followers = 0
        self.silent = False  #: nothing came since the last check
        self._frames = Frames(task_id, self.fold)
        self._listeners: dict[Callable[[], None], None] = {}  # in the order in which they came
        self._woken_at = 0.0
        self._changed = False  # since they were woken
        self._due: asyncio.Handle | None = None  # of the next who are woken

    @property
    def ended(self) -> bool:
        """Whether nothing can come any more."""
        return self.forgotten or self.unreadable is not None or self.fold.terminal

    @property
    def reads_prompt(self) -> bool:
        """Whether an attempt began and its first output has yet to come."""
        return bool(self.fold.entries) and isinstance(self.fold.entries[-1].event, Started)

    @property
    def frames(self) -> Frames:
        """The frames of the entries that count now."""
        if self._frames.fold is not self.fold:
            self._frames = Frames(self.task_id, self.fold)
        return self._frames

    def listen(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called after changes from now on. It must neither wait nor raise."""
        self._listeners[wake] = None

    def unlisten(self, wake: Callable[[], None]) -> None:
        """Have it called no more."""
        del self._listeners[wake]

    def notify(self) -> None:
        """Wake all who listen: at once, or, where many do, after a pause in which more gathers."""
        self._changed = True
        if self._due is not None:
            return
        loop = asyncio.get_running_loop()
        pause_s = min(PAUSE_MOST_S, len(self._listeners) * PAUSE_PER_FOLLOWER_S)
        left_s = self._woken_at + pause_s - loop.time()
        if pause_s < PAUSE_LEAST_S or left_s <= 0:
            self._wake()
        else:
            self._due = loop.call_later(left_s, self._wake)

    def _wake(self) -> None:
        self._changed = False
        self._woken_at = asyncio.get_running_loop().time()
        self._wake_some(iter(tuple(self._listeners)))

    def _wake_some(self, listeners: Iterator[Callable[[], None]]) -> None:
        woken = 0
        for wake in islice(listeners, WOKEN_AT_ONCE):
            wake()
            woken += 1
        if woken == WOKEN_AT_ONCE:
            self._due = asyncio.get_running_loop().call_soon(self._wake_some, listeners)
            return
        self._due = None
        if self._changed:  # while some had been woken already
            self.notify()

    def take(self, entry: Entry) -> bool:
        """Append an entry, or return False when the log must be read anew."""
        if entry.cursor <= self.fold.last:
            return True  # read twice
        if not self.fold.append(entry):
            return False
        self.silent = False
        self.position = None
        if isinstance(entry.event, Output):
            self.progress = None
        return True
