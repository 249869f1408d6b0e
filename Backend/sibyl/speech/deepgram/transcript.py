"""Deepgram's messages as things heard, on the clock of the session. Pure: messages and times in, things heard out.

It outlives connections: each has a clock of its own, which begins where the audio was sent again from. It promises
that no final is told twice, that each utterance begins and ends once, and that a message it cannot read is counted
and changes nothing. It knows neither the SDK (any object with the attributes of its messages will do) nor threads.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sibyl.speech.hearing import Final, Flushed, Heard, Partial, Processed, SpeechStarted, UtteranceEnd, Word

UTTERANCE_END_S = 1.0  # of silence after the last word; the least that Deepgram takes
QUIET_S = 2.0  # a word that is not told so long after it was decoded was none
TOLERANCE_S = 0.02  # Deepgram rounds its times


@dataclass(slots=True, kw_only=True)
class _Flush:
    number: int
    at_s: float  # where it stands in the audio
    due_s: float  # when it is answered without Deepgram's word


class Transcript:
    """All that was told in one session."""

    def __init__(self, *, interim: bool, words: bool, flush_s: float) -> None:
        """Begin with nothing.

        Args:
            interim: whether partials are told.
            words: whether words are told with their times.
            flush_s: Deepgram answers a Finalize only if it has something to tell; after so long without progress it
                had not.
        """
        self.audio_s = 0.0  #: how much was sent; set by whoever sends
        self.final_s = 0.0  #: up to here all was told in finals
        self.processed_s = 0.0  #: up to here all was decoded
        self.moved_s = 0.0  #: when one of the two last rose
        self.complete = False  #: Deepgram has told its summary, which is the last message
        self.ignored = 0  #: messages that could not be read
        self._interim = interim
        self._words = words
        self._flush_s = flush_s
        self._offset_s = 0.0
        self._flushes: deque[_Flush] = deque()
        self._pending: Partial | None = None  # told since the last final
        self._open = False  # an utterance has begun
        self._told = False  # something of it was told in a final
        self._since_s = 0.0  # where its last word ended, or where it began
        self._closed_s = -1.0  # where the last word of the one before ended
        self._closing = False  # it ends with the next final
        self._takers: dict[str, Callable[[object, float], Iterable[Heard]]] = {
            "Results": self._results,
            "SpeechStarted": self._speech_started,
            "UtteranceEnd": self._utterance_end,
            "Metadata": self._metadata,
            "ConfigureSuccess": lambda message, now_s: (),
        }

    @property
    def settled_s(self) -> float:
        """Audio before this moment is not needed any more: it was told in finals, or nothing was said."""
        return self.final_s if self.pending else max(self.final_s, self.processed_s - QUIET_S)

    @property
    def pending(self) -> bool:
        """Whether something was told in a partial and not in a final yet."""
        return self._pending is not None

    @property
    def flushing(self) -> bool:
        """Whether a flush was not answered yet."""
        return bool(self._flushes)

    def begin(self, offset_s: float, now_s: float) -> None:
        """Listen to a new connection, whose audio begins at ``offset_s``. What was told in partials will come again."""
        self._offset_s = offset_s
        self.moved_s = now_s
        self.complete = False
        self._pending = None
        self._postpone(now_s)

    def flush(self, number: int, at_s: float, now_s: float) -> list[Heard]:
        """Return its answer if all before ``at_s`` was told already; else it comes later, and Finalize is needed."""
        self._flushes.append(_Flush(number=number, at_s=at_s, due_s=now_s + self._flush_s))
        return self._flushed(finalized=False)

    def overdue(self, now_s: float) -> list[Heard]:
        """Return the answers of flushes that Deepgram leaves without one."""
        answers: list[Heard] = []
        while self._flushes and self._flushes[0].due_s <= now_s:
            answers.append(Flushed(number=self._flushes.popleft().number))
        return answers

    def take(self, message: object, now_s: float) -> list[Heard]:
        """Return what a message tells."""
        taker = self._takers.get(str(getattr(message, "type", None)))
        if taker is None:
            self.ignored += 1
            return []
        return list(taker(message, now_s))

    def end(self) -> list[Heard]:
        """Return what is left when no message comes any more: the last partial is final then."""
        heard: list[Heard] = []
        if self._pending is not None:
            heard += self._final(self._pending, None)
        heard += [Flushed(number=flush.number) for flush in self._flushes]
        self._flushes.clear()
        if self._open:
            heard += self._close(self._since_s)
        heard.append(Processed(audio_s=self.audio_s))
        return heard

    def _results(self, message: object, now_s: float) -> Iterable[Heard]:
        start, duration = _number(message, "start"), _number(message, "duration")
        said = _alternative(message)
        text = getattr(said, "transcript", None)
        finalized = getattr(message, "from_finalize", None) is True
        if start is None or duration is None or not isinstance(text, str):
            self.ignored += 1
            yield from self._flushed(finalized=finalized)
            return
        # Rounded times may lie a little behind the end.
        begin_s, end_s = self._at(start), min(self._at(start + duration), self.audio_s)
        final = getattr(message, "is_final", None) is True
        if final and end_s > self.final_s:
            yield from self._finally(said, text.strip(), begin_s, end_s)
            self.final_s, self.moved_s = end_s, now_s
        elif not final and text.strip():
            yield from self._partial(self._heard(said, text.strip(), begin_s, end_s))
        if final and self._told and getattr(message, "speech_final", None) is True:
            yield from self._close(self._since_s)
        if end_s > self.processed_s:
            self.processed_s, self.moved_s = end_s, now_s
            self._postpone(now_s, beyond_s=end_s)
            yield Processed(audio_s=end_s)
        yield from self._flushed(finalized=finalized)

    def _finally(self, said: object, text: str, begin_s: float, end_s: float) -> Iterable[Heard]:
        self._pending = None
        if text:
            yield from self._final(self._heard(said, text, begin_s, end_s), _language(said))
        if self._closing or (self._open and not text and end_s >= self._since_s + UTTERANCE_END_S):
            # The second: a lost connection took its word of the end with it, or the noise was no speech.
            yield from self._close(self._since_s)

    def _final(self, heard: Partial, language: str | None) -> Iterable[Heard]:
        yield from self._opened(heard.start_s)
        self._pending = None
        self._told = True
        self._since_s = max(self._since_s, heard.end_s)
        yield Final(
            text=heard.text,
            start_s=heard.start_s,
            end_s=heard.end_s,
            words=heard.words,
            confidence=heard.confidence,
            language=language,
        )

    def _partial(self, heard: Partial) -> Iterable[Heard]:
        yield from self._opened(heard.start_s)
        self._pending = heard
        if self._interim:
            yield heard

    def _heard(self, said: object, text: str, begin_s: float, end_s: float) -> Partial:
        words = tuple(self._each_word(said))
        return Partial(
            text=text,
            start_s=words[0].start_s if words else begin_s,
            end_s=words[-1].end_s if words else end_s,
            words=words if self._words else (),
            confidence=_share(said),
        )

    def _each_word(self, said: object) -> Iterable[Word]:
        words = getattr(said, "words", None)
        for word in words if isinstance(words, list) else ():
            start, end = _number(word, "start"), _number(word, "end")
            text = getattr(word, "punctuated_word", None) or getattr(word, "word", None)
            if start is not None and end is not None and isinstance(text, str):
                yield Word(
                    text=text,
                    start_s=self._at(start),
                    end_s=self._at(end),
                    confidence=_share(word),
                )

    def _speech_started(self, message: object, now_s: float) -> Iterable[Heard]:
        at = _number(message, "timestamp")
        if at is None:
            self.ignored += 1
            return ()
        return self._opened(self._at(at))

    def _opened(self, at_s: float) -> Iterable[Heard]:
        if not self._open:
            self._open, self._told = True, False
            self._since_s = max(at_s, self._closed_s)
            yield SpeechStarted(at_s=self._since_s)

    def _utterance_end(self, message: object, now_s: float) -> Iterable[Heard]:
        last = _number(message, "last_word_end")
        at_s = self._since_s if last is None or last < 0 else self._at(last)
        if not self._open or at_s <= self._closed_s + TOLERANCE_S:
            return ()  # told before, by speech_final
        if self._pending is not None:
            self._closing = True
            return ()
        return self._close(max(at_s, self._since_s))

    def _close(self, at_s: float) -> Iterable[Heard]:
        self._open = self._told = self._closing = False
        self._closed_s = at_s
        return [UtteranceEnd(last_word_end_s=at_s)]

    def _metadata(self, message: object, now_s: float) -> Iterable[Heard]:
        self.complete, self.moved_s = True, now_s
        return ()

    def _at(self, connection_s: float) -> float:
        """Return a time of this connection on the clock of the audio."""
        return round(self._offset_s + connection_s, 6)

    def _flushed(self, *, finalized: bool) -> list[Heard]:
        answers: list[Heard] = []
        while self._flushes and (finalized or self._flushes[0].at_s <= self.final_s + TOLERANCE_S):
            answers.append(Flushed(number=self._flushes.popleft().number))
            finalized = False
        return answers

    def _postpone(self, now_s: float, *, beyond_s: float = 0.0) -> None:
        for flush in self._flushes:
            if flush.at_s >= beyond_s:
                flush.due_s = now_s + self._flush_s


def _alternative(message: object) -> object:
    alternatives = getattr(getattr(message, "channel", None), "alternatives", None)
    return alternatives[0] if isinstance(alternatives, list) and alternatives else None


def _language(said: object) -> str | None:
    languages = getattr(said, "languages", None)
    first = languages[0] if isinstance(languages, list) and languages else None
    return first if isinstance(first, str) else None


def _number(thing: object, name: str) -> float | None:
    value = getattr(thing, name, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _share(thing: object) -> float | None:
    value = _number(thing, "confidence")
    return value if value is not None and 0 <= value <= 1 else None
