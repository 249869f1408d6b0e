"""The tree of errors: the list in the module's docstring is the list of the classes."""

import inspect
import re

import pytest

from sibyl.core import errors
from sibyl.core.errors import SibylError


def classes() -> list[type[SibylError]]:
    """Every error class of the module, in the order of the file."""
    return [
        member
        for member in vars(errors).values()
        if inspect.isclass(member) and issubclass(member, SibylError) and member.__module__ == errors.__name__
    ]


def documented() -> list[tuple[str, str | None]]:
    """Name and parent of each class in the docstring's tree, by indentation."""
    found: list[tuple[str, str | None]] = []
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"((?:    )+)([A-Z]\w+)(?:\s{2,}.*)?", line)
        if match is not None:
            depth = len(match[1]) // 4
            path[depth - 1 :] = [match[2]]
            found.append((match[2], path[depth - 2] if depth > 1 else None))
    return found


def test_the_docstring_lists_every_class_under_its_parent() -> None:
    """Nobody has to read the file to know what can be raised."""
    actual = [(error.__name__, None if error is SibylError else error.__bases__[0].__name__) for error in classes()]

    assert documented() == actual


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_a_class_is_its_own_message_and_hint(error: type[SibylError]) -> None:
    """Docstring, code and status are there without a word from the one who raises it."""
    raised = error()

    assert raised.message == str(raised) == (error.__doc__ or "").strip()
    assert raised.message.endswith(".")
    assert "\n" not in raised.message
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", raised.code)
    assert raised.code.replace("_", "") == error.__name__.lower()
    assert 400 <= raised.status < 600
    assert raised.retry_after_s is None or raised.retry_after_s > 0


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_busy_and_away_say_when_to_come_back(error: type[SibylError]) -> None:
    """429 always carries Retry-After; a time is given only where trying again is what helps."""
    if error.status == 429:
        assert error.retry_after_s is not None
    if error.retry_after_s is not None:
        assert error.status in (429, 503)


def test_a_message_of_ones_own_replaces_the_default() -> None:
    """The class stays what programs see; the sentence is for people."""
    error = errors.StoreFull("The disk is full.")

    assert (error.message, error.code, error.status) == ("The disk is full.", "store_full", 503)
