"""The fields of a transcription as OpenAI's clients send them, and the answer in each of its formats."""

import json
from typing import Any

import pytest

from sibyl.core.errors import InvalidRequest
from sibyl.core.task import Recording
from sibyl.core.transcript import Segment, Word
from sibyl.wire import transcription
from sibyl.wire.transcription import TranscriptionForm, clock, read_fields, rendered

SEGMENTS = (
    Segment(
        text="go <north> & on",
        start_s=0.5,
        end_s=1.25,
        confidence=0.75,
        words=(Word(text="go", start_s=0.5, end_s=0.75), Word(text="on", start_s=1.0, end_s=1.25, confidence=0.5)),
    ),
    Segment(text="stop", start_s=3661.001, end_s=3662.0, language="de"),
)
TEXT = "go <north> & on stop"


def form(**fields: str) -> TranscriptionForm:
    """A form with these fields."""
    return read_fields([("model", "whisper-1"), *fields.items()])


def body(asked: TranscriptionForm) -> Any:
    """The answer, as JSON says it."""
    return json.loads(rendered(asked, SEGMENTS, text=TEXT, audio_s=3662.5))


def test_fields_are_read_as_what_they_say() -> None:
    """Text of a form becomes numbers, flags and lists; what is empty was not given."""
    read = read_fields(
        [
            ("model", "pocketsphinx"),
            ("language", "de-CH"),
            ("prompt", "x"),
            ("response_format", "verbose_json"),
            ("temperature", "0.5"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
            ("stream", "false"),
        ]
    )

    assert (read.temperature, read.timestamp_granularities, read.stream) == (0.5, ["word", "segment"], False)
    assert read.recording(17) == Recording(audio_bytes=17, language="de-CH", provider="pocketsphinx")
    assert form(language="", temperature="").recording(1) == Recording(audio_bytes=1)
    assert form(stream="true").stream


def test_any_other_model_is_the_servers_own_choice() -> None:
    """Clients send OpenAI's names, and cannot leave them out."""
    assert form().recording(1).provider is None


WRONG = {
    "no model": [],
    "an unknown field": [("model", "m"), ("modle", "m")],
    "a field twice": [("model", "m"), ("model", "m")],
    "an unknown format": [("model", "m"), ("response_format", "xml")],
    "no language": [("model", "m"), ("language", "English, please")],
    "a hot temperature": [("model", "m"), ("temperature", "2")],
    "no temperature": [("model", "m"), ("temperature", "nan")],
    "an unknown granularity": [
        ("model", "m"),
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "syllable"),
    ],
    "granularities without their format": [("model", "m"), ("timestamp_granularities[]", "word")],
    "a stream of subtitles": [("model", "m"), ("response_format", "srt"), ("stream", "true")],
    "no flag": [("model", "m"), ("stream", "maybe")],
    "a long prompt": [("model", "m"), ("prompt", "x" * 20_000)],
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
def test_a_wrong_field_is_named_and_not_quoted(fields: list[tuple[str, str]]) -> None:
    """One line that says which and why."""
    with pytest.raises(InvalidRequest) as error:
        read_fields(fields)

    assert error.value.status == 422
    assert len(error.value.message) < 300
    assert not any(value in error.value.message for _, value in fields if len(value) > 3 and value != "word")


def test_json_is_the_text_and_its_length() -> None:
    """Usage is counted in seconds of audio, as OpenAI bills it; begun ones count."""
    assert body(form()) == {"text": TEXT, "usage": {"type": "duration", "seconds": 3663}}


def test_text_is_the_text_alone() -> None:
    """With a line end, for a terminal."""
    assert rendered(form(response_format="text"), SEGMENTS, text=TEXT, audio_s=1) == TEXT + "\n"


def test_verbose_json_tells_segments_and_words_where_they_are_asked_for() -> None:
    """What nobody measured is null."""
    plain = body(form(response_format="verbose_json"))
    words = body(form(response_format="verbose_json", **{"timestamp_granularities[]": "word"}))

    assert (plain["language"], plain["duration"], plain["text"]) == ("de", 3662.5, TEXT)
    assert [(part["id"], part["start"], part["end"], part["text"]) for part in plain["segments"]] == [
        (0, 0.5, 1.25, "go <north> & on"),
        (1, 3661.001, 3662.0, "stop"),
    ]
    assert plain["segments"][0]["avg_logprob"] is plain["segments"][0]["no_speech_prob"] is None
    assert "words" not in plain and "segments" not in words
    assert words["words"] == [{"word": "go", "start": 0.5, "end": 0.75}, {"word": "on", "start": 1.0, "end": 1.25}]


def test_the_language_that_was_asked_for_is_the_one_that_is_told() -> None:
    """A recogniser's own word counts where none was asked for, and English where it has none."""
    empty = rendered(form(response_format="verbose_json"), (), text="", audio_s=0)

    assert body(form(response_format="verbose_json", language="fr"))["language"] == "fr"
    assert json.loads(empty)["language"] == "en"


def test_srt_numbers_its_cues() -> None:
    """A comma before the milliseconds, an empty line behind each cue."""
    assert rendered(form(response_format="srt"), SEGMENTS, text=TEXT, audio_s=1) == (
        "1\n00:00:00,500 --> 00:00:01,250\ngo <north> & on\n\n2\n01:01:01,001 --> 01:01:02,000\nstop\n\n"
    )


def test_vtt_escapes_what_would_be_markup() -> None:
    """A point before the milliseconds, a head, and no tag out of somebody's mouth."""
    assert rendered(form(response_format="vtt"), SEGMENTS, text=TEXT, audio_s=1) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.250\ngo &lt;north&gt; &amp; on\n\n01:01:01.001 --> 01:01:02.000\nstop\n\n"
    )


def test_no_text_can_end_its_cue() -> None:
    """Not by an empty line, and not by the look of a head."""
    evil = (Segment(text="a\n\n2\n00:00:00,000 --> 00:00:09,000\nb", start_s=0, end_s=1),)

    srt = rendered(form(response_format="srt"), evil, text="", audio_s=1)
    vtt = rendered(form(response_format="vtt"), evil, text="", audio_s=1)

    assert srt.count("\n") == 4
    assert vtt.count("\n") == 5 and vtt.count("-->") == 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "00:00:00.000"), (59.9996, "00:01:00.000"), (3599.9994, "00:59:59.999"), (360_000, "100:00:00.000")],
)
def test_a_clock_carries_over(seconds: float, shown: str) -> None:
    """Rounding never shows a sixtieth second, and an hour may have three digits."""
    assert clock(seconds, ".") == shown


def test_events_are_named_in_the_frame_and_in_the_data() -> None:
    """As OpenAI's client reads them; an error is one that it raises."""
    assert transcription.delta_frame("a\nb") == (
        b'event: transcript.text.delta\r\ndata: {"type":"transcript.text.delta","delta":"a\\nb"}\r\n\r\n'
    )
    assert b'"type":"transcript.text.done","text":"x"' in transcription.done_frame("x")
    assert json.loads(transcription.error_frame("c", "m").split(b"data: ")[1]) == {
        "type": "error",
        "error": {"code": "c", "message": "m"},
    }
