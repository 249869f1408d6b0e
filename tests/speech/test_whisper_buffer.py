"""The audio that is still transcribed: where it is cut, what becomes final, what becomes the prompt."""

import numpy as np

from sibyl.speech.hearing import Word
from sibyl.speech.whisper.buffer import (
    CUT_S,
    MUST_CUT_S,
    PROMPT_CHARACTERS,
    RATE_HZ,
    Hypothesis,
    Samples,
    WhisperBuffer,
)


def ramp(begin_s: float, end_s: float) -> Samples:
    """Return samples that say which second they are of."""
    return (np.arange(round(begin_s * RATE_HZ), round(end_s * RATE_HZ)) / RATE_HZ).astype(np.float32)


def hypothesis(first: int, last: int, *ends_s: float) -> Hypothesis:
    """Return a word for each second from ``first`` to ``last``, and segments that end at these times."""
    words = tuple(Word(text=f" w{at}", start_s=float(at), end_s=at + 1.0) for at in range(first, last))
    return Hypothesis(words=words, segment_ends_s=ends_s)


def hear(buffer: WhisperBuffer, heard: Hypothesis) -> str:
    """Let a buffer hear that all its audio says this, and return what it says is final."""
    return "".join(word.text for word in buffer.hear(heard, buffer.end))


def filled(until_s: float, *, begin_s: float = 0.0) -> WhisperBuffer:
    """Return a buffer with the audio from ``begin_s`` on."""
    buffer = WhisperBuffer(round(begin_s * RATE_HZ))
    buffer.push(ramp(begin_s, until_s))
    return buffer


def test_a_short_buffer_is_not_cut() -> None:
    """Committed words stay revisable for partials, and their audio is kept."""
    buffer = filled(10.0)

    told = [hear(buffer, hypothesis(0, 10, 4.0, 8.0)) for _ in range(3)]

    assert told == ["", "", ""]
    assert len(buffer.audio(buffer.end)) == 10 * RATE_HZ
    assert buffer.prompt == ""


def test_a_long_buffer_is_cut_at_the_end_of_a_settled_segment() -> None:
    """Of three segments the second one is the last of which all words are committed; the audio goes on behind it."""
    buffer = filled(CUT_S + 1)
    hear(buffer, hypothesis(0, 13, 4.0, 9.0, 13.0))

    told = hear(buffer, Hypothesis(words=hypothesis(0, 12).words, segment_ends_s=(4.0, 9.0, 16.0)))

    assert told == " w0 w1 w2 w3 w4 w5 w6 w7 w8"
    assert buffer.prompt == told
    np.testing.assert_array_equal(buffer.audio(buffer.end), ramp(9.0, CUT_S + 1))
    assert [word.text for word in buffer.words] == [" w9", " w10", " w11"]


def test_a_full_buffer_is_cut_although_nothing_is_settled() -> None:
    """At the end of the last segment but one if there is one, as the last word may go on."""
    buffer = filled(MUST_CUT_S)
    assert buffer.full

    told = hear(buffer, hypothesis(0, 28, 12.0, 26.0, 28.0))

    assert told.split() == [f"w{at}" for at in range(26)]
    assert buffer.start == 26 * RATE_HZ
    assert not buffer.full


def test_a_full_buffer_of_one_segment_is_cut_behind_a_word() -> None:
    """There is no better place than the last word that surely has ended."""
    buffer = filled(MUST_CUT_S)

    told = hear(buffer, hypothesis(0, 28, 28.0))

    assert told.split() == [f"w{at}" for at in range(27)]
    assert [word.text for word in buffer.words] == [" w27"]


def test_a_full_buffer_without_words_is_thrown_away() -> None:
    """Else it would stay full for ever."""
    buffer = filled(MUST_CUT_S + 1, begin_s=1.0)

    assert hear(buffer, hypothesis(0, 0)) == ""
    assert len(buffer.audio(buffer.end)) == 0


def test_a_cut_far_in_front_does_not_leave_a_full_buffer() -> None:
    """What is settled ends at 2 s, and nothing behind it ever settles: the cut is made further on."""
    buffer = filled(MUST_CUT_S)
    buffer.hear(Hypothesis(words=hypothesis(0, 2).words, segment_ends_s=(2.0,)), 10 * RATE_HZ)

    told = hear(buffer, hypothesis(0, 28, 2.0, 26.5))

    assert told.split() == [f"w{at}" for at in range(26)]


def test_the_prompt_is_the_last_200_characters_that_are_final() -> None:
    """And never text whose audio is still here."""
    buffer = filled(MUST_CUT_S)
    hear(buffer, hypothesis(0, 28, 26.0))
    first = buffer.prompt

    buffer.push(ramp(28.0, 60.0))
    buffer.hear(hypothesis(26, 60), buffer.end)
    rest = "".join(word.text for word in buffer.finish())

    everything = "".join(f" w{at}" for at in range(60))
    assert first == "".join(f" w{at}" for at in range(26))
    assert buffer.prompt == everything[-PROMPT_CHARACTERS:]
    assert rest.split()[-1] == "w59"


def test_finishing_tells_the_rest_and_begins_anew_where_the_audio_stands() -> None:
    """What is pushed then is new speech, at its own time."""
    buffer = filled(3.0, begin_s=1.0)
    hear(buffer, hypothesis(1, 3))

    told = "".join(word.text for word in buffer.finish())
    buffer.push(ramp(3.0, 4.0))

    assert told == " w1 w2"
    assert buffer.start == buffer.decoded == 3 * RATE_HZ
    np.testing.assert_array_equal(buffer.audio(buffer.end), ramp(3.0, 4.0))


def test_words_that_are_repeated_after_a_flush_are_told_again() -> None:
    """Nothing of what was finished is heard again, so it cannot be an overlap; times still do not go back."""
    buffer = filled(2.0)
    yes = Word(text=" yes", start_s=1.7, end_s=1.9)
    hear(buffer, Hypothesis(words=(yes,), segment_ends_s=()))
    first = buffer.finish()
    buffer.push(ramp(2.0, 4.0))

    again = Word(text=" yes", start_s=1.85, end_s=2.1)
    hear(buffer, Hypothesis(words=(again,), segment_ends_s=()))

    assert first == (yes,)
    assert buffer.finish() == (Word(text=" yes", start_s=1.9, end_s=2.1),)
