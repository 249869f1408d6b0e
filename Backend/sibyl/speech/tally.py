"""What a session received, heard and told, counted in samples."""

from dataclasses import dataclass
from typing import Any

SAMPLE_BYTES = 2


@dataclass(slots=True)
class Tally:
    """The figures of one session. Times are seconds of its audio."""

    rate_hz: int = 16_000
    samples: int = 0
    frame_bytes: int = 0  #: of all frames that were taken, also a half sample
    frames: int = 0
    dropped_bytes: int = 0
    processed_s: float = 0.0
    final_s: float = 0.0  #: up to here all was told in finals
    speech_s: float = 0.0
    partials: int = 0
    finals: int = 0

    def received(self, pcm: bytes, size: int) -> None:
        """Count a frame of ``size`` bytes and the whole samples that it completed."""
        self.samples += len(pcm) // SAMPLE_BYTES
        self.frame_bytes += size
        self.frames += 1

    def told(self, until_s: float) -> None:
        """All up to here was told; it never goes back."""
        self.final_s = max(self.final_s, min(until_s, self.received_s))

    @property
    def received_s(self) -> float:
        """Whole samples that were received."""
        return self.samples / self.rate_hz

    @property
    def lag_s(self) -> float:
        """What was received and not yet heard."""
        return round(max(0.0, self.received_s - self.processed_s), 6)

    @property
    def progress(self) -> tuple[float, float, float]:
        """Received, processed and told, as clients see it."""
        return round(self.received_s, 6), round(self.processed_s, 6), round(self.final_s, 6)

    def totals(self, *, duration_s: float) -> dict[str, Any]:
        """Return the totals of ``session_ended``."""
        received_s, processed_s, _ = self.progress
        return {
            "audio_received_s": received_s,
            "audio_processed_s": processed_s,
            "bytes": self.frame_bytes,
            "frames": self.frames,
            "speech_s": round(self.speech_s, 6),
            "finals": self.finals,
            "partials": self.partials,
            "dropped_s": round(self.dropped_bytes / SAMPLE_BYTES / self.rate_hz, 6),
            "duration_s": round(duration_s, 3),
        }
