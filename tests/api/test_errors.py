"""The status of an error that ended a task, known to the API by its code alone."""

from sibyl.api.errors import status_of
from sibyl.core.errors import SibylError


class NeedsWords(SibylError):
    """An error of somebody else's, which cannot be made without words."""

    def __init__(self, words: str) -> None:
        super().__init__(words)


def test_a_code_of_ours_has_its_status_and_any_other_is_500() -> None:
    """Whatever other kinds of errors there are."""
    assert status_of("audio_unreadable") == 415
    assert status_of("worker_lost") == 500
    assert status_of("needs_words") == 500
