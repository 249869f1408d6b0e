"""A whole audio file to text: what a recogniser says in finals, each with its place on the clock of the file.

The twin of ``Engine.generate``: it blocks in a thread, goes on after what an earlier attempt has stored, and stops when
asked to. It goes on at the end of the last stored segment, so nothing that was stored is heard again and nothing after
it is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.transcript import Segment, Word
from sibyl.speech.audio_decoder import RATE_HZ
from sibyl.speech.audio_file import FileInlet, opened
from sibyl.speech.hearing import Final, Heard, Processed
from sibyl.speech.recogniser import Recogniser, RecognitionRequest

LANGUAGE = "en"  # when none is asked for, as in a live session


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribed:
    """All of it was heard."""

    audio_s: float  #: length of the audio


def transcribe(
    recogniser_of: Callable[[], Recogniser],
    audio: bytes,
    *,
    language: str | None,
    stored: Sequence[Output],
    abort: Abort,
    on_output: Callable[[Output], None],
) -> Transcribed:
    """Hear a file and emit an output for each final, in order; return when all was heard and emitted.

    Args:
        recogniser_of: returns the recogniser; called once it is known that the file is audio.
        audio: WAV, FLAC, Ogg, MP3 and what else libsndfile reads.
        language: BCP 47; None: English.
        stored: what earlier attempts emitted; it is gone on from there.
        on_output: called from threads; may block and may raise.

    Raises:
        AudioUnreadable, AudioTooLong: the file cannot be transcribed.
        RecogniserUnavailable, RecogniserFailed, InvalidRequest: see ``Recogniser.recognise``.
        Exception: the reason of the abort, or what ``on_output`` raised.
    """
    heard = [segment for output in stored for segment in output.segments]
    begin_s = max((segment.end_s for segment in heard), default=0.0)
    emitted = any(output.text for output in stored)
    with opened(audio, abort) as file:
        file.skip(begin_s)
        begin_s = min(begin_s, file.read_s)  # a recogniser may place a word's end behind the end of the audio
        inlet = FileInlet(file, abort)
        inlet.prefetch()
        request = RecognitionRequest(
            sample_rate_hz=RATE_HZ, abort=abort, language=language or LANGUAGE, interim=False, words=True
        )

        def on_heard(event: Heard) -> None:
            nonlocal emitted
            match event:
                case Final():
                    segment = _segment(event, begin_s)
                    on_output(Output(text=f" {segment.text}" if emitted else segment.text, segments=(segment,)))
                    emitted = True
                case Processed():
                    inlet.processed(event.audio_s)
                case _:
                    pass

        recogniser_of().recognise(request, inlet, on_heard)
        if inlet.failure is not None:
            raise inlet.failure
        return Transcribed(audio_s=file.read_s)


def _segment(final: Final, begin_s: float) -> Segment:
    return Segment(
        text=" ".join(final.text.split()),
        start_s=_placed(final.start_s, begin_s),
        end_s=_placed(final.end_s, begin_s),
        words=tuple(
            Word(
                text=word.text,
                start_s=_placed(word.start_s, begin_s),
                end_s=_placed(word.end_s, begin_s),
                confidence=word.confidence,
            )
            for word in final.words
        ),
        confidence=final.confidence,
        language=final.language,
    )


def _placed(seconds: float, begin_s: float) -> float:
    # To a microsecond, less than a sample: sums of fractions must not differ between one attempt and two.
    return round(begin_s + seconds, 6)
