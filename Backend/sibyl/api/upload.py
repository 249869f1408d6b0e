"""Reading an uploaded form: bounded in size, in time, and in the memory that all uploads of a process take together."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from sibyl.core.errors import SibylError
from sibyl.wire.form import FileTooLarge, Form, FormReader

UPLOAD_S = 300.0  # the whole body
STALL_S = 30.0  # its next piece
OVERHEAD_BYTES = 256 * 1024  # of a body, beside its file
UPLOADS = 8  # files of the largest size that a process holds at a time


class UploadTimeout(SibylError):
    """The file did not arrive in time."""

    status = 408


class TooManyUploads(SibylError):
    """This node is receiving as many files as it may. Try again in a moment."""

    status = 429
    retry_after_s = 2


class UploadRoom:
    """The memory for uploads. A slow one takes only what has arrived."""

    def __init__(self, *, file_bytes: int) -> None:
        """Make room for ``UPLOADS`` files of this size."""
        self.file_bytes = file_bytes  #: the largest file
        self.held_bytes = 0
        self._most_bytes = UPLOADS * (file_bytes + OVERHEAD_BYTES)

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """One upload's part of it, given back at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held_bytes -= share.bytes_

    def fits(self, more_bytes: int) -> bool:
        """Whether so much more may be held."""
        return self.held_bytes + more_bytes <= self._most_bytes


class Share:
    """What one upload holds."""

    def __init__(self, room: UploadRoom) -> None:
        self.bytes_ = 0
        self._room = room

    def grow(self, more_bytes: int) -> None:
        """Take more. Raises FileTooLarge, TooManyUploads."""
        if self.bytes_ + more_bytes > self._room.file_bytes + OVERHEAD_BYTES:
            raise FileTooLarge(f"The file is larger than {self._room.file_bytes} bytes.")
        if not self._room.fits(more_bytes):
            raise TooManyUploads()
        self.bytes_ += more_bytes
        self._room.held_bytes += more_bytes


async def read_form(request: Request, share: Share, *, file_field: str, file_bytes: int) -> Form | None:
    """Read a form; None when its client left before it was whole.

    Raises:
        UnsupportedMediaType, MalformedForm, FileTooLarge: it is refused, as early as that is known.
        TooManyUploads: others hold all the room.
        UploadTimeout: it takes too long.
    """
    reader = FormReader(request.headers.get("content-type", ""), file_field=file_field, file_bytes=file_bytes)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > file_bytes + OVERHEAD_BYTES:
        raise FileTooLarge(f"The file is larger than {file_bytes} bytes.")
    pieces = request.stream()
    try:
        async with asyncio.timeout(UPLOAD_S):
            while True:
                async with asyncio.timeout(STALL_S):
                    piece = await anext(pieces, None)
                if piece is None:
                    return reader.finish()
                share.grow(len(piece))
                reader.feed(piece)
    except TimeoutError:
        raise UploadTimeout() from None
    except ClientDisconnect:
        return None
