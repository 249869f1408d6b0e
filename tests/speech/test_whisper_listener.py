"""When Whisper is asked and what is told, with a voice and a Whisper that the test programs: no library, no thread.

A sample is the number of its tenth of a second, or 0 for silence; the given Whisper says each tenth that it was handed
as a word, so whatever is lost, doubled or transcribed in vain shows in the text.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sibyl.speech.hearing import Final, Heard, Partial, SpeechStarted, UtteranceEnd, Word
from sibyl.speech.whisper.buffer import RATE_HZ, Hypothesis, Samples
from sibyl.speech.whisper.listener import Passage, WhisperListener
from sibyl.speech.whisper.voice_gate import FRAME

TENTH = RATE_HZ // 10
SILENCE_S = 0.5


class Fixture:
    """A listener, all that it told, and the passages that it had transcribed."""

    def __init__(self, *, interim: bool = True, words: bool = True, silence_s: float = SILENCE_S) -> None:
        self.told: list[Heard] = []
        self.passages: list[Passage] = []
        self.listener = WhisperListener(
            voiced=lambda samples: [float(np.any(frame)) for frame in samples.reshape(-1, FRAME)],
            transcribe=self._transcribe,
            tell=self.told.append,
            silence_s=silence_s,
            interim=interim,
            words=words,
        )

    def hear(self, samples: Samples, *, piece_s: float = 0.1) -> "Fixture":
        """Hand in audio, and let it look whenever it would, as somebody who listens live."""
        piece = round(piece_s * RATE_HZ)
        for begin in range(0, len(samples), piece):
            self.listener.hear(samples[begin : begin + piece])
            if self.listener.due:
                self.listener.look()
        return self

    @property
    def finals(self) -> list[Final]:
        return [heard for heard in self.told if isinstance(heard, Final)]

    @property
    def partials(self) -> list[Partial]:
        return [heard for heard in self.told if isinstance(heard, Partial)]

    @property
    def text(self) -> list[str]:
        return [word for final in self.finals for word in final.text.split()]

    def _transcribe(self, passage: Passage) -> Hypothesis:
        self.passages.append(passage)
        edges = np.flatnonzero(np.diff(passage.samples, prepend=-1, append=-1))
        words = [
            Word(
                text=f" t{passage.samples[begin]:.0f}",
                start_s=passage.start_s + float(begin) / RATE_HZ,
                end_s=passage.start_s + float(end) / RATE_HZ,
                confidence=0.5,
            )
            for begin, end in itertools.pairwise(edges)
            if passage.samples[begin] and end - begin > TENTH // 2
        ]
        ends_s = tuple(word.end_s for word in words if int(word.text[2:]) % 10 == 0)
        return Hypothesis(words=tuple(words), segment_ends_s=ends_s)


def speech(first: int, last: int) -> Samples:
    """Return the tenths of a second ``first`` to ``last``."""
    return np.repeat(np.arange(first, last + 1, dtype=np.float32), TENTH)


def silence(tenths: int) -> Samples:
    """Return silence."""
    return np.zeros(tenths * TENTH, np.float32)


def tenths(first: int, last: int) -> list[str]:
    """Return what is said in them."""
    return [f"t{number}" for number in range(first, last + 1)]


def test_silence_is_never_transcribed() -> None:
    """An hour's worth of nothing costs no passage, is told as nothing, and counts as processed."""
    fixture = Fixture()

    fixture.hear(silence(600), piece_s=1.0)
    fixture.listener.flush()
    fixture.listener.finish()

    assert fixture.passages == [] and fixture.told == []
    assert fixture.listener.processed_s > 59.9


