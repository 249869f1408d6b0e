"""A file to text: what is said with its times, gone on with after a cut, and stopped when asked to."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import AudioUnreadable, RecogniserFailed, RecogniserUnavailable, TaskCancelled
from sibyl.core.event import Output
from sibyl.core.policy import merge_outputs
from sibyl.core.transcript import Segment, Word
from sibyl.speech.hearing import Final, Listening, Processed
from sibyl.speech.inlet import END, AudioInlet
from sibyl.speech.recogniser import OnHeard, Recogniser, RecognitionRequest
from sibyl.speech.scripted import ScriptedRecogniser
from sibyl.speech.transcription import Transcribed, transcribe
from tests.recordings import FAIL, HANG, as_file, said, spoken

UTTERANCES = ([1, 2, 3], [4], [5, 6], [7, 8, 9, 10], [11])


def heard(
    audio: bytes, stored: Sequence[Output] = (), recogniser: Recogniser | None = None
) -> tuple[Transcribed, list[Output]]:
    """Transcribe; return the end and the outputs."""
    outputs: list[Output] = []
    end = transcribe(
        lambda: recogniser or ScriptedRecogniser(),
        audio,
        language=None,
        stored=stored,
        abort=Abort(),
        on_output=outputs.append,
    )
    return end, outputs


def text(outputs: Sequence[Output]) -> str:
    """What is stored of the answer then."""
    return "".join(output.text for output in outputs)


def test_each_final_is_an_output_with_its_segment() -> None:
    """The texts, one behind the other, are the answer; a segment has its own and its times."""
    end, outputs = heard(spoken(*UTTERANCES))

    assert end == Transcribed(audio_s=3.1)
    assert text(outputs) == said(*UTTERANCES)
    assert [output.text for output in outputs[:2]] == ["w1 w2 w3", " w4"]
    assert outputs[1].segments == (
        Segment(
            text="w4",
            start_s=0.7,
            end_s=0.8,
            confidence=1.0,
            words=(Word(text="w4", start_s=0.7, end_s=0.8, confidence=1.0),),
        ),
    )


@pytest.mark.parametrize("kept", range(6))
def test_an_attempt_goes_on_where_the_last_one_was_cut(kept: int) -> None:
    """Nothing lost, nothing repeated: outputs and times are those of a run that nothing has cut."""
    audio = spoken(*UTTERANCES)
    end, whole = heard(audio)

    again, rest = heard(audio, stored=whole[:kept])

    assert [*whole[:kept], *rest] == whole
    assert again == end


def test_an_attempt_goes_on_after_outputs_that_were_merged() -> None:
    """What gathered while Redis was busy is stored as one output with several segments."""
    audio = spoken(*UTTERANCES)
    _, whole = heard(audio)

    _, rest = heard(audio, stored=merge_outputs(whole[:3]))

    assert rest == whole[3:]


def test_silence_is_an_empty_transcript() -> None:
    """It has a length and no text."""
    assert heard(spoken([], [])) == (Transcribed(audio_s=0.8), [])
    assert heard(spoken()) == (Transcribed(audio_s=0.0), [])


def test_a_file_that_is_no_audio_asks_for_no_recogniser() -> None:
    """To load one may take seconds, and memory."""

    def none() -> Recogniser:
        raise AssertionError("asked for")

    with pytest.raises(AudioUnreadable):
        transcribe(none, b"Why?", language=None, stored=(), abort=Abort(), on_output=lambda output: None)


def test_a_recogniser_that_is_missing_says_how_to_get_it() -> None:
    """Its words come out as they are."""

    def missing() -> Recogniser:
        raise RecogniserUnavailable("Install it.")

    with pytest.raises(RecogniserUnavailable, match=r"Install it\."):
        transcribe(missing, spoken([1]), language=None, stored=(), abort=Abort(), on_output=lambda output: None)


def test_a_recogniser_that_fails_leaves_what_it_said() -> None:
    """The finals before it were emitted."""
    outputs: list[Output] = []
    with pytest.raises(RecogniserFailed):
        transcribe(
            ScriptedRecogniser,
            spoken([1], [2], [FAIL]),
            language=None,
            stored=(),
            abort=Abort(),
            on_output=outputs.append,
        )

    assert text(outputs) == "w1 w2"


def test_an_abort_stops_a_recogniser_that_hangs() -> None:
    """At once, with its reason."""
    abort, begun = Abort(), threading.Event()

    def stop() -> None:
        begun.wait(10)
        abort.request(TaskCancelled())

    threading.Thread(target=stop).start()

    with pytest.raises(TaskCancelled):
        transcribe(
            ScriptedRecogniser,
            spoken([1], [HANG]),
            language=None,
            stored=(),
            abort=abort,
            on_output=lambda output: begun.set(),
        )


def test_what_the_store_refuses_stops_the_recogniser() -> None:
    """A lost lease comes back out of the output that met it."""

    class Lost(Exception):
        pass

    def refuse(output: Output) -> None:
        raise Lost

    with pytest.raises(Lost):
        transcribe(ScriptedRecogniser, spoken([1], [2]), language=None, stored=(), abort=Abort(), on_output=refuse)


def test_a_file_that_breaks_in_the_middle_fails_as_unreadable() -> None:
    """What was heard before stays; the reason comes out though a recogniser lies between."""

    class Wrapping(ScriptedRecogniser):
        """Keeps every error for itself, as it must not."""

        wrapped = False

        def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
            try:
                super().recognise(request, audio, on_heard)
            except AudioUnreadable:
                self.wrapped = True

    flac = bytearray(as_file(np.random.default_rng(1).integers(-9000, 9000, 1_000_000, dtype=np.int16), "FLAC"))
    flac[len(flac) * 3 // 4 :] = bytes(len(flac) - len(flac) * 3 // 4)
    wrapping = Wrapping()

    with pytest.raises(AudioUnreadable):
        heard(bytes(flac), recogniser=wrapping)

    assert wrapping.wrapped


class Sloppy(ScriptedRecogniser):
    """A recogniser that places the end of the last word behind the end of the audio, and leaves spaces around."""

    name = "sloppy"

    def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
        """Say one thing, whatever is there."""
        on_heard(Listening(model="sloppy"))
        size = 0
        while (item := audio.take()) is not END:
            size += len(item) if isinstance(item, bytes) else 0
        on_heard(Final(text="  so \n it  goes ", start_s=0.0, end_s=size / 32_000 + 5.0))
        on_heard(Processed(audio_s=size / 32_000))


def test_a_recogniser_may_be_a_little_wrong_about_times() -> None:
    """The text is put in order, and an attempt that goes on behind the end of the audio is at its end."""
    audio = spoken([1])
    end, outputs = heard(audio, recogniser=Sloppy())

    assert text(outputs) == "so it goes"
    assert heard(audio, stored=outputs)[0] == end == Transcribed(audio_s=0.5)
