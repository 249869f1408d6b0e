"""Which recognisers there are, which one is the default, and how to get a missing one.

A recogniser is made when it is first asked for, in the thread that asks, and kept. Their libraries are imported then,
and not before: the API must start, and say what is missing, without any of them.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sibyl.core.errors import RecogniserUnavailable
from sibyl.speech.recogniser import Recogniser


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSettings:
    """What the recognisers need to know."""

    provider: str = "auto"
    sessions: int = 10  #: heard at a time
    threads: int = 1  #: of one decoding
    whisper_model: str = "base.en"
    whisper_sessions: int = 2  #: heard by it at a time
    deepgram_api_key: str | None = None
    deepgram_url: str = "https://api.deepgram.com"
    deepgram_model: str = "nova-3"
    scripted: bool = False  #: whether the recogniser of the tests may be asked for


class Catalogue:
    """The recognisers of one process. Every method may be called from any thread."""

    def __init__(self, settings: SpeechSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._made: dict[str, Recogniser] = {}

    @property
    def default(self) -> str:
        """The provider of a client that names none."""
        if self._settings.provider != "auto":
            return self._settings.provider
        return "deepgram" if self._settings.deepgram_api_key else "pocketsphinx"

    def recogniser(self, name: str | None = None) -> Recogniser:
        """Return a recogniser; None is the default one. The first call for a name may take seconds.

        Raises:
            RecogniserUnavailable: it is missing; the message says how to get it.
        """
        name = name or self.default
        make = _MAKERS.get(name)
        if make is None:
            raise RecogniserUnavailable(f"There is no recogniser of that name. There are: {', '.join(_MAKERS)}.")
        with self._lock:
            if name not in self._made:
                self._made[name] = make(self._settings)
            return self._made[name]

    def close(self) -> None:
        """Let all recognisers go. None may be hearing."""
        with self._lock:
            for recogniser in self._made.values():
                recogniser.close()
            self._made.clear()


def _pocketsphinx(settings: SpeechSettings) -> Recogniser:
    from sibyl.speech.pocketsphinx.recogniser import PocketSphinxRecogniser

    return PocketSphinxRecogniser(processes=settings.sessions)


def _faster_whisper(settings: SpeechSettings) -> Recogniser:
    from sibyl.speech.whisper.recogniser import FasterWhisperRecogniser

    return FasterWhisperRecogniser(
        model=settings.whisper_model, threads=settings.threads, sessions=settings.whisper_sessions
    )


def _deepgram(settings: SpeechSettings) -> Recogniser:
    if not settings.deepgram_api_key:
        raise RecogniserUnavailable("Deepgram needs a key: set DEEPGRAM_API_KEY and start again.")
    from sibyl.speech.deepgram.recogniser import DeepgramRecogniser

    return DeepgramRecogniser(
        api_key=settings.deepgram_api_key, url=settings.deepgram_url, model=settings.deepgram_model
    )


def _scripted(settings: SpeechSettings) -> Recogniser:
    if not settings.scripted:
        raise RecogniserUnavailable("The scripted recogniser is for tests: start with --speech-provider scripted.")
    from sibyl.speech.scripted import ScriptedRecogniser

    return ScriptedRecogniser()


_MAKERS: Mapping[str, Callable[[SpeechSettings], Recogniser]] = {
    "pocketsphinx": _pocketsphinx,
    "faster_whisper": _faster_whisper,
    "deepgram": _deepgram,
    "scripted": _scripted,
}