def test_an_utterance_is_told_from_its_begin_to_its_end() -> None:
    """It began, partials, one final with the words' times in the session, its end; no audio but the speech's."""
    fixture = Fixture()

    fixture.hear(np.concatenate((silence(10), speech(1, 30), silence(10))))

    kinds = [type(heard) for heard in fixture.told]
    assert kinds[0] is SpeechStarted and kinds[-2:] == [Final, UtteranceEnd]
    assert kinds[1:-2] == [Partial] * len(fixture.partials) and len(fixture.partials) >= 3
    final = fixture.finals[0]
    assert final.text.split() == tenths(1, 30)
    assert (final.start_s, round(final.end_s, 6), final.confidence) == (1.0, 4.0, 0.5)
    assert [round(word.start_s, 6) for word in final.words] == [round(1 + 0.1 * index, 6) for index in range(30)]
    assert fixture.told[-1] == UtteranceEnd(last_word_end_s=final.end_s)
    assert all(0.65 <= passage.start_s <= 1.0 for passage in fixture.passages)


def test_a_partial_shows_what_is_committed_and_what_is_not() -> None:
    """Each shows all words since the last final; none is told twice in a row."""
    fixture = Fixture()

    fixture.hear(speech(1, 40))

    texts = [partial.text.split() for partial in fixture.partials]
    assert all(text == tenths(1, len(text)) for text in texts)
    assert [len(text) for text in texts] == sorted({len(text) for text in texts})


def test_a_pause_is_transcribed_once_and_its_end_needs_no_more() -> None:
    """The passage is computed while the silence lasts; when it has lasted long enough, the final is there at once."""
    fixture = Fixture()
    fixture.hear(np.concatenate((speech(1, 12), silence(3))))
    count = len(fixture.passages)

    fixture.hear(silence(4))

    assert fixture.passages[-1].samples[-1] == 0.0
    assert len(fixture.passages) == count
    assert [final.text.split() for final in fixture.finals] == [tenths(1, 12)]


def test_who_falls_behind_gets_fewer_partials_and_all_words() -> None:
    """Without a moment to look nothing is transcribed but for the finals, of which none waits for another."""
    fixture = Fixture()
    audio = np.concatenate((speech(1, 50), silence(8), speech(51, 80), silence(8)))

    fixture.listener.hear(audio)

    assert len(fixture.passages) == 2 and all(passage.urgent for passage in fixture.passages)
    assert fixture.partials == []
    assert fixture.text == tenths(1, 80)


def test_a_speaker_without_pause_gets_finals_and_never_a_full_window() -> None:
    """Two minutes in one breath: finals at the ends of segments, no passage of Whisper's 30 s, nothing lost."""
    fixture = Fixture()

    fixture.hear(np.concatenate((speech(1, 1200), silence(10))))

    assert fixture.text == tenths(1, 1200)
    assert len(fixture.finals) > 5
    assert max(len(passage.samples) for passage in fixture.passages) < 20 * RATE_HZ
    assert fixture.passages[-1].prompt.split()[-1] == f"t{fixture.finals[-2].text.split()[-1][1:]}"


def test_a_speaker_without_pause_who_is_far_behind_loses_nothing_either() -> None:
    """The same in one piece: it is transcribed when the buffer is full, before Whisper's window is."""
    fixture = Fixture()

    fixture.listener.hear(np.concatenate((speech(1, 1200), silence(10))))

    assert fixture.text == tenths(1, 1200)
    assert max(len(passage.samples) for passage in fixture.passages) < 29 * RATE_HZ


def test_a_flush_tells_all_and_the_speaker_goes_on() -> None:
    """No utterance ends by it, and no word is told twice; samples that are no whole frame are told as well."""
    fixture = Fixture()
    fixture.hear(speech(1, 20))

    fixture.listener.flush()
    first = fixture.text
    fixture.hear(np.concatenate((speech(21, 40), silence(10))))

    assert first == tenths(1, 20)
    assert fixture.text == tenths(1, 40)
    assert [type(heard) for heard in fixture.told].count(SpeechStarted) == 1
    assert [type(heard) for heard in fixture.told].count(UtteranceEnd) == 1
    assert fixture.finals[1].start_s == 2.0


def test_a_flush_in_a_pause_leaves_nothing_to_transcribe() -> None:
    """The end of the utterance is told without another final, and with the last word's time."""
    fixture = Fixture()
    fixture.hear(np.concatenate((speech(1, 12), silence(3))))
    fixture.listener.flush()
    count = len(fixture.passages)

    fixture.hear(silence(10))

    assert len(fixture.passages) == count
    assert fixture.told[-1] == UtteranceEnd(last_word_end_s=fixture.finals[-1].end_s)
    assert fixture.text == tenths(1, 12)


