"""What was heard, as the native wire shows it."""

from collections.abc import Sequence
from typing import Any

from sibyl.core.transcript import Segment, Word


def shown_segments(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Return one object for each segment; times in seconds."""
    return [
        {
            "text": segment.text,
            "start": segment.start_s,
            "end": segment.end_s,
            "confidence": segment.confidence,
            "language": segment.language,
            "words": [_shown(word) for word in segment.words],
        }
        for segment in segments
    ]


def _shown(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": word.start_s, "end": word.end_s, "confidence": word.confidence}
