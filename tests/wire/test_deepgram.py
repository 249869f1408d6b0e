"""Deepgram's dialect, message by message, without a socket."""

import hashlib
import json
from typing import Any

import pytest

from sibyl.wire.deepgram import Dialect, ListenRefused, Wishes, read_query

QUERY = {"model": "nova-3", "encoding": "linear16", "sample_rate": "16000"}
ALL = {"interim_results": "true", "vad_events": "true", "utterance_end_ms": "1000"}
FINAL: dict[str, Any] = {
    "type": "final",
    "seq": 4,
    "utt": 1,
    "text": "Hello, World.",
    "confidence": 0.75,
    "start": 0.1,
    "end": 0.9,
    "words": [
        {"word": "Hello,", "start": 0.1, "end": 0.4, "confidence": 0.5},
        {"word": "World.", "start": 0.5, "end": 0.9, "confidence": None},
    ],
    "language": "en",
}
END = {"type": "utterance_end", "seq": 5, "utt": 1, "last_word_end": 0.9, "timestamp": "2026-01-01T00:00:00Z"}


def wishes(**more: str) -> Wishes:
    """Return what a query asks for."""
    return read_query({**QUERY, **more})


def dialect(**more: str) -> Dialect:
    """Return a dialect that tells all, unless it is asked otherwise."""
    return Dialect(wishes(**{**ALL, **more}), request_id="r", created="2026-01-01T00:00:00.000+00:00")


def flags(message: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Return is_final, speech_final and from_finalize."""
    return message["is_final"], message["speech_final"], message["from_finalize"]


def test_a_query_becomes_a_config() -> None:
    """What our session can do is asked of it; the rest is Deepgram's default."""
    plain = wishes()
    assert plain.config == {"encoding": "linear16", "sample_rate": "16000", "language": "en", "interim": False}
    assert (plain.interim, plain.vad_events, plain.utterance_end, plain.speech_final) == (False, False, False, True)

    full = wishes(**ALL, endpointing="500", language="de-AT", smart_format="true", punctuate="true", keyterm="Sibyl")
    assert full.config["endpointing_ms"] == 500
    assert full.config["language"] == "de-AT"
    assert full.config["interim"] is True
    assert (full.interim, full.vad_events, full.utterance_end) == (True, True, True)


@pytest.mark.parametrize(
    ("asked", "ms", "speech_final"),
    [("false", None, False), ("true", None, True), ("10", 10, True), ("0", 10, True), ("300", 300, True)],
)
def test_endpointing_is_a_time_or_false(asked: str, ms: int | None, speech_final: bool) -> None:
    """Without it ``speech_final`` is never told; a time below ours is ours."""
    read = wishes(endpointing=asked)
    assert read.config.get("endpointing_ms") == ms
    assert read.speech_final is speech_final


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"encoding": "opus"}, "encoding"),
        ({"encoding": ""}, "encoding"),
        ({"channels": "2"}, "channels"),
        ({"multichannel": "true"}, "channels"),
        ({"endpointing": "soon"}, "endpointing"),
        ({"interim_results": "perhaps"}, "interim_results"),
        ({"redact": "pci"}, "redact"),
        ({"callback": "https://example.org"}, "callback"),
        ({"diarize": "true"}, "diarize"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(query: dict[str, str], words: str) -> None:
    """Also what a client would rely on: nobody should believe that a number was redacted."""
    with pytest.raises(ListenRefused, match=words):
        wishes(**query)


def test_a_rate_is_needed() -> None:
    """A wrong guess would make noise of speech."""
    with pytest.raises(ListenRefused, match="sample_rate"):
        read_query({"encoding": "linear16"})


def test_an_option_that_is_off_is_no_reason_to_refuse() -> None:
    """SDKs of other languages send every option."""
    assert wishes(diarize="false", multichannel="false").config["encoding"] == "linear16"


def test_a_final_waits_for_its_end() -> None:
    """The end of the utterance is a flag of the final, and UtteranceEnd comes behind it."""
    told = dialect()
    assert told.messages(FINAL) == []
    assert told.messages(END) == []
    results, end = told.messages({"type": "ack"})
    assert flags(results) == (True, True, False)
    assert end == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 0.9}
    assert (results["start"], results["duration"]) == (0.1, 0.8)
    (alternative,) = results["channel"]["alternatives"]
    assert alternative["transcript"] == "Hello, World."
    assert alternative["confidence"] == 0.75
    assert alternative["words"] == [
        {"word": "hello", "punctuated_word": "Hello,", "start": 0.1, "end": 0.4, "confidence": 0.5},
        {"word": "world", "punctuated_word": "World.", "start": 0.5, "end": 0.9, "confidence": 0.0},
    ]


def test_a_final_in_the_middle_of_speech_is_told_with_the_next_message() -> None:
    """Without ``speech_final``."""
    told = dialect()
    told.messages(FINAL)
    first, second = told.messages(FINAL | {"type": "partial", "text": "and"})
    assert flags(first) == (True, False, False)
    assert flags(second) == (False, False, False)


