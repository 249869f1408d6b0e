"""Which frames of audio are decoded: speech, with the pauses inside it and a little before. Pure; it hears no audio.

It is told of each frame whether it sounds like speech. Speech begins once most of half a second does, and ends after
silence; a pause is handed on only when speech goes on behind it, so the decoder is spared the silence at the end.
"""

from collections import deque

WINDOW_FRAMES = 16  # 0.48 s, handed on with the first speech: words begin softly, and silence tells of the noise
SPEECH_FRAMES = 9  # of them begin an utterance
LEFT_FRAMES = 3  # of them are a short last word when nothing follows
KEPT_FRAMES = 3  # of the silence at the end are decoded: words end softly
STRAY_SHARE = 10  # in a longer silence, a tenth of the frames may sound like speech


class FrameGate:
    """One session's gate."""

    def __init__(self, *, silence_frames: int, going_on: bool = False) -> None:
        """Begin in silence.

        Args:
            silence_frames: end an utterance.
            going_on: somebody may be in the middle of speaking: the first speech begins an utterance.
        """
        self.speaking = False
        self.going_on = going_on
        self._silence_frames = silence_frames
        self._window: deque[tuple[bytes, bool]] = deque(maxlen=WINDOW_FRAMES)  # while nobody speaks
        self._silent = 0  # frames in a row, while nobody speaks
        self._recent: deque[bool] = deque(maxlen=silence_frames)  # while somebody speaks
        self._held: list[bytes] = []  # a pause that may be the end

    @property
    def waiting(self) -> int:
        """Frames that may still turn out to be the begin of an utterance."""
        return len(self._window)

    @property
    def pause(self) -> int:
        """Frames of silence since the last speech of the utterance."""
        return len(self._held)

    def take(self, frame: bytes, is_speech: bool) -> list[bytes]:
        """Take the next frame; return those to decode now. Look at ``speaking`` before and after for begin and end."""
        return self._while_speaking(frame, is_speech) if self.speaking else self._while_silent(frame, is_speech)

    def cut(self) -> list[bytes]:
        """End the utterance here, although its speaker may go on; return what to decode of the last pause."""
        kept = self._pause_over()
        self.going_on = True
        return kept

    def stop(self) -> list[bytes]:
        """Nothing that came so far will be decoded later. Return what is to be decoded of it now, as an utterance of
        its own: a last word too short to have begun one, or nothing."""
        speech = sum(is_speech for _, is_speech in self._window)
        frames = [frame for frame, _ in self._window] if speech >= LEFT_FRAMES else []
        self._window.clear()
        self._silent = 0
        self.going_on |= bool(frames)
        return frames

    def _while_silent(self, frame: bytes, is_speech: bool) -> list[bytes]:
        self._window.append((frame, is_speech))
        self._silent = 0 if is_speech else self._silent + 1
        if self._silent >= self._silence_frames:
            self.going_on = False
        if sum(speech for _, speech in self._window) < (1 if self.going_on else SPEECH_FRAMES):
            return []
        frames = [frame for frame, _ in self._window]
        self._window.clear()
        self._recent.clear()
        self.speaking, self.going_on = True, False
        return frames

    def _while_speaking(self, frame: bytes, is_speech: bool) -> list[bytes]:
        self._recent.append(is_speech)
        if is_speech:
            frames = [*self._held, frame]
            self._held.clear()
            return frames
        self._held.append(frame)
        stray = max(1, self._silence_frames // STRAY_SHARE)
        if len(self._recent) < self._silence_frames or sum(self._recent) >= stray:
            return []
        return self._pause_over()

    def _pause_over(self) -> list[bytes]:
        kept, rest = self._held[:KEPT_FRAMES], self._held[KEPT_FRAMES:]
        self._window.extend((frame, False) for frame in rest)
        self._held.clear()
        self.speaking, self._silent = False, 0
        return kept
