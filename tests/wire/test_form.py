"""Multipart forms: what comes in, however it is cut; and what is refused, as early as it shows."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.core.errors import InvalidRequest
from sibyl.wire.form import FIELD_BYTES, PARTS, FileTooLarge, Form, FormReader, MalformedForm, UnsupportedMediaType

KIND = "multipart/form-data; boundary=xyz"
FILE_BYTES = 1000


def part(name: str, value: bytes, more: str = "") -> bytes:
    """One part of a form."""
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


END = b"--xyz--\r\n"


def read(*pieces: bytes, kind: str = KIND) -> Form:
    """Read a form that comes in these pieces."""
    reader = FormReader(kind, file_field="file", file_bytes=FILE_BYTES)
    for piece in pieces:
        reader.feed(piece)
    return reader.finish()


@given(file=st.binary(max_size=300), text=st.text(max_size=50), cuts=st.lists(st.integers(0, 700), max_size=6))
def test_a_form_is_the_same_however_it_is_cut(file: bytes, text: str, cuts: list[int]) -> None:
    """Any bytes in the file, also such as look like a boundary; pieces end anywhere."""
    body = part("model", text.encode()) + part("file", file, '; filename="a.wav"') + END
    places = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})

    form = read(*(body[start:stop] for start, stop in pairwise(places)))

    assert (form.fields, form.file) == ([("model", text)], bytearray(file))


def test_names_may_come_again_and_keep_their_order() -> None:
    """A list is sent as one field for each of its values."""
    form = read(part("a[]", b"1") + part("b", b"2") + part("a[]", b"3") + END)

    assert form.fields == [("a[]", "1"), ("b", "2"), ("a[]", "3")]
    assert form.file is None


def test_a_file_as_large_as_may_be_is_read_and_one_byte_more_is_not() -> None:
    """And it is refused in the very piece in which that shows, not at the end."""
    assert read(part("file", b"x" * FILE_BYTES) + END).file == bytearray(b"x" * FILE_BYTES)
    reader = FormReader(KIND, file_field="file", file_bytes=FILE_BYTES)
    reader.feed(part("file", b"x" * FILE_BYTES)[:-2])

    with pytest.raises(FileTooLarge, match="1000 bytes"):
        for _ in range(10):
            reader.feed(b"x")


REFUSED: dict[str, tuple[type[InvalidRequest], Callable[[], object]]] = {
    "another kind": (UnsupportedMediaType, lambda: read(b"", kind="application/json")),
    "no kind": (UnsupportedMediaType, lambda: read(b"", kind="")),
    "no boundary": (UnsupportedMediaType, lambda: read(b"", kind="multipart/form-data")),
    "an empty boundary": (UnsupportedMediaType, lambda: read(b"", kind='multipart/form-data; boundary=""')),
    "a long boundary": (MalformedForm, lambda: read(b"", kind="multipart/form-data; boundary=" + "x" * 1000)),
    "nothing": (MalformedForm, lambda: read(b"")),
    "another boundary": (MalformedForm, lambda: read(b"--abc\r\n\r\n--abc--")),
    "no end": (MalformedForm, lambda: read(part("model", b"x"))),
    "cut within a part": (MalformedForm, lambda: read(part("model", b"x")[:-5])),
    "no name": (MalformedForm, lambda: read(b"--xyz\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END)),
    "an empty name": (MalformedForm, lambda: read(part("", b"x") + END)),
    "a long name": (MalformedForm, lambda: read(part("n" * 300, b"x") + END)),
    "many parts": (MalformedForm, lambda: read(part("a", b"") * (PARTS + 1) + END)),
    "many headers": (MalformedForm, lambda: read(b"--xyz\r\n" + b"A: b\r\n" * 50 + b"\r\nx\r\n" + END)),
    "a huge header": (MalformedForm, lambda: read(b"--xyz\r\nA: " + b"b" * 100_000 + b"\r\n\r\nx\r\n" + END)),
    "a huge name of a header": (MalformedForm, lambda: read(b"--xyz\r\n" + b"A" * 100_000)),
    "huge fields": (MalformedForm, lambda: read(part("a", b"x" * FIELD_BYTES) + part("b", b"x") + END)),
    "two files": (MalformedForm, lambda: read(part("file", b"x") + part("file", b"y") + END)),
    "a field that is no text": (MalformedForm, lambda: read(part("model", b"\xff") + END)),
    "a name that is no text": (
        MalformedForm,
        lambda: read(b'--xyz\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n' + END),
    ),
}


@pytest.mark.parametrize(("error", "reading"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_form_is_refused(error: type[InvalidRequest], reading: Callable[[], object]) -> None:
    """In words, and with a status of the client's."""
    with pytest.raises(error) as refusal:
        reading()

    assert refusal.value.status in (400, 415)
    assert "xxx" not in refusal.value.message
