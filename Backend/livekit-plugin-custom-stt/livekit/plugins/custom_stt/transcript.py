"""From the server's messages to the framework's events: pure, in the order in which the framework wants them.

START_OF_SPEECH comes only after END_OF_SPEECH, whatever was cut off or begun anew between. Times are seconds of the
stream, on top of the offset that the framework gives it.
"""

from collections.abc import Callable, Sequence
from typing import Final

from livekit.agents import NOT_GIVEN, LanguageCode
from livekit.agents.stt import RecognitionUsage, SpeechData, SpeechEvent, SpeechEventType
from livekit.agents.types import TimedString

from .clock import Clock
from .wire import Message, number, parts, share, words

UNTOLD_CONFIDENCE: Final = 0.0  # for a recogniser that has none: what SpeechData says by itself


class Transcript:
    """What one stream heard, over all its sessions."""

    def __init__(self, language: LanguageCode, wall_s: Callable[[float], float]) -> None:
        """Begin in silence.

        Args:
            wall_s: turns a time of the stream into seconds since the Unix epoch.
        """
        self.language = language  #: of finals that name none
        self._wall_s = wall_s
        self._speaking = False
        self._told = False  # a final, since speech started

    def started(self, message: Message, clock: Clock, session_id: str) -> list[SpeechEvent]:
        """Somebody began to speak."""
        return self._start(number(message, "t"), clock, session_id)

    def partial(self, message: Message, clock: Clock, session_id: str, offset_s: float) -> list[SpeechEvent]:
        """What was said so far, as it seems."""
        data = self._said(message, clock, offset_s)
        if not data.text:
            return []
        event = SpeechEvent(type=SpeechEventType.INTERIM_TRANSCRIPT, request_id=session_id, alternatives=[data])
        return [*self._start(number(message, "start"), clock, session_id), event]

    def final(self, message: Message, clock: Clock, session_id: str, offset_s: float) -> list[SpeechEvent]:
        """What was said."""
        data = self._said(message, clock, offset_s)
        if not data.text:
            return []
        self._told = True
        return [SpeechEvent(type=SpeechEventType.FINAL_TRANSCRIPT, request_id=session_id, alternatives=[data])]

    def ended(self, message: Message, clock: Clock, session_id: str) -> list[SpeechEvent]:
        """The speaker stopped."""
        at_s = number(message, "last_word_end")
        return self._end(None if at_s is None else clock.end_s(at_s), session_id)

    def replaced(self, session_id: str) -> list[SpeechEvent]:
        """Another session begins where the finals of the last one end: what was told is not heard again."""
        return self._end(None, session_id) if self._told else []

    def over(self, session_id: str) -> list[SpeechEvent]:
        """Nothing comes any more."""
        return self._end(None, session_id)

    def _start(self, at_s: float | None, clock: Clock, session_id: str) -> list[SpeechEvent]:
        if self._speaking:
            return []
        self._speaking, self._told = True, False
        wall_s = None if at_s is None else self._wall_s(clock.begin_s(at_s))
        return [
            SpeechEvent(type=SpeechEventType.START_OF_SPEECH, request_id=session_id, speech_start_time=wall_s),
        ]

    def _end(self, at_s: float | None, session_id: str) -> list[SpeechEvent]:
        if not self._speaking:
            return []
        self._speaking = self._told = False
        wall_s = None if at_s is None else self._wall_s(at_s)
        return [SpeechEvent(type=SpeechEventType.END_OF_SPEECH, request_id=session_id, speech_end_time=wall_s)]

    def _said(self, message: Message, clock: Clock, offset_s: float) -> SpeechData:
        told = [word for part in parts(message, "words") if (word := _word(part, clock, offset_s)) is not None]
        confidence = share(message, "confidence")
        start_s, end_s = number(message, "start") or 0.0, number(message, "end") or 0.0
        return SpeechData(
            language=LanguageCode(words(message, "language") or self.language),
            text=words(message, "text"),
            start_time=clock.begin_s(start_s) + offset_s,
            end_time=clock.end_s(end_s) + offset_s,
            confidence=UNTOLD_CONFIDENCE if confidence is None else confidence,
            words=told or None,
        )


def _word(message: Message, clock: Clock, offset_s: float) -> TimedString | None:
    start_s, end_s = number(message, "start"), number(message, "end")
    confidence = share(message, "confidence")
    text = words(message, "word")
    return (
        TimedString(
            text,
            start_time=NOT_GIVEN if start_s is None else clock.begin_s(start_s) + offset_s,
            end_time=NOT_GIVEN if end_s is None else clock.end_s(end_s) + offset_s,
            confidence=NOT_GIVEN if confidence is None else confidence,
            start_time_offset=offset_s,
        )
        if text
        else None
    )


def usage(audio_s: float, session_id: str) -> SpeechEvent:
    """Return the event for so much more audio that was recognised."""
    return SpeechEvent(
        type=SpeechEventType.RECOGNITION_USAGE,
        request_id=session_id,
        recognition_usage=RecognitionUsage(audio_duration=audio_s),
    )


def whole(events: Sequence[SpeechEvent], language: LanguageCode, session_id: str) -> SpeechEvent:
    """Return one final that says what the finals among these say; an empty one if there are none."""
    finals = [event for event in events if event.type is SpeechEventType.FINAL_TRANSCRIPT]
    said = [event.alternatives[0] for event in finals]
    told = [word for data in said for word in data.words or ()]
    data = SpeechData(
        language=said[0].language if said else language,
        text=" ".join(data.text for data in said),
        start_time=said[0].start_time if said else 0.0,
        end_time=said[-1].end_time if said else 0.0,
        confidence=sum(data.confidence for data in said) / len(said) if said else UNTOLD_CONFIDENCE,
        words=told or None,
    )
    return SpeechEvent(type=SpeechEventType.FINAL_TRANSCRIPT, request_id=session_id, alternatives=[data])
