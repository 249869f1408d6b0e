"""Log lines: for people, for programs, and never with what a user wrote."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from sibyl.core.errors import UpstreamError
from sibyl.telemetry import start_logging

logger = logging.getLogger("sibyl.somewhere")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Give back pytest's own handlers afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = before
    root.setLevel(level)


def stumble(secret: str) -> None:
    """Raise an error whose words, and whose cause's words, quote the secret."""
    try:
        dict[str, str]()[secret]
    except KeyError as error:
        raise ValueError(secret) from error


def test_a_line_for_people_has_time_process_words_and_facts() -> None:
    """One line; the action is for programs."""
    stream = io.StringIO()
    start_logging("worker", level="info", form="text", stream=stream)

    logger.info("Attempt %d begins", 2, extra={"action": "attempt_begins", "task_id": "0.abc", "stored": 3})

    assert re.fullmatch(r"\d\d:\d\d:\d\d worker Attempt 2 begins task_id=0\.abc stored=3\n", stream.getvalue())


def test_a_warning_says_that_it_is_one() -> None:
    """Its level stands before its words."""
    stream = io.StringIO()
    start_logging("api", level="info", form="text", stream=stream)

    logger.warning("careful")

    assert stream.getvalue().endswith(" api    warning: careful\n")


def test_a_line_for_programs_is_one_object() -> None:
    """Time in UTC, level, process, logger, words and facts, whatever they hold."""
    stream = io.StringIO()
    start_logging("api", level="debug", form="json", stream=stream)

    logger.debug('two\nlines "and" ü', extra={"action": "x", "count": 3, "odd": object, "none": None})

    [line] = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert isinstance(found.pop("pid"), int)
    assert found == {
        "level": "debug",
        "process": "api",
        "logger": "sibyl.somewhere",
        "message": 'two\nlines "and" ü',
        "action": "x",
        "count": 3,
        "odd": "<class 'object'>",
        "none": None,
    }


def test_less_severe_lines_are_left_out() -> None:
    """As the level says."""
    stream = io.StringIO()
    start_logging("api", level="warning", form="text", stream=stream)

    logger.info("not shown")
    logging.getLogger("sibyl").error("shown")

    assert "not shown" not in stream.getvalue() and "shown" in stream.getvalue()


@pytest.mark.parametrize("name", ["httpx", "httpcore.http11", "sse_starlette.sse", "asyncio"])
def test_libraries_do_not_chatter_nor_tell_what_they_carry(name: str) -> None:
    """At the finest level some of them log addresses or whole frames."""
    stream = io.StringIO()
    start_logging("api", level="debug", form="text", stream=stream)

    logging.getLogger(name).debug("chunk: %s", b"secret")
    logging.getLogger(name).info("HTTP Request")

    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_tells_places_and_classes_but_no_words(form: str) -> None:
    """The words of an error may quote the prompt that it stumbled over; so may those of its causes."""
    stream = io.StringIO()
    start_logging("worker", level="info", form=form, stream=stream)  # type: ignore[arg-type]

    try:
        stumble("my secret question")
    except ValueError:
        logger.exception("failed")
    try:
        raise ExceptionGroup("my secret group", [ValueError("my secret part"), UpstreamError("my secret answer")])
    except ExceptionGroup:
        logger.exception("failed again")

    lines = stream.getvalue()
    assert "secret" not in lines
    for told in ("ValueError", "KeyError", "stumble", "test_telemetry.py", "UpstreamError"):
        assert told in lines


def test_errors_that_cause_each_other_are_told_once() -> None:
    """A circle of causes ends."""
    stream = io.StringIO()
    start_logging("worker", level="info", form="text", stream=stream)
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one

    logger.error("failed", exc_info=one)

    assert stream.getvalue().count("ValueError") == 1


def test_the_words_of_the_system_are_told() -> None:
    """What the operating system said about a file or a socket is no secret, and its path is left out."""
    stream = io.StringIO()
    start_logging("worker", level="info", form="text", stream=stream)

    try:
        open("/no/such/secret")
    except OSError:
        logger.exception("failed")

    assert "FileNotFoundError: No such file or directory" in stream.getvalue()
    assert "secret" not in stream.getvalue()
