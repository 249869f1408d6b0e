"""What every recogniser is: one blocking call that takes audio and emits what it hears; the twin of an engine.

The session calls ``recognise`` in a thread of its bridge. A recogniser never learns which session or client it serves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sibyl.bridge.abort import Abort
from sibyl.speech.hearing import Heard
from sibyl.speech.inlet import AudioInlet

OnHeard = Callable[[Heard], None]
"""Takes the next thing heard. May be called from any thread but the event loop's, may block, and may raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognitionRequest:
    """One session's wishes."""

    sample_rate_hz: int  #: of the PCM in the inlet: 8,000 to 48,000
    abort: Abort
    language: str = "en"  #: BCP 47; what a recogniser does not know is ``InvalidRequest``
    interim: bool = True  #: whether partials are wanted
    words: bool = True  #: whether words with times are wanted
    endpointing_s: float | None = None  #: silence that ends an utterance; None: the recogniser's default


class Recogniser(Protocol):
    """Something that hears. ``recognise`` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The provider's name, as in the settings."""

    def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
        """Take audio until its end and emit what is heard, ``Listening`` first; return when all has been told.

        After a ``Flush``: finals of all before it, then ``Flushed``. After ``END``: finals of the rest, the last
        ``UtteranceEnd``, ``Processed`` with the length of all audio. No final is empty.

        Raises:
            InvalidRequest: it cannot do what is asked, such as the language.
            RecogniserUnavailable: it is not installed or its model is missing; the message says how to get it.
            RecogniserBusy: it hears as many as it can.
            VendorRefused: a vendor does not accept our key.
            RecogniserFailed: it cannot go on.
            Exception: the reason given to ``request.abort``, soon after it was requested; or what ``on_heard`` raised.
        """

    def check(self) -> str:
        """Return a word on what would hear here. Nothing is heard, loaded or downloaded; may take seconds.

        Raises:
            RecogniserUnavailable: it is not installed or its model is missing; the message says how to get it.
            VendorRefused: a vendor does not accept our key.
            RecogniserFailed: a vendor is out of reach.
        """

    def close(self) -> None:
        """Let everything go. No recognition may be running."""
