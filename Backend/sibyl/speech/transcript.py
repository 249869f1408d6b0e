"""From what a recogniser hears to the messages that tell it: utterances are numbered, each has at most one final.

Whatever a recogniser leaves out, a client sees ``speech_started``, partials, finals, ``utterance_end`` in this order,
and no partial of a number after its final. Once the audio has ended all further finals are kept back and told as one.
"""

from typing import Any

from sibyl.speech.hearing import Final, Flushed, Heard, Listening, Partial, Processed, SpeechStarted, UtteranceEnd
from sibyl.speech.messages import joined, said, seconds, timestamp
from sibyl.speech.outbox import Outbox
from sibyl.speech.tally import Tally
from sibyl.wire.speech import SpeechConfig

QUIET_S = 1.0  # before the begin of an utterance is noticed, it may have gone on for so long
NO_PARTIALS_S = 6.0  # with so much audio waiting, only finals are told


class Transcript:
    """What one session heard."""

    def __init__(self, outbox: Outbox, tally: Tally) -> None:
        self.config = SpeechConfig()
        self.audio_ended = False  #: finals are kept back from now on
        self._outbox = outbox
        self._tally = tally
        self._utt = 1  # number of the next final
        self._speaking = False
        self._told_s: float | None = None  # the end of the last final of this utterance
        self._tail: list[Final] = []
        self._flushes: dict[int, tuple[str | int | None, float]] = {}  # number: its id, where it stands in the audio
        self._flushed = 0

    def take(self, heard: Heard, utc_s: float) -> None:
        """Tell something heard at this moment, in seconds since the Unix epoch."""
        match heard:
            case SpeechStarted():
                self._starts(heard.at_s, utc_s)
            case Partial():
                self._starts(heard.start_s, utc_s)
                if self.config.interim and not self.audio_ended and self._tally.lag_s <= NO_PARTIALS_S:
                    self._tally.partials += 1
                    self._put("partial", utt=self._utt, **said(heard, words=self.config.words))
            case Final():
                self._starts(heard.start_s, utc_s)
                if self.audio_ended:
                    self._tail.append(heard)
                else:
                    self._final(heard)
            case UtteranceEnd():
                if self._speaking and not self.audio_ended:  # the last one comes behind the last final
                    self._ends(heard.last_word_end_s, utc_s)
            case Processed():
                self._tally.processed_s = max(self._tally.processed_s, heard.audio_s)
                if not self._speaking:
                    self._tally.told(self._tally.processed_s - QUIET_S)
            case Flushed():
                if not self._tail:  # else it is answered behind them
                    self._finalized(heard.number)
            case Listening():
                pass

    @property
    def unanswered(self) -> int:
        """How many flushes wait for their answer."""
        return len(self._flushes)

    def flush(self, id: str | int | None) -> int:
        """Return the number of a new flush, whose ``Flushed`` will be told with this id."""
        self._flushed += 1
        self._flushes[self._flushed] = (id, self._tally.received_s)
        return self._flushed

    def finish(self, utc_s: float, *, whole: bool) -> None:
        """Tell what is left: one final, the end of the utterance, and, if all was heard, answer the flushes."""
        if self._tail:
            self._final(joined(self._tail))
        if self._speaking:
            self._ends(self._tally.processed_s if self._told_s is None else self._told_s, utc_s)
        self._tail.clear()
        for number in tuple(self._flushes) if whole else ():
            self._finalized(number)

    def _starts(self, at_s: float, utc_s: float) -> None:
        if not self._speaking:
            self._speaking, self._told_s = True, None
            self._put("speech_started", utt=self._utt, t=seconds(at_s), timestamp=timestamp(utc_s))

    def _final(self, heard: Final) -> None:
        self._tally.finals += 1
        self._tally.speech_s += max(0.0, heard.end_s - heard.start_s)
        self._tally.told(heard.end_s)
        asked = {"from_finalize": True} if self._flushes else {}
        language = heard.language or self.config.language
        self._put("final", utt=self._utt, **said(heard, words=self.config.words), language=language, **asked)
        self._utt += 1
        self._told_s = heard.end_s

    def _ends(self, last_word_end_s: float, utc_s: float) -> None:
        self._speaking = False
        self._tally.told(last_word_end_s)
        if self._told_s is None:  # only noise: the number is used up
            self._utt += 1
        end = seconds(last_word_end_s)
        self._put("utterance_end", utt=self._utt - 1, last_word_end=end, timestamp=timestamp(utc_s))

    def _finalized(self, number: int) -> None:
        if number in self._flushes:
            id, at_s = self._flushes.pop(number)
            if not self._speaking:  # else the last final says how far it is
                self._tally.told(min(at_s, self._tally.processed_s))
            self._put("finalized", id=id)

    def _put(self, type: str, **fields: Any) -> None:
        self._outbox.put({"type": type, **fields})
