"""LocalAgreement-2: which words of a recording that still grows are settled.

The growing recording is transcribed again and again. A word is committed as soon as two transcripts in a row agree on
it and on all words before it, and a committed word never changes: whatever later transcripts say about its time is not
heard. A word's ``text`` carries the space before it, so that texts are joined without one.

Macháček, Dabre, Bojar: Turning Whisper into Real-Time Transcription System (2023) describes the policy.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from sibyl.speech.hearing import Word

OVERLAP_WORDS = 5  # so many words at a seam may be heard twice
OVERLAP_S = 0.3  # and only if they end so soon after the last committed one: else somebody said them again


class Agreement:
    """The words of one recording, in order: the committed ones, then the tentative ones."""

    def __init__(self, *, after_s: float = 0.0) -> None:
        """Begin with no words.

        Args:
            after_s: no word is earlier.
        """
        self._after_s = after_s
        self._forgotten: tuple[Word, ...] = ()  # the last few committed words whose audio is gone
        self._committed: tuple[Word, ...] = ()
        self._tentative: tuple[Word, ...] = ()

    @property
    def committed(self) -> tuple[Word, ...]:
        """Words that will not change and whose audio is still transcribed."""
        return self._committed

    @property
    def tentative(self) -> tuple[Word, ...]:
        """What follows them, as it seems now."""
        return self._tentative

    def hear(self, transcript: Sequence[Word]) -> None:
        """Take the next transcript of all audio that was not forgotten."""
        rest = self._unsaid(transcript)
        pairs = zip(self._tentative, rest, strict=False)
        agreed = sum(1 for _ in takewhile(lambda pair: _key(pair[0]) == _key(pair[1]), pairs))
        self._tentative = rest
        self._commit(agreed)

    def commit(self, until_s: float = float("inf")) -> None:
        """Commit the tentative words that end by then without waiting for a second transcript."""
        self._commit(sum(1 for _ in takewhile(lambda word: word.end_s <= until_s, self._tentative)))

    def forget(self, until_s: float = float("inf")) -> tuple[Word, ...]:
        """Return the committed words that end by then; their audio will not be transcribed any more."""
        gone = tuple(takewhile(lambda word: word.end_s <= until_s, self._committed))
        self._committed = self._committed[len(gone) :]
        self._forgotten = (*self._forgotten, *gone)[-OVERLAP_WORDS:]
        return gone

    def _commit(self, count: int) -> None:
        self._committed += self._tentative[:count]
        self._tentative = self._tentative[count:]

    def _unsaid(self, transcript: Sequence[Word]) -> tuple[Word, ...]:
        """Return the words of a transcript that come after the committed ones, with times that do not go back."""
        said = (*self._forgotten, *self._committed)
        after_s = said[-1].end_s if said else self._after_s
        common = min(len(self._committed), len(transcript))
        if common and _keys(transcript[:common]) == _keys(self._committed[:common]):
            rest = tuple(transcript[common:])  # as nearly always; repeated words are no trouble then
        elif said:
            # It begins in another way than what was committed, or where the audio was cut: go by the times. They may
            # be off by some tenths of a second, so look also for words that are heard twice.
            rest = tuple(word for word in transcript if (word.start_s + word.end_s) / 2 > after_s)
            rest = rest[_overlap(said, rest) :]
        else:
            rest = tuple(transcript)
        return _in_order(rest, after_s)


def _overlap(said: Sequence[Word], rest: Sequence[Word]) -> int:
    """Return how many words at the begin of ``rest`` are the last ones of ``said`` again."""
    soon = sum(1 for _ in takewhile(lambda word: word.end_s <= said[-1].end_s + OVERLAP_S, rest))
    most = min(OVERLAP_WORDS, len(said), soon)
    return next((n for n in range(most, 0, -1) if _keys(said[-n:]) == _keys(rest[:n])), 0)


def _in_order(words: Sequence[Word], after_s: float) -> tuple[Word, ...]:
    ordered = []
    for word in words:
        start_s = max(word.start_s, after_s)
        after_s = max(word.end_s, start_s)
        ordered.append(replace(word, start_s=start_s, end_s=after_s))
    return tuple(ordered)


def _keys(words: Sequence[Word]) -> list[str]:
    return [_key(word) for word in words]


def _key(word: Word) -> str:
    """Return what two spellings of one word have in common: case and punctuation at its ends settle last."""
    text = word.text.strip().casefold()
    letters = [index for index, letter in enumerate(text) if unicodedata.category(letter)[0] not in "PZ"]
    return text[letters[0] : letters[-1] + 1] if letters else text
