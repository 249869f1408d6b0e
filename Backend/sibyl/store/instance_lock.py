"""At most one Sibyl per data directory, said by the kernel and not by a file that somebody forgot to remove.

The lock is an flock(2). A child that inherits the descriptor holds it too, so it ends only when the
supervisor *and* its Redis are gone: two servers never write one log. The file's content is only for
messages and for cleaning up; a file left behind by a dead process is no obstacle. This module knows no
Redis.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """Who took the lock, and how to end what it may leave behind. The file is readable by its owner only."""

    pid: int
    child_pid: int | None = None
    socket_path: str | None = None
    password: str | None = field(default=None, repr=False)

    def is_alive(self) -> bool:
        """Say whether the process that took the lock still exists."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class InstanceLock:
    """The lock on one file. OSErrors of the file system pass through."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The descriptor that a child has to inherit in order to hold the lock too."""
        if self._descriptor is None:
            raise RuntimeError("the lock is not held")
        return self._descriptor

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Take the lock and return True, or return False at once when another process holds it."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def holder(self) -> LockHolder | None:
        """Return who took the lock last; None when the file is absent or says nothing usable."""
        try:
            holder = LockHolder(**json.loads(self._path.read_bytes()))
            return holder if holder.pid > 0 else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, holder: LockHolder) -> None:
        """Write down who holds the lock."""
        content = json.dumps(asdict(holder)).encode()
        os.pwrite(self.descriptor, content, 0)  # one write, then cut: a reader never finds an empty file
        os.ftruncate(self.descriptor, len(content))

    def release(self) -> None:
        """Give the lock up. A child that inherited it holds it until it ends. Releasing twice is once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
