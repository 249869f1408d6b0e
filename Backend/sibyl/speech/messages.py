"""What was heard, as the fields of messages."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sibyl.speech.hearing import Final, Partial, Word


def said(heard: Partial | Final, *, words: bool) -> dict[str, Any]:
    """Return text, times and confidence of something heard, and its words where they are wanted."""
    fields: dict[str, Any] = {
        "text": heard.text,
        "confidence": _share(heard.confidence),
        "start": seconds(heard.start_s),
        "end": seconds(heard.end_s),
    }
    if words:
        fields["words"] = [_word(word) for word in heard.words]
    return fields


def joined(finals: Sequence[Final]) -> Final:
    """Return one final that says what these say, one after the other."""
    sure = [final.confidence for final in finals if final.confidence is not None]
    return Final(
        text=" ".join(final.text for final in finals),
        start_s=finals[0].start_s,
        end_s=finals[-1].end_s,
        words=tuple(word for final in finals for word in final.words),
        confidence=sum(sure) / len(sure) if sure else None,
        language=finals[0].language,
    )


def timestamp(utc_s: float) -> str:
    """Return a moment as clients see it: ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(utc_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(value: float) -> float:
    """Return a time to the microsecond, less than a sample."""
    return round(value, 6)


def _word(word: Word) -> dict[str, Any]:
    share = _share(word.confidence)
    return {"word": word.text, "start": seconds(word.start_s), "end": seconds(word.end_s), "confidence": share}


def _share(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(min(1.0, max(0.0, value)), 4)
