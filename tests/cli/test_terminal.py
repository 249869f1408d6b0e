"""Text goes where it belongs, and does nothing to the screen but stand there."""

import io

import pytest

from sibyl.cli.terminal import Terminal, one_line, printable


class Screen(io.StringIO):
    """A stream that is a screen."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_control_characters_are_dropped() -> None:
    """Of both sets, but for tab and line feed."""
    assert printable("a\x1b[1m\r\n\tb\x00\x7f\x85\x9bc é\u2028") == "a[1m\n\tbc é\u2028"
    assert one_line("a\n b\x1b\tc") == "a b c"


@pytest.mark.parametrize(("out", "written"), [(Screen(), "a\nb"), (io.StringIO(), "a\r\n\x1bb")])
def test_a_file_gets_the_text_as_it_is(out: io.StringIO, written: str) -> None:
    """And a screen gets what is harmless."""
    Terminal(out, io.StringIO()).write("a\r\n\x1bb")

    assert out.getvalue() == written


def test_what_cannot_be_written_becomes_a_question_mark() -> None:
    """Half a surrogate pair, or a letter that the locale lacks."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for encoding in ("utf-8", "ascii")]
    for stream in streams:
        Terminal(stream, io.StringIO()).write("é\ud800")
        stream.seek(0)

    assert [stream.buffer.read() for stream in streams] == ["é?".encode(), b"??"]


def test_a_status_is_for_a_screen_and_not_for_the_middle_of_an_answer() -> None:
    """On the same screen it waits until the line is ended; beside a file it does not have to."""
    screen, beside, nowhere = Screen(), Screen(), io.StringIO()
    for terminal in (Terminal(screen, screen), Terminal(io.StringIO(), beside), Terminal(io.StringIO(), nowhere)):
        terminal.write("Half")
        terminal.status("queued")

    assert screen.getvalue() == "Half"
    assert "queued" in beside.getvalue()
    assert nowhere.getvalue() == ""


def test_a_status_is_wiped_before_anything_else_is_said() -> None:
    """A shorter one leaves nothing of a longer one."""
    screen = Screen()
    terminal = Terminal(screen, screen)

    terminal.status("queued, 12 ahead")
    terminal.status("next")
    terminal.note("done")

    assert screen.getvalue() == f"\r\rqueued, 12 ahead\r{' ' * 16}\rnext\r    \rsibyl: done\n"


def test_a_note_ends_the_line_of_the_answer_first() -> None:
    """On a screen; a file is not touched."""
    screen, file = Screen(), io.StringIO()
    for out in (screen, file):
        terminal = Terminal(out, io.StringIO())
        terminal.write("Half")
        terminal.note("lost")
        terminal.finish_line()

    assert screen.getvalue() == "Half\n"
    assert file.getvalue() == "Half\n"
