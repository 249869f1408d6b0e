"""The recogniser of the tests: every sample counts."""

import threading

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import RecogniserFailed, TaskCancelled
from sibyl.speech.hearing import Final, Flushed, Listening, Partial, Processed, SpeechStarted, UtteranceEnd
from sibyl.speech.inlet import AudioInlet, Flush
from sibyl.speech.recogniser import RecognitionRequest
from sibyl.speech.scripted import ScriptedRecogniser
from tests.speech.hearing import RATE_HZ, block, blocks, hear, text_of


def test_words_are_the_values_of_the_samples_and_silence_ends_an_utterance() -> None:
    """With their times."""
    heard = hear(ScriptedRecogniser(), [blocks(0, 1, 2, 0, 0, 0, 3)])

    finals = [item for item in heard if isinstance(item, Final)]
    assert [(final.text, final.start_s, round(final.end_s, 6)) for final in finals] == [
        ("w1 w2", 0.1, 0.3),
        ("w3", 0.6, 0.7),
    ]
    assert isinstance(heard[0], Listening)
    assert sum(isinstance(item, SpeechStarted) for item in heard) == 2
    assert sum(isinstance(item, UtteranceEnd) for item in heard) == 2
    assert heard[-1] == Processed(audio_s=0.7)


@pytest.mark.parametrize("cut", [2, 4, 100])
def test_a_lost_sample_shows(cut: int) -> None:
    """As a word that nobody said, or a missing one."""
    audio = blocks(300, 301, 302)

    assert text_of(hear(ScriptedRecogniser(), [audio])) == "w300 w301 w302"
    assert text_of(hear(ScriptedRecogniser(), [audio[:cut] + audio[2 * cut :]])) != "w300 w301 w302"


def test_the_size_of_the_pieces_changes_nothing() -> None:
    """Nor does a rest that is no whole block get lost."""
    audio = blocks(1, 2, 3) + block(4, samples=100)
    pieces = [audio[start : start + 100] for start in range(0, len(audio), 100)]

    assert text_of(hear(ScriptedRecogniser(), pieces)) == "w1 w2 w3 w4"


def test_a_flush_ends_the_utterance_and_is_answered() -> None:
    """After the final."""
    heard = hear(ScriptedRecogniser(), [blocks(1), Flush(7), blocks(2)])

    flushed = heard.index(Flushed(number=7))
    assert text_of(heard[:flushed]) == "w1"
    assert text_of(heard[flushed:]) == "w2"


def test_partials_are_left_out_where_nobody_wants_them() -> None:
    """They cost a hop each."""
    assert not any(isinstance(item, Partial) for item in hear(ScriptedRecogniser(), [blocks(1, 2)], interim=False))


def test_it_fails_and_hangs_as_the_audio_says() -> None:
    """A hang ends with the abort."""
    with pytest.raises(RecogniserFailed):
        hear(ScriptedRecogniser(), [blocks(1, -1)])
    abort = Abort()
    inlet = AudioInlet(abort)
    inlet.put(blocks(-3))
    threading.Timer(0.05, abort.request, [TaskCancelled()]).start()
    with pytest.raises(TaskCancelled):
        ScriptedRecogniser().recognise(
            RecognitionRequest(sample_rate_hz=RATE_HZ, abort=abort), inlet, lambda heard: None
        )
