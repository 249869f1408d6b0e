"""A multipart form with one file, read piece by piece as it comes: bounded fields, and no file but in memory.

What it refuses, it refuses at the piece in which that shows, so a hostile form costs no more than it was read.
"""

import logging
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from sibyl.core.errors import InvalidRequest

PARTS = 32
FIELD_BYTES = 64 * 1024  # all fields together, the file excepted
NAME_BYTES = 200

logging.getLogger("python_multipart.multipart").disabled = True  # it quotes what a client sends


class UnsupportedMediaType(InvalidRequest):
    """Send the file as multipart/form-data, with a boundary."""

    status = 415


class MalformedForm(InvalidRequest):
    """The body is not a whole multipart form."""

    status = 400


class FileTooLarge(InvalidRequest):
    """The file is too large."""

    status = 413


@dataclass(slots=True)
class Form:
    """What a form holds."""

    fields: list[tuple[str, str]] = field(default_factory=list)  #: in their order; a name may come again
    file: bytearray | None = None


class FormReader:
    """Reads one form, fed with the pieces of its body."""

    def __init__(self, content_type: str, *, file_field: str, file_bytes: int) -> None:
        """Begin.

        Args:
            content_type: the header; it says what separates the parts.
            file_field: the name of the file's field.
            file_bytes: the largest file.

        Raises:
            UnsupportedMediaType: it is no multipart form.
            MalformedForm: its boundary cannot be one.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind.strip() != b"multipart/form-data" or not boundary:
            raise UnsupportedMediaType()
        self._file_field = file_field
        self._file_bytes = file_bytes
        self._form = Form()
        self._parts = 0
        self._field_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._name = ""
        self._text: bytearray | None = None  # of the field that is being read
        self._in_file = False
        self._whole = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._take_header,
                    "on_headers_finished": self._take_head,
                    "on_part_data": self._data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise MalformedForm("The boundary of the form is too long.") from None

    def feed(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            MalformedForm: it is none, or has too many or too long parts.
            FileTooLarge: the file goes on after ``file_bytes``.
        """
        try:
            self._parser.write(piece)
        except FormParserError:
            raise MalformedForm() from None

    def finish(self) -> Form:
        """Return the form. Raises MalformedForm when its end is missing."""
        if not self._whole:
            raise MalformedForm("The form is cut off: its last boundary is missing.")
        return self._form

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS:
            raise MalformedForm(f"The form has more than {PARTS} parts.")
        self._name = ""

    def _take_header(self) -> None:
        name, value = bytes(self._header).lower(), bytes(self._value)
        self._header.clear()
        self._value.clear()
        if name != b"content-disposition":
            return
        kind, options = parse_options_header(value)
        if kind == b"form-data":
            # As the specification of HTML writes names: UTF-8 in what is read here as Latin-1.
            self._name = _decoded(options.get(b"name", b"")[: NAME_BYTES + 1])

    def _take_head(self) -> None:
        if not self._name or len(self._name) > NAME_BYTES:
            raise MalformedForm("A part of the form has no name, or too long a one.")
        self._in_file = self._name == self._file_field
        if self._in_file and self._form.file is not None:
            raise MalformedForm("The form holds more than one file.")
        if self._in_file:
            self._form.file = bytearray()
        else:
            self._text = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            assert self._form.file is not None
            if len(self._form.file) + end - start > self._file_bytes:
                raise FileTooLarge(f"The file is larger than {self._file_bytes} bytes.")
            self._form.file += memoryview(data)[start:end]
            return
        assert self._text is not None
        self._field_bytes += end - start
        if self._field_bytes > FIELD_BYTES:
            raise MalformedForm(f"The fields of the form hold more than {FIELD_BYTES} bytes.")
        self._text += data[start:end]

    def _end_part(self) -> None:
        if self._text is not None:
            self._form.fields.append((self._name, _decoded(bytes(self._text))))
            self._text = None
        self._in_file = False

    def _end(self) -> None:
        self._whole = True


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedForm("A field of the form is not UTF-8.") from None
