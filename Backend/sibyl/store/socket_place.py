"""Where the embedded Redis' two unix sockets lie: beside its data, or in a short private directory.

A socket's path may have about 100 bytes only, and a data directory may be deeper. Redis is started on
``starting`` and renamed to ``serving`` when it may be used: a socket keeps working under its new name.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

SOCKET_PATH_BYTES = 100
"""sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketPlace:
    """A directory with the two sockets. ``temporary``: it was made for them, and goes with them."""

    directory: Path
    temporary: bool

    @classmethod
    def choose(cls, preferred: Path) -> Self:
        """Return ``preferred`` where that path is short enough, else a new directory that is ours alone."""
        if (place := cls(directory=preferred, temporary=False))._fits():
            return place
        for parent in (None, "/tmp"):  # TMPDIR may be long as well
            place = cls(directory=Path(tempfile.mkdtemp(prefix="sibyl-", dir=parent)), temporary=True)
            if place._fits():
                break
            place.directory.rmdir()
        return place

    @property
    def starting(self) -> Path:
        """The socket while the data are loaded: for the supervisor only."""
        return self.directory / "starting.sock"

    @property
    def serving(self) -> Path:
        """The socket that everyone uses."""
        return self.directory / "redis.sock"

    def url(self, credentials: str = "") -> str:
        """Return what ``Redis.from_url`` takes for ``serving``. ``credentials``: ``user:password@`` or
        none."""
        return f"unix://{credentials}{quote(str(self.serving))}"

    def remove(self) -> None:
        """Remove the sockets, and their directory if it was made for them. Removing twice is once."""
        for socket in (self.starting, self.serving):
            with contextlib.suppress(OSError):
                socket.unlink()
        if self.temporary:
            with contextlib.suppress(OSError):  # somebody else's file in it: leave both
                self.directory.rmdir()

    def _fits(self) -> bool:
        try:
            str(self.directory).encode()  # an URL cannot carry a name that is not UTF-8
        except UnicodeEncodeError:
            return False
        return len(os.fsencode(self.starting)) <= SOCKET_PATH_BYTES
