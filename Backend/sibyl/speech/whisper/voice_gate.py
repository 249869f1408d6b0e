"""Where speech begins and ends, from the probability that each frame of audio is speech. Pure; it hears no audio.

Two thresholds, as Silero's authors advise: speech begins with frames above the one and lasts until frames stay below
the other for as long as an utterance may pause.
"""

from dataclasses import dataclass

FRAME = 512  #: samples of a frame, 32 ms
FRAME_S = FRAME / 16_000
VOICED = 0.5
UNVOICED = 0.35
LEAST_FRAMES = 3  # a shorter noise is no speech: Whisper would invent words for it


@dataclass(frozen=True, slots=True)
class VoiceBegan:
    """Speech began with the sample ``at``, a little while ago."""

    at: int


@dataclass(frozen=True, slots=True)
class VoiceEnded:
    """Speech ended before the sample ``at``, as long ago as an utterance may pause."""

    at: int


class VoiceGate:
    """One session's gate."""

    def __init__(self, *, silence_s: float) -> None:
        """Begin in silence.

        Args:
            silence_s: silence that ends an utterance.
        """
        self._silence_frames = max(1, round(silence_s / FRAME_S))
        self._frames = 0
        self._voiced = 0  # frames in a row, while nobody speaks
        self._silent_from: int | None = None  # the frame with which a pause began, while somebody speaks
        self.speaking = False

    @property
    def voice_end(self) -> int:
        """The sample after the last one that is speech, as far as is known; while somebody speaks."""
        return FRAME * (self._frames if self._silent_from is None else self._silent_from)

    @property
    def pause_s(self) -> float:
        """How long the speaker has paused."""
        return 0.0 if self._silent_from is None else (self._frames - self._silent_from) * FRAME_S

    def hear(self, probability: float) -> VoiceBegan | VoiceEnded | None:
        """Take the next frame's probability of being speech."""
        self._frames += 1
        return self._while_speaking(probability) if self.speaking else self._while_silent(probability)

    def _while_silent(self, probability: float) -> VoiceBegan | None:
        self._voiced = self._voiced + 1 if probability >= VOICED else 0
        if self._voiced < LEAST_FRAMES:
            return None
        self.speaking, self._voiced = True, 0
        return VoiceBegan(FRAME * (self._frames - LEAST_FRAMES))

    def _while_speaking(self, probability: float) -> VoiceEnded | None:
        if probability >= VOICED:
            self._silent_from = None
        elif probability < UNVOICED and self._silent_from is None:
            self._silent_from = self._frames - 1
        if self._silent_from is None or self._frames - self._silent_from < self._silence_frames:
            return None
        ended = VoiceEnded(FRAME * self._silent_from)
        self.speaking, self._silent_from = False, None
        return ended
