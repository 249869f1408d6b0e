"""The audio of one piece of speech that Whisper still transcribes, and the words in it.

It grows with the speech. Beyond 15 s it is cut at the end of a segment of which all words are committed, and at 28 s,
before Whisper's window of 30 s is full, also where they are not. What is cut off is told in a final, and from then on
it is the prompt of what follows; text whose audio is still here must not be, or Whisper leaves it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sibyl.speech.hearing import Word
from sibyl.speech.whisper.agreement import Agreement

Samples = npt.NDArray[np.float32]  #: mono, -1 to 1, at ``RATE_HZ``

RATE_HZ = 16_000
CUT_S = 15.0  # cut here if there is a good place
MUST_CUT_S = 28.0  # cut here in any case
UNSURE_S = 1.0  # the last word that was heard may go on
PROMPT_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """What Whisper hears in a piece of audio. Times are the session's."""

    words: tuple[Word, ...]
    segment_ends_s: tuple[float, ...]


class WhisperBuffer:
    """One piece of speech, from its first sample that was not told in a final."""

    def __init__(self, start: int) -> None:
        """Begin with the session's sample ``start``."""
        self.start = start  #: the first sample that is here
        self.end = start  #: the one after the last
        self.decoded = start  #: up to where the last hypothesis reached
        self.prompt = ""
        self._pieces: list[Samples] = []
        self._agreement = Agreement()

    @property
    def full(self) -> bool:
        """Whether it must be transcribed now, so that it can be cut."""
        return self.end - self.start >= MUST_CUT_S * RATE_HZ

    @property
    def words(self) -> tuple[Word, ...]:
        """What was heard in it: committed, then tentative."""
        return self._agreement.committed + self._agreement.tentative

    def push(self, samples: Samples) -> None:
        """Take the next samples."""
        self._pieces.append(samples)
        self.end += len(samples)

    def audio(self, until: int) -> Samples:
        """Return the samples to transcribe, up to the session's sample ``until``."""
        whole = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)
        self._pieces = [whole]
        return whole[: until - self.start]

    def hear(self, hypothesis: Hypothesis, until: int) -> tuple[Word, ...]:
        """Take what was heard in the samples up to ``until``; return the words that were cut off and are final."""
        self.decoded = until
        self._agreement.hear(hypothesis.words)
        length_s = (until - self.start) / RATE_HZ
        if length_s < CUT_S:
            return ()
        committed = self._agreement.committed
        settled_s = committed[-1].end_s if committed else 0.0
        cut_s = max((end_s for end_s in hypothesis.segment_ends_s if end_s <= settled_s), default=None)
        if length_s >= MUST_CUT_S and (cut_s is None or until / RATE_HZ - cut_s > CUT_S):
            cut_s = self._hard_cut(hypothesis.segment_ends_s, until / RATE_HZ)
            self._agreement.commit(cut_s)
        return () if cut_s is None else self._cut(cut_s)

    def finish(self) -> tuple[Word, ...]:
        """Return all words that are left as final ones; what is pushed from now on is new speech."""
        self._agreement.commit()
        words = self._agreement.forget()
        self._remember(words)
        self.start = self.decoded = self.end
        self._pieces = []
        # None of these words can be heard again: whoever repeats them is told again.
        self._agreement = Agreement(after_s=words[-1].end_s if words else 0.0)
        return words

    def _hard_cut(self, segment_ends_s: Sequence[float], end_s: float) -> float:
        """Return the best place where nothing is settled: a segment's end, else a word's, else the end of the audio."""
        word_ends_s = [word.end_s for word in self.words]
        for ends_s in (segment_ends_s, word_ends_s):
            good = [at_s for at_s in ends_s if self.start / RATE_HZ < at_s <= end_s - UNSURE_S]
            if good:
                return max(good)
        return end_s

    def _cut(self, at_s: float) -> tuple[Word, ...]:
        words = self._agreement.forget(at_s)
        self._remember(words)
        audio = self.audio(self.end)
        at = min(max(round(at_s * RATE_HZ), self.start), self.end)
        self._pieces = [audio[at - self.start :]]
        self.start = at
        return words

    def _remember(self, words: Sequence[Word]) -> None:
        self.prompt = (self.prompt + "".join(word.text for word in words))[-PROMPT_CHARACTERS:]