def test_audio_that_was_told_is_not_heard_again_as_the_begin_of_what_follows() -> None:
    """With a short endpointing the next utterance begins closer behind the last one than audio is added in front."""
    fixture = Fixture(silence_s=0.1)

    fixture.hear(np.concatenate((speech(1, 10), silence(2), speech(11, 20), silence(5))))

    assert [final.text.split() for final in fixture.finals] == [tenths(1, 10), tenths(11, 20)]


def test_the_end_of_the_audio_ends_the_utterance() -> None:
    """In the middle of a word: what was said until then is told."""
    fixture = Fixture()

    fixture.hear(speech(1, 17))
    fixture.listener.finish()

    assert fixture.text == tenths(1, 17)
    assert isinstance(fixture.told[-1], UtteranceEnd)


def test_speech_without_words_ends_as_well() -> None:
    """Whisper heard nothing in it: no final, and the end of the utterance is where the voice ended."""
    fixture = Fixture()
    nothing = np.concatenate((np.tile([1.0, 2.0], 8 * TENTH).astype(np.float32), silence(10)))

    fixture.hear(nothing)

    kinds: list[type[Heard]] = [SpeechStarted, UtteranceEnd]
    assert [type(heard) for heard in fixture.told] == kinds
    end = fixture.told[-1]
    assert isinstance(end, UtteranceEnd) and abs(end.last_word_end_s - 1.6) < 0.05


def test_without_interim_results_there_are_none_and_the_pace_is_still_told() -> None:
    """A client that sends as fast as the acks allow must not wait for one that never comes."""
    fixture = Fixture(interim=False, words=False)

    fixture.hear(speech(1, 100))

    assert fixture.partials == []
    assert fixture.listener.processed_s > 7.0
    assert len(fixture.passages) <= 5
    fixture.listener.finish()
    assert fixture.finals[0].words == () and fixture.text == tenths(1, 100)


def test_what_is_processed_never_runs_ahead_of_what_was_transcribed() -> None:
    """While somebody speaks, audio counts when it was in a passage."""
    fixture = Fixture()

    fixture.listener.hear(np.concatenate((silence(10), speech(1, 20))))
    behind = fixture.listener.processed_s
    fixture.listener.look()

    assert behind <= 1.0
    assert fixture.listener.processed_s > 2.9


PLAN = st.lists(st.tuples(st.integers(4, 60), st.integers(1, 12)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    plan=PLAN,
    silence_s=st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    sizes=st.lists(st.integers(999, 40_000), min_size=1, max_size=8),
    flushes=st.sets(st.integers(0, 30)),
)
def test_no_word_is_lost_or_told_twice_however_the_audio_comes(
    plan: Sequence[tuple[int, int]], silence_s: float, sizes: Sequence[int], flushes: set[int]
) -> None:
    """Any speech and silence, in any pieces, with flushes where nobody speaks: the finals are what was said."""
    fixture = Fixture(silence_s=silence_s)
    parts, number = [], 0
    for spoken, silent in plan:
        parts += [speech(number + 1, number + spoken), silence(silent)]
        number += spoken
    audio = np.concatenate(parts)
    size = itertools.cycle(sizes)
    at = piece = 0

    while at < len(audio):
        end = min(len(audio), at + next(size))
        fixture.listener.hear(audio[at:end])
        if fixture.listener.due:
            fixture.listener.look()
        if piece in flushes and not audio[max(0, end - TENTH) : end].any():
            fixture.listener.flush()
        at, piece = end, piece + 1
    fixture.listener.finish()

    assert fixture.text == tenths(1, number)
    order = [type(heard) for heard in fixture.told if isinstance(heard, SpeechStarted | UtteranceEnd)]
    assert order[0::2] == [SpeechStarted] * len(order[0::2])
    assert order[1::2] == [UtteranceEnd] * len(order[0::2])
    edges = [edge for final in fixture.finals for word in final.words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
