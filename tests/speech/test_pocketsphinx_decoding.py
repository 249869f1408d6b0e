"""What a decoder learned of one session never shows in another; PocketSphinx itself, in this process."""

from collections.abc import Iterator

import pocketsphinx
import pytest

from sibyl.speech.pocketsphinx.decoding import OPENING_FRAMES, Decoder, Decoding, Spoken, prepared
from sibyl.speech.pocketsphinx.messages import Voice
from tests import human_speech
from tests.human_speech import Recording, for_tests

# The library calls start_stream unnecessary. It is what resets the noise: without it, the first test here fails.
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore:start_stream:DeprecationWarning")]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """The decoder as a child process has it."""
    return prepared(pocketsphinx.Decoder(loglevel="FATAL", fwdflat=False))


@pytest.fixture(scope="module")
def cards() -> list[Recording]:
    """Five calls of playing cards."""
    return for_tests(human_speech.cards)


def frames_of(pcm: bytes) -> Iterator[bytes]:
    """Return audio in frames of 30 ms."""
    return (pcm[start : start + 960] for start in range(0, len(pcm), 960))


def heard(decoding: Decoding, recording: Recording) -> list[Spoken]:
    """Decode a recording as one utterance."""
    decoding.begin()
    for frame in frames_of(recording.pcm):
        decoding.put([frame])
    return decoding.end()


def test_neither_mean_nor_noise_is_left_from_another_session(decoder: Decoder, cards: list[Recording]) -> None:
    """To the last digit; the noise that is subtracted shows in the mean."""
    alone = Decoding(decoder, None)
    words = heard(alone, cards[0])

    heard(Decoding(decoder, None), cards[3])
    after_another = Decoding(decoder, None)

    assert heard(after_another, cards[0]) == words
    assert after_another.voice == alone.voice
    assert words


def test_another_decoder_goes_on_with_a_voice(decoder: Decoder, cards: list[Recording]) -> None:
    """It hears the second utterance as the first one would have, and learns the same from it."""
    one = Decoding(decoder, None)
    heard(one, cards[0])
    voice = one.voice
    words = heard(one, cards[3])

    other = Decoding(decoder, voice)

    assert heard(other, cards[3]) == words
    assert other.voice == one.voice != voice


def test_an_utterance_that_is_forsaken_leaves_nothing(decoder: Decoder, cards: list[Recording]) -> None:
    """A session may end in the middle of a word."""
    alone = heard(Decoding(decoder, None), cards[0])
    forsaken = Decoding(decoder, None)
    forsaken.begin()
    forsaken.put(frames_of(cards[3].pcm))
    forsaken.abandon()

    assert heard(Decoding(decoder, None), cards[0]) == alone


def test_noise_says_nothing_of_the_speaker(decoder: Decoder) -> None:
    """An utterance without a word leaves the voice as it was, whether it was known well or not."""
    for frames in (0.0, 100.0, float(OPENING_FRAMES)):
        voice = Voice(means=(48.0, -2.0, *(0.0,) * 11), frames=frames)
        decoding = Decoding(decoder, voice)
        decoding.begin()
        decoding.put([bytes(960)] * 12)
        assert decoding.end() == []
        assert decoding.voice == voice
