"""Which frames are decoded."""

from hypothesis import given
from hypothesis import strategies as st

from sibyl.speech.pocketsphinx.gate import KEPT_FRAMES, SPEECH_FRAMES, WINDOW_FRAMES, FrameGate

SILENCE_FRAMES = 10


def frame(number: int) -> bytes:
    """Return a frame that can be told from others."""
    return number.to_bytes(4, "big")


def passed(gate: FrameGate, sounds: str) -> list[int]:
    """Return the numbers of the frames that come out; 's' sounds like speech, '.' does not."""
    out = [each for number, sound in enumerate(sounds) for each in gate.take(frame(number), sound == "s")]
    return [int.from_bytes(each, "big") for each in out]


def test_speech_comes_out_with_what_was_before_it_and_the_silence_behind_it_stays() -> None:
    """The begin of a word is soft, and a decoder needs no silence."""
    gate = FrameGate(silence_frames=SILENCE_FRAMES)

    out = passed(gate, "." * 20 + "s" * 30 + "." * 20)

    first = 20 + SPEECH_FRAMES - WINDOW_FRAMES
    assert out == list(range(first, 50 + KEPT_FRAMES))
    assert not gate.speaking


def test_a_pause_inside_an_utterance_comes_out_once_speech_goes_on() -> None:
    """In one piece with it."""
    gate = FrameGate(silence_frames=SILENCE_FRAMES)

    out = passed(gate, "s" * 12 + "." * (SILENCE_FRAMES - 1) + "s" * 5)

    assert out == list(range(12 + SILENCE_FRAMES - 1 + 5))
    assert gate.speaking


def test_a_click_is_no_speech() -> None:
    """Nor are many of them."""
    gate = FrameGate(silence_frames=SILENCE_FRAMES)

    assert passed(gate, "..ss....ss....sss..." * 5) == []


def test_a_click_in_a_long_silence_does_not_prolong_the_utterance() -> None:
    """Whoever asked for a second of silence gets his end after it."""
    gate = FrameGate(silence_frames=33)

    passed(gate, "s" * 20 + "." * 10 + "s" + "." * 30)

    assert not gate.speaking


def test_a_short_last_word_is_not_lost_when_nothing_follows() -> None:
    """Somebody said "yes" and ended the stream."""
    gate = FrameGate(silence_frames=SILENCE_FRAMES)
    passed(gate, "....ssss")

    assert [int.from_bytes(each, "big") for each in gate.stop()] == list(range(8))
    assert gate.stop() == []


def test_after_a_cut_the_very_next_speech_is_an_utterance() -> None:
    """It may be the second half of a word; after silence the usual holds again."""
    gate = FrameGate(silence_frames=SILENCE_FRAMES)
    passed(gate, "s" * 20)
    gate.cut()

    assert passed(gate, "..s") == [0, 1, 2]

    gate.cut()
    passed(gate, "." * SILENCE_FRAMES)
    assert passed(gate, "s") == []


@given(sounds=st.text("s.", max_size=200), silence_frames=st.integers(1, 40), cuts=st.sets(st.integers(0, 200)))
def test_frames_come_out_in_order_and_once_and_utterances_are_in_one_piece(
    sounds: str, silence_frames: int, cuts: set[int]
) -> None:
    """Whatever is said; and none that sounds like speech is left out of an utterance."""
    gate = FrameGate(silence_frames=silence_frames)
    out: list[int] = []
    utterances: list[list[int]] = []

    for number, sound in enumerate(sounds):
        spoke = gate.speaking
        new = [int.from_bytes(each, "big") for each in gate.take(frame(number), sound == "s")]
        if gate.speaking and not spoke:
            utterances.append([])
        if new:
            utterances[-1] += new
        if gate.speaking and number in cuts:
            utterances[-1] += [int.from_bytes(each, "big") for each in gate.cut()]
        out = [each for utterance in utterances for each in utterance]

    assert out == sorted(set(out))
    for utterance in utterances:
        assert utterance == list(range(utterance[0], utterance[-1] + 1))
