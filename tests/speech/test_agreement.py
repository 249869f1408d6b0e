"""LocalAgreement-2: what is committed, and what may still change."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.speech.hearing import Word
from sibyl.speech.whisper.agreement import Agreement


def spoken(text: str, *, begin_s: float = 0.0, word_s: float = 0.5) -> list[Word]:
    """Return words of half a second each."""
    return [
        Word(text=" " + word, start_s=begin_s + word_s * index, end_s=begin_s + word_s * (index + 1))
        for index, word in enumerate(text.split())
    ]


def text_of(words: Sequence[Word]) -> str:
    """Return the text of words."""
    return "".join(word.text for word in words).strip()


def test_a_word_is_committed_when_two_transcripts_in_a_row_agree() -> None:
    """The first one commits nothing; a word that changed is not committed, nor is what follows it."""
    agreement = Agreement()

    agreement.hear(spoken("the river tuns"))
    first = text_of(agreement.committed)
    agreement.hear(spoken("the river turns before"))

    assert first == ""
    assert text_of(agreement.committed) == "the river"
    assert text_of(agreement.tentative) == "turns before"


def test_case_and_punctuation_do_not_keep_a_word_from_being_committed() -> None:
    """They settle last; the later spelling is taken."""
    agreement = Agreement()

    agreement.hear(spoken("the river"))
    agreement.hear(spoken("The river, turns"))

    assert text_of(agreement.committed) == "The river,"


def test_a_committed_word_stays_whatever_later_transcripts_say() -> None:
    """A model that changes its mind about settled audio is not heard; what it adds behind is."""
    agreement = Agreement()
    agreement.hear(spoken("the river"))
    agreement.hear(spoken("the river"))

    agreement.hear(spoken("a liver turns"))
    agreement.hear(spoken("a liver turns"))

    assert text_of(agreement.committed) == "the river turns"


def test_words_that_are_said_twice_are_kept() -> None:
    """Repeats of the speaker are no overlap."""
    agreement = Agreement()

    agreement.hear(spoken("no no"))
    agreement.hear(spoken("no no no"))
    agreement.hear(spoken("no no no no"))

    assert text_of(agreement.committed) == "no no no"
    assert text_of(agreement.tentative) == "no"


@pytest.mark.parametrize("late_s", [-0.4, 0.4])
def test_times_that_move_lose_no_word_and_double_none(late_s: float) -> None:
    """As long as the transcript begins with what was committed, its words are counted, not timed."""
    agreement = Agreement()
    agreement.hear(spoken("no no", begin_s=1.0))
    agreement.hear(spoken("no no", begin_s=1.0))

    agreement.hear(spoken("no no no", begin_s=1.0 + late_s))

    assert text_of(agreement.committed + agreement.tentative) == "no no no"


def test_words_at_a_seam_that_are_heard_again_are_dropped() -> None:
    """After the audio was cut, the transcript may begin with the last words again, a little later."""
    agreement = Agreement()
    agreement.hear(spoken("the river turns"))
    agreement.hear(spoken("the river turns"))
    gone = agreement.forget()

    agreement.hear(spoken("river turns before", begin_s=1.1, word_s=0.3))

    assert text_of(gone) == "the river turns"
    assert text_of(agreement.tentative) == "before"


def test_what_is_left_is_committed_at_the_end() -> None:
    """The last words need no second transcript, up to the moment that is given."""
    agreement = Agreement()
    agreement.hear(spoken("one two three four"))

    agreement.commit(1.0)
    half = text_of(agreement.committed)
    agreement.commit()

    assert half == "one two"
    assert text_of(agreement.committed) == "one two three four"
    assert agreement.tentative == ()


WORDS = st.lists(st.sampled_from("a b c d".split()), max_size=12)
TIMES = st.floats(0, 20, allow_nan=False)


@st.composite
def transcripts(draw: st.DrawFn) -> list[Word]:
    """Any words, at any times that do not go back."""
    words = draw(WORDS)
    edges = sorted(draw(st.lists(TIMES, min_size=2 * len(words), max_size=2 * len(words))))
    return [
        Word(text=" " + word, start_s=edges[2 * index], end_s=edges[2 * index + 1]) for index, word in enumerate(words)
    ]


@given(st.lists(st.tuples(transcripts(), st.booleans()), max_size=8))
def test_whatever_is_heard_committed_text_only_grows(heard: list[tuple[list[Word], bool]]) -> None:
    """No transcript, and no cut, changes a committed word or its times, and times never go back."""
    agreement = Agreement()
    told: tuple[Word, ...] = ()
    before: tuple[Word, ...] = ()

    for transcript, cut in heard:
        agreement.hear(transcript)
        if cut:
            told += agreement.forget(10.0)
        now = told + agreement.committed
        assert now[: len(before)] == before
        before = now
        everything = now + agreement.tentative
        edges = [edge for word in everything for edge in (word.start_s, word.end_s)]
        assert edges == sorted(edges)


@given(
    said=st.lists(st.sampled_from("no yes well so".split()), min_size=1, max_size=30),
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=12),
)
def test_a_growing_recording_gives_each_word_once(said: list[str], steps: list[tuple[int, int]]) -> None:
    """Transcripts that are right up to the last words, which are guesses, give what was said, also with repeats."""
    agreement = Agreement()
    truth = " ".join(said)
    heard = 0

    for number, (more, guessed) in enumerate(steps):
        heard = min(heard + more, len(said))
        guess = ["mumble", "murmur", "mutter"][:guessed] if heard < len(said) else []
        sure = max(0, heard - guessed)
        agreement.hear(spoken(" ".join(said[:sure] + [f"{word}{number}" for word in guess])))
        committed = text_of(agreement.committed)
        assert truth.startswith(committed) and "m" not in committed
    agreement.hear(spoken(truth))
    agreement.commit()

    assert text_of(agreement.committed) == truth


@given(
    cuts=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    again=st.integers(0, 3),
    late_s=st.floats(-0.1, 0.1),
)
def test_concatenated_passages_repeat_nothing(cuts: list[int], again: int, late_s: float) -> None:
    """After each cut, up to three words are heard again and times are off by 0.1 s; the whole has no word twice."""
    said = [f"word{index}" for index in range(sum(cuts))]
    agreement = Agreement()
    told: list[Word] = []
    at = 0

    for count in cuts:
        begin = max(0, at - again)
        passage = spoken(" ".join(said[begin : at + count]), begin_s=max(0.0, 0.5 * begin + late_s))
        agreement.hear(passage)
        agreement.hear(passage)
        told += agreement.forget()
        at += count

    assert text_of(told) == " ".join(said)