def test_an_end_that_comes_late_is_told_by_an_empty_final() -> None:
    """A client that gathers until ``speech_final`` gets it all the same."""
    told = dialect()
    told.messages(FINAL)
    assert flags(told.messages({"type": "ack"})[0]) == (True, False, False)
    empty, end = told.messages(END)
    assert flags(empty) == (True, True, False)
    assert empty["channel"]["alternatives"][0]["transcript"] == ""
    assert (empty["start"], empty["duration"]) == (0.9, 0.0)
    assert end["type"] == "UtteranceEnd"


def test_finalize_is_answered_on_its_final_or_by_an_empty_one() -> None:
    """Deepgram may leave it without an answer; ours always has one."""
    told = dialect()
    told.messages(FINAL | {"from_finalize": True})
    told.messages(END)
    results, end = told.messages({"type": "finalized", "id": None})
    assert flags(results) == (True, True, True)
    assert end["type"] == "UtteranceEnd"
    (empty,) = told.messages({"type": "finalized", "id": None})
    assert flags(empty) == (True, False, True)


def test_two_finals_are_told_in_order() -> None:
    """The second one releases the first."""
    told = dialect()
    told.messages(FINAL)
    (first,) = told.messages(FINAL | {"text": "second", "start": 1.0, "end": 2.0})
    assert first["channel"]["alternatives"][0]["transcript"] == "Hello, World."
    (second,) = told.messages({"type": "ack"})
    assert second["channel"]["alternatives"][0]["transcript"] == "second"


def test_only_what_was_asked_for_is_told() -> None:
    """No interim results, no VAD events, no UtteranceEnd, no ``speech_final``."""
    told = Dialect(wishes(endpointing="false"), request_id="r", created="")
    assert told.messages({"type": "speech_started", "t": 0.1}) == []
    assert told.messages(FINAL | {"type": "partial"}) == []
    told.messages(FINAL)
    told.messages(END)
    (results,) = told.messages({"type": "ack"})
    assert flags(results) == (True, False, False)
    assert told.messages(END) == []


def test_speech_started_has_the_time_of_the_audio() -> None:
    """Seconds from its begin."""
    assert dialect().messages({"type": "speech_started", "t": 0.3}) == [
        {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.3}
    ]


def test_the_summary_tells_length_and_digest_of_the_audio() -> None:
    """Of all frames, in order."""
    told = dialect()
    assert [len(piece) for piece in told.audio(b"\1\2" * 50_000)] == [65_536, 34_464]
    assert told.audio(b"") == []
    told.messages({"type": "ready", "model": "scripted"})
    told.messages(FINAL)
    results, summary = told.messages({"type": "session_ended", "totals": {"audio_processed_s": 3.125}})
    assert results["metadata"]["model_info"]["name"] == "scripted"
    assert summary["type"] == "Metadata"
    assert summary["sha256"] == hashlib.sha256(b"\1\2" * 50_000).hexdigest()
    assert (summary["duration"], summary["channels"], summary["request_id"]) == (3.125, 1, "r")


@pytest.mark.parametrize(
    ("theirs", "ours"), [("KeepAlive", "keepalive"), ("Finalize", "finalize"), ("CloseStream", "end_of_stream")]
)
def test_a_clients_message_becomes_ours(theirs: str, ours: str) -> None:
    """By its type."""
    assert json.loads(dialect().text(json.dumps({"type": theirs}))) == {"type": ours}


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", "{}", '{"typ": "Finalize"}', "[" * 100_000])
def test_what_is_no_message_is_an_error_of_the_session(text: str) -> None:
    """It is never taken for a config."""
    passed = dialect().text(text)
    with pytest.raises((ValueError, RecursionError, AssertionError)):
        assert isinstance(json.loads(passed), dict)


def test_configure_is_answered_in_its_turn() -> None:
    """Where our session warns that it does not know the type; other unknown types are passed over."""
    told = dialect()
    for message in ({"type": "Configure", "keyterms": ["x"]}, {"type": "NewInV9"}, {"type": "Configure"}):
        assert json.loads(told.text(json.dumps(message))) == {"type": "unknown"}
    warning = {"type": "warning", "code": "unknown_type", "message": ""}
    (failure,) = told.messages(warning)
    assert (failure["type"], failure["code"]) == ("ConfigureFailure", "CONFIGURE_KEYTERMS_NOT_SUPPORTED")
    assert told.messages(warning) == []
    assert told.messages({"type": "warning", "code": "lag", "message": ""}) == []
    assert told.messages(warning) == [{"type": "ConfigureSuccess", "request_id": "r"}]


@pytest.mark.parametrize(
    ("code", "close"),
    [
        ("idle_timeout", (1011, "NET-0001")),
        ("internal", (1011, "NET-0000")),
        ("bad_config", (1008, "DATA-0000")),
        ("server_shutdown", (1012, "The server ends")),
    ],
)
def test_a_fault_is_told_and_closes_as_deepgram_does(code: str, close: tuple[int, str]) -> None:
    """An Error message, then a code and its payload; what Deepgram has no code for keeps ours."""
    told = dialect()
    (error,) = told.messages({"type": "error", "code": code, "message": "Because.", "fatal": True})
    assert (error["type"], error["variant"], error["description"]) == ("Error", code, "Because.")
    assert told.closing(1012, "The server ends") == close
    assert dialect().closing(1000, "Normal closure") == (1000, "Normal closure")
