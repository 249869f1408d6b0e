"""The door to faster-whisper: how its model is loaded, and called with audio. The only import of it but Silero's.

CTranslate2 has one queue of jobs for all threads and gives Python's lock back while it computes. The model is loaded
with one worker, since several would share the cores: one transcript at a time, with all threads, is ready soonest.
"""

import copy
import importlib.metadata
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sibyl.bridge.abort import Abort
from sibyl.core.errors import InvalidRequest, RecogniserFailed, RecogniserUnavailable
from sibyl.speech.hearing import Word
from sibyl.speech.whisper.buffer import RATE_HZ, Hypothesis
from sibyl.speech.whisper.listener import Passage

logger = logging.getLogger(__name__)

BEAMS = 5
# A transcript may hold so many tokens and so many more for each second of audio, where people say five to twenty: a
# model that repeats itself for ever ends sooner, and nobody who speaks fast loses a word. Prompt and all, Whisper has
# room for 448.
LEAST_TOKENS, TOKENS_A_SECOND, MOST_TOKENS = 24, 25, 216

_FILES = (("model.bin",), ("config.json",), ("tokenizer.json",), ("vocabulary.json", "vocabulary.txt"))
_PATH_BEGINS = ("/", ".", "~")
_NO_FOLDER = "There is no folder {model}; give that of a CTranslate2 Whisper model."
_LANGUAGES = {"nb": "no", "fil": "tl", "iw": "he", "in": "id", "jv": "jw", "cmn": "zh", "ji": "yi"}  # BCP 47: Whisper


def described(model: str) -> str:
    """Return what would be loaded, without loading it. Raises RecogniserUnavailable."""
    try:
        version = importlib.metadata.version("faster-whisper")
    except importlib.metadata.PackageNotFoundError:
        raise RecogniserUnavailable("faster-whisper is not installed: pip install faster-whisper") from None
    folder = Path(model).expanduser()
    if folder.is_dir():
        _require_files(folder)
        return f"faster-whisper {version}, {folder}"
    if model.startswith(_PATH_BEGINS):
        raise RecogniserUnavailable(_NO_FOLDER.format(model=model))
    return f"faster-whisper {version}, {model}, downloaded from the hub when it is first needed"


class WhisperBinding:
    """A loaded model. ``transcribe`` may be called from several threads."""

    def __init__(self, model: str, *, threads: int) -> None:
        """Load a model from a folder, or from the hub by its name.

        Args:
            threads: of one transcript; 0 takes up to four.

        Raises:
            RecogniserUnavailable: faster-whisper, the model or a file of it is missing; the message says what to do.
        """
        try:
            import faster_whisper
            from faster_whisper.utils import download_model
        except ImportError as error:
            raise RecogniserUnavailable(
                f"faster-whisper cannot be imported ({error}). Install it: pip install faster-whisper"
            ) from error
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it logs a line for each transcript
        folder = Path(model).expanduser()
        if not folder.is_dir():
            folder = _fetch(model, download_model)
        _require_files(folder)
        try:
            self._model: Any = faster_whisper.WhisperModel(
                str(folder), device="auto", compute_type="auto", cpu_threads=threads, num_workers=1
            )
        except Exception as error:  # whatever is wrong with the files, the libraries raise as they like
            raise RecogniserUnavailable(f"The Whisper model in {folder} cannot be loaded: {error}") from error
        heard, wanted = self._model.feature_extractor.mel_filters.shape[0], self._model.model.n_mels
        if heard != wanted:
            raise RecogniserUnavailable(
                f"The Whisper model in {folder} wants {wanted} mel bands: its preprocessor_config.json is missing."
            )
        self.name = folder.name if Path(model).expanduser().is_dir() else model  #: as clients see it
        logger.info(
            "Whisper is loaded.",
            extra={"action": "whisper_loaded", "device": self._model.model.device, "threads": threads},
        )

    def language(self, tag: str) -> str:
        """Return Whisper's code of a language.

        Raises:
            InvalidRequest: this model does not know it.
        """
        primary = tag.replace("_", "-").split("-")[0].lower()
        code = _LANGUAGES.get(primary, primary)
        known = self._model.supported_languages
        if code not in known:
            many = f"it knows {len(known)} others" if len(known) > 1 else "it knows English alone"
            raise InvalidRequest(f"This Whisper model does not know the language {tag!r}; {many}.")
        return code

    def transcribe(self, passage: Passage, *, language: str, abort: Abort) -> Hypothesis:
        """Return what is said in a passage, with times of the session.

        Raises:
            RecogniserFailed: the model failed.
            Exception: the reason of the abort, which is looked at before each computation of the model: an encoder's
                pass, the search, the alignment. None of these can be stopped from outside.
        """
        model = copy.copy(self._model)
        model.model = _Watched(self._model.model, abort)
        length_s = len(passage.samples) / RATE_HZ
        try:
            segments, _ = model.transcribe(
                passage.samples,
                language=language,
                beam_size=BEAMS,
                temperature=0.0,
                condition_on_previous_text=False,
                initial_prompt=passage.prompt or None,
                word_timestamps=True,
                max_new_tokens=min(MOST_TOKENS, LEAST_TOKENS + round(TOKENS_A_SECOND * length_s)),
            )
            return _hypothesis(segments, passage.start_s, length_s, abort)
        except Exception as error:
            abort.raise_if_requested()
            raise RecogniserFailed(f"Whisper failed: {error}") from error


class _Watched:
    """CTranslate2's model as one transcript sees it: nothing is computed any more once an abort is requested."""

    def __init__(self, model: Any, abort: Abort) -> None:
        self._model = model
        self._abort = abort

    def __getattr__(self, name: str) -> Any:
        self._abort.raise_if_requested()
        return getattr(self._model, name)


def _hypothesis(segments: Iterable[Any], start_s: float, length_s: float, abort: Abort) -> Hypothesis:
    words: list[Word] = []
    ends_s: list[float] = []
    for segment in segments:  # a generator: each step computes
        abort.raise_if_requested()
        ends_s.append(start_s + min(segment.end, length_s))
        words += [
            Word(
                text=word.word,
                start_s=start_s + min(float(word.start), length_s),
                end_s=start_s + min(float(word.end), length_s),
                confidence=min(1.0, max(0.0, float(word.probability))),
            )
            for word in segment.words or ()
        ]
    return Hypothesis(words=tuple(words), segment_ends_s=tuple(ends_s))


def _fetch(model: str, download: Any) -> Path:
    if model.startswith(_PATH_BEGINS):
        raise RecogniserUnavailable(_NO_FOLDER.format(model=model))
    try:
        return Path(download(model))
    except ValueError as error:
        raise RecogniserUnavailable(f"There is no Whisper model of the name {model!r}; {error}") from error
    except Exception as error:  # the hub's client has errors of three libraries
        raise RecogniserUnavailable(
            f"The Whisper model {model!r} is not on this machine and the hub is out of reach "
            f"({type(error).__name__}). Fetch it elsewhere and give its folder."
        ) from error


def _require_files(folder: Path) -> None:
    missing = [" or ".join(names) for names in _FILES if not any((folder / name).is_file() for name in names)]
    if missing:
        raise RecogniserUnavailable(
            f"The Whisper model in {folder} is incomplete: {', '.join(missing)} is missing. "
            "It must be one that was converted for CTranslate2."
        )
