"""How long something has been silent, with a given clock."""

from itertools import pairwise

import pytest

from sibyl.core.silence import Silence


@pytest.fixture
def silence() -> Silence:
    """Too long after ten seconds; of the time between two looks at most three count."""
    return Silence(limit_s=10, look_cap_s=3)


def looks(silence: Silence, *signs: object | None, start_s: float = 0.0) -> list[bool]:
    """Look once a second, with these signs."""
    return [silence.look(start_s + number, sign) for number, sign in enumerate(signs)]


def test_who_speaks_is_not_silent(silence: Silence) -> None:
    """However long it goes on."""
    assert not any(looks(silence, *range(100)))


def test_who_has_spoken_is_missed_at_the_limit(silence: Silence) -> None:
    """Ten seconds after the last word, not sooner."""
    told = looks(silence, "a", "b", *["b"] * 10)

    assert told == [False] * 11 + [True]


def test_who_has_never_spoken_is_not_missed(silence: Silence) -> None:
    """It may take its time to begin."""
    assert not any(looks(silence, *[None] * 100))


def test_the_first_word_is_enough_to_be_missed(silence: Silence) -> None:
    """Ten seconds after it."""
    assert looks(silence, None, "a", *["a"] * 10)[-1]


def test_who_takes_no_part_is_not_missed_and_begins_anew(silence: Silence) -> None:
    """A sign of None disarms it until the next word."""
    assert not any(looks(silence, "a", "b", *[None] * 30, *["b"] * 9))


def test_a_word_begins_the_count_anew(silence: Silence) -> None:
    """Nine seconds of silence, a word, nine seconds."""
    assert not any(looks(silence, "a", "b", *["b"] * 9, "c", *["c"] * 9))


def test_a_pause_of_the_looker_counts_little(silence: Silence) -> None:
    """An hour between two looks was an hour in which everything stood still."""
    looks(silence, "a", "b")

    assert not silence.look(3600.0, "b")
    assert silence.silent_s == 3


def test_time_in_which_nobody_could_be_heard_does_not_count(silence: Silence) -> None:
    """Nor what was counted before: whoever was away with the others needs time to come back."""
    looks(silence, "a", "b", *["b"] * 9)
    for second in range(11, 60):
        silence.pause(float(second))

    told = looks(silence, *["b"] * 11, start_s=60)

    assert told == [False] * 9 + [True, True]


def test_it_stays_too_long_until_a_word(silence: Silence) -> None:
    """Whoever looks again is told again."""
    told = looks(silence, "a", "b", *["b"] * 20, "c", "c")

    assert told[11:22] == [True] * 11
    assert told[22:] == [False, False]
    assert all(later >= earlier for earlier, later in pairwise(told[:22]))


def test_forgetting_disarms(silence: Silence) -> None:
    """A successor has the whole time again."""
    looks(silence, "a", "b", *["b"] * 9)
    silence.forget()

    assert not any(looks(silence, *["b"] * 10, start_s=11))
