"""From a model's bytes to the text that may be shown. Pure; it knows no tokens and no model.

Promises: a character is emitted whole or not at all until the end, bytes that are no UTF-8 become U+FFFD, and no text
is emitted that belongs, or could still come to belong, to a stop string. However the bytes were cut into pieces, the
emitted text is the same: everything before the first stop string, which is the one that is complete first (of two
that are complete at the same character, the one that began earlier).
"""

import codecs
from collections.abc import Iterable


class TextStream:
    """One answer on its way from bytes to text."""

    def __init__(self, stop: Iterable[str] = ()) -> None:
        """Watch for ``stop``; an empty stop string is ignored."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(text for text in dict.fromkeys(stop) if text)
        self._beginnings = {text[:length] for text in self._stop for length in range(1, len(text))}
        self._longest = max(map(len, self._stop), default=1) - 1
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing is emitted after it."""
        return self._stopped

    def feed(self, piece: bytes) -> str:
        """Take the next bytes and return the text that is certain now, often none."""
        if self._stopped:
            return ""
        text = self._decoder.decode(piece)
        return self._sift(text) if self._stop else text

    def flush(self) -> str:
        """Return the rest: what was held back in case a stop string followed, and the begun character as U+FFFD."""
        if self._stopped:
            return ""
        text = self._sift(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""  # none if that completed a stop string
        return text + held

    def _sift(self, text: str) -> str:
        """Return the part of held and new text that no stop string can reach."""
        text = self._held + text
        # Whatever came before the held text is proven clear of every stop string, so looking from there is enough.
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self._stopped = True
            self._held = ""
            return text[: min(found)[1]]
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                self._held = text[-length:]
                return text[:-length]
        self._held = ""
        return text
