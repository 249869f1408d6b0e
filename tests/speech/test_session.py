"""The session machine, row by row of its table."""

import pytest

from sibyl.core.errors import InvalidRequest, RecogniserBusy, RecogniserFailed, RecogniserUnavailable, VendorRefused
from sibyl.speech.effects import Begin, Feed, Stop
from sibyl.speech.hearing import (
    Flushed,
    Listening,
    Partial,
    Processed,
    SpeechStarted,
    UtteranceEnd,
)
from sibyl.speech.inlet import END, Flush
from sibyl.speech.session import ERRORS, FLUSHES, FRAME_BYTES, UNREAD, Phase
from tests.speech.session_talk import SECOND, Talk, final, listening

# CONFIG and LOADING ---------------------------------------------------------------------------------------------------


def test_a_config_begins_a_session_and_ready_comes_when_the_recogniser_listens() -> None:
    """With message, limits and a token to resume with (002-6)."""
    talk = Talk().text(language="en", sample_rate=16_000, task="transcribe")

    assert isinstance(talk.effects[0], Begin)
    assert talk.types() == []
    ready = talk.heard(Listening(model="m")).take()[0]
    assert (ready["type"], ready["resumed"], ready["resume_token"], ready["model"]) == ("ready", False, "token", "m")
    assert ready["limits"]["idle_s"] == 30
    assert ready["message"]


def test_a_config_without_a_type_is_a_config() -> None:
    """As the first clients sent it (002-6)."""
    assert isinstance(Talk().raw('{"sample_rate": 8000}').effects[0], Begin)


@pytest.mark.parametrize(
    ("sent", "code", "close"),
    [
        ('{"sample_rate": 3}', "bad_config", 1008),
        ('{"sample_rate": "x"}', "bad_config", 1008),
        ('{"language": "english please"}', "bad_config", 1008),
        ('{"task": "translate"}', "bad_config", 1008),
        ('{"encoding": "opus"}', "unsupported", 1003),
        ('{"channels": 2}', "unsupported", 1003),
        ("nonsense", "bad_config", 1008),
        ("[1]", "bad_config", 1008),
        ('{"type": "keepalive"}', "bad_config", 1008),
        ("{" * 100_000, "bad_config", 1008),
    ],
)
def test_a_config_that_cannot_be_used_is_an_error_and_a_close(sent: str, code: str, close: int) -> None:
    """The error comes before the close, and says what is wrong."""
    talk = Talk().raw(sent)

    error = talk.take()[0]
    assert (error["type"], error["code"], error["fatal"]) == ("error", code, True)
    assert talk.session.closing is not None
    assert talk.session.closing[0] == close


def test_audio_before_the_config_is_refused() -> None:
    """Nobody knows its rate."""
    talk = Talk().audio(SECOND)

    assert talk.take()[0]["code"] == "unsupported"
    assert talk.session.closing is not None
    assert talk.session.closing[0] == 1003


def test_a_config_that_never_comes_is_not_waited_for() -> None:
    """Ten seconds are enough."""
    talk = Talk()

    assert talk.session.due == talk.now + 10
    assert talk.wait(10).take()[0]["code"] == "config_timeout"


@pytest.mark.parametrize(
    ("error", "code", "close"),
    [
        (RecogniserUnavailable("pip install it"), "model_unavailable", 1011),
        (RecogniserBusy(), "overloaded", 1013),
        (VendorRefused(), "auth", 1011),
        (InvalidRequest("language"), "bad_config", 1008),
        (RecogniserFailed(), "internal", 1011),
        (ValueError("secret"), "internal", 1011),
    ],
)
def test_a_recogniser_that_cannot_begin_says_why(error: Exception, code: str, close: int) -> None:
    """An error and a close, and no ready (002-5)."""
    talk = Talk().text().failed(error)

    said = talk.take()
    assert [(message["type"], message["code"]) for message in said] == [("error", code)]
    assert "secret" not in str(said)
    assert talk.session.closing is not None
    assert talk.session.closing[0] == close


def test_audio_that_comes_while_the_recogniser_loads_is_kept() -> None:
    """A client that does not wait for ready loses nothing."""
    talk = Talk().text().audio(SECOND)

    assert [effect for effect in talk.effects if isinstance(effect, Feed)] == [Feed(SECOND)]
    assert talk.heard(Listening(model="m")).take()[0]["audio_received_s"] == 1.0


# STREAM ---------------------------------------------------------------------------------------------------------------


def test_what_is_heard_is_told_with_numbers_times_and_words() -> None:
    """Speech started, partial, final, utterance end (000-3, 003-1)."""
    talk = listening().audio(SECOND)
    talk.heard(SpeechStarted(at_s=0.1), Partial(text="a", start_s=0.1, end_s=0.5), final("a b"))
    talk.heard(UtteranceEnd(last_word_end_s=1.0))

    said = talk.take()
    assert [(message["type"], message["seq"], message["utt"]) for message in said] == [
        ("speech_started", 1, 1),
        ("partial", 2, 1),
        ("final", 3, 1),
        ("utterance_end", 4, 1),
    ]
    assert said[0]["t"] == 0.1
    assert said[0]["timestamp"] == "2027-01-15T08:00:00.000Z"
    assert said[2]["words"] == [{"word": "a b", "start": 0.0, "end": 1.0, "confidence": None}]
    assert said[2]["language"] == "en"


def test_an_odd_byte_waits_for_its_other_half() -> None:
    """Frames may be cut anywhere."""
    talk = listening().audio(b"\x01").audio(b"\x00\x02").audio(b"\x00")

    assert [effect.item for effect in talk.effects if isinstance(effect, Feed)] == [b"\x01\x00", b"\x02\x00"]


def test_a_frame_that_is_too_large_ends_the_session() -> None:
    """1009, after an error and the totals."""
    talk = listening()
    talk.effects += talk.session.binary(bytes(FRAME_BYTES + 1), talk.now)

    assert [message.get("code") or message["type"] for message in talk.take()] == ["frame_too_large", "session_ended"]
    assert talk.session.closing == (1009, "frame_too_large")
    assert isinstance(talk.effects[-1], Stop)


def test_words_and_partials_come_only_where_they_are_wanted() -> None:
    """As the config says."""
    talk = listening(interim=False, words=False)
    talk.heard(Partial(text="a", start_s=0, end_s=1), final("a"))

    said = talk.take()
    assert [message["type"] for message in said] == ["speech_started", "final"]
    assert "words" not in said[1]


def test_finalize_is_always_answered() -> None:
    """After the finals of all before it; and at the end at the latest."""
    talk = listening().text(type="finalize", id="x")
    assert talk.effects[-1] == Feed(Flush(1))
    talk.heard(final("a"), Flushed(number=1))
    said = talk.take()
    assert [message["type"] for message in said] == ["speech_started", "final", "finalized"]
    assert said[1]["from_finalize"]
    assert said[2]["id"] == "x"

    talk.text(type="finalize", id="y").text(type="end_of_stream").text(type="finalize", id="z").returned()

    ids = [message["id"] for message in talk.take() if message["type"] == "finalized"]
    assert ids == ["y", "z"]


def test_a_session_that_fails_claims_nothing_of_what_it_did_not_hear() -> None:
    """A client would forget audio that was never told."""
    talk = listening().audio(SECOND).text(type="finalize", id="x").failed(RecogniserFailed())

    assert [message["type"] for message in talk.take() if message["type"] != "ack"] == ["error", "session_ended"]


def test_unreadable_text_is_forgiven_twenty_times() -> None:
    """Then the session ends, and what was said is told (002-8)."""
    talk = listening().audio(SECOND)
    for _ in range(ERRORS):
        talk.raw("no json")
    assert {(message["code"], message["fatal"]) for message in talk.take() if message["type"] == "error"} == {
        ("bad_message", False)
    }

    talk.raw("{").heard(final("a")).returned()

    assert [message["type"] for message in talk.take() if message["type"] != "ack"][-2:] == [
        "utterance_end",
        "session_ended",
    ]
    assert talk.session.closing is not None
    assert talk.session.closing[0] == 1008


def test_an_unknown_type_is_a_warning_and_a_second_config_an_error_that_ends_nothing() -> None:
    """Newer clients must not break (003-3)."""
    talk = listening().text(type="dance").text(sample_rate=8000)

    assert [message["code"] for message in talk.take()] == ["unknown_type", "already_configured"]
    assert talk.session.phase is Phase.STREAM


def test_a_session_that_is_idle_ends_and_a_keepalive_keeps_it() -> None:
    """No answer to a keepalive (003-2)."""
    talk = listening()
    for _ in range(5):
        talk.wait(20).text(type="keepalive")
    assert talk.types() == []

    talk.wait(30).returned()

    said = talk.take()
    assert [message["type"] for message in said] == ["error", "session_ended"]
    assert (said[0]["code"], said[1]["reason"]) == ("idle_timeout", "idle_timeout")
    assert talk.session.closing == (1008, "Idle")


def test_the_longest_session_is_warned_before_it_ends() -> None:
    """A minute before."""
    talk = listening()
    for _ in range(94):
        talk.wait(10).text(type="keepalive")

    assert [message["code"] for message in talk.take()] == ["expiring"]
    for _ in range(6):
        talk.wait(10).text(type="keepalive")
    assert talk.returned().take()[-1]["reason"] == "max_session"
    assert talk.session.closing == (1000, "Normal closure")


def test_a_backlog_is_warned_of_then_costs_partials_then_the_session() -> None:
    """Never audio without a word (6c, 6)."""
    talk = listening().audio(SECOND * 4).audio(SECOND)
    assert [message["code"] for message in talk.take()] == ["lag"]
    talk.heard(Partial(text="a", start_s=0, end_s=1))
    assert talk.types() == ["speech_started", "partial"]
    talk.audio(SECOND * 2).heard(Partial(text="a b", start_s=0, end_s=1))
    assert talk.types() == []

    talk.audio(SECOND * 24).heard(final("a"), Processed(audio_s=31)).returned()

    said = talk.take()
    assert [message.get("code") or message["type"] for message in said] == [
        "overloaded",
        "final",
        "utterance_end",
        "session_ended",
    ]
    assert said[0]["retry_after_s"] > 0
    assert talk.session.closing == (1013, "Overloaded")


def test_acks_tell_how_far_it_is_every_half_second() -> None:
    """And only if something changed."""
    talk = listening().audio(SECOND).wait(0.5)
    assert talk.take() == [
        {"type": "ack", "audio_received_s": 1.0, "audio_processed_s": 0.0, "final_s": 0.0, "lag_s": 1.0}
    ]
    assert talk.wait(5).types() == []

    talk.heard(final("a", 0.2, 0.8), UtteranceEnd(last_word_end_s=0.8), Processed(audio_s=1.0)).wait(0.5)

    assert talk.take()[-1] == {
        "type": "ack",
        "audio_received_s": 1.0,
        "audio_processed_s": 1.0,
        "final_s": 0.8,
        "lag_s": 0.0,
    }


def test_silence_is_told_as_well_so_that_nobody_keeps_it() -> None:
    """But for the last second, in which somebody may have begun to speak."""
    talk = listening().audio(SECOND * 3).heard(Processed(audio_s=3.0)).wait(0.5)

    assert talk.take()[-1]["final_s"] == 2.0


def test_a_recogniser_that_fails_ends_the_session_with_what_was_told_and_no_detail() -> None:
    """1011 (003-4)."""
    talk = listening().heard(SpeechStarted(at_s=0)).failed(ValueError("secret"))

    said = talk.take()
    assert [message["type"] for message in said] == ["speech_started", "error", "utterance_end", "session_ended"]
    assert "secret" not in str(said)
    assert said[1]["code"] == said[-1]["reason"] == "internal"
    assert talk.session.closing == (1011, "internal")


# DRAIN ----------------------------------------------------------------------------------------------------------------


def test_the_end_of_the_stream_tells_the_rest_as_one_final_then_the_totals_then_closes() -> None:
    """In this order, with 1000 "Normal closure" (002-7, 003-1)."""
    talk = listening().audio(SECOND * 3).text(type="end_of_stream")
    assert talk.effects[-1] == Feed(END)
    talk.heard(final("a", 0, 1), UtteranceEnd(last_word_end_s=1.0), SpeechStarted(at_s=2))
    talk.heard(final("b", 2, 3), UtteranceEnd(last_word_end_s=3.0), Processed(audio_s=3.0))
    assert talk.types() == ["speech_started"]
    assert talk.session.closing is None

    talk.returned()

    said = talk.take()
    assert [message["type"] for message in said] == ["final", "utterance_end", "session_ended"]
    assert said[0]["text"] == "a b"
    totals = said[-1]["totals"]
    assert totals["audio_processed_s"] == totals["audio_received_s"] == 3.0
    assert (totals["finals"], totals["bytes"]) == (1, len(SECOND) * 3)
    assert talk.session.closing == (1000, "Normal closure")


def test_late_audio_is_dropped_with_one_warning_and_counted() -> None:
    """And a second end of the stream is ignored (003-8)."""
    talk = listening().text(type="end_of_stream").text(type="end_of_stream").audio(SECOND).audio(SECOND)

    assert [message["code"] for message in talk.take()] == ["late_audio"]
    assert talk.returned().take()[-1]["totals"]["dropped_s"] == 2.0


def test_a_rest_that_is_never_heard_is_not_waited_for() -> None:
    """drain_s."""
    talk = listening().text(type="end_of_stream").wait(20)

    assert [message.get("code") or message["type"] for message in talk.take()] == ["drain_timeout", "session_ended"]
    assert isinstance(talk.effects[-1], Stop)


def test_a_server_that_ends_drains_its_sessions() -> None:
    """1012, after the rest."""
    talk = listening()
    talk.effects += talk.session.shut_down(talk.now)
    talk.heard(final("a")).returned()

    assert talk.take()[-1]["reason"] == "server_shutdown"
    assert talk.session.closing is not None
    assert talk.session.closing[0] == 1012


def test_a_flush_at_the_end_is_answered_behind_the_final_that_it_asked_for() -> None:
    """The rest is told as one final; until then nobody may believe that all before the flush was told."""
    talk = listening().audio(SECOND).text(type="finalize", id="x").text(type="end_of_stream")
    talk.heard(final("a", 0, 1), Flushed(number=1), Processed(audio_s=1.0)).wait(1)
    assert [(message["type"], message.get("final_s")) for message in talk.take()] == [
        ("speech_started", None),
        ("ack", 0.0),
    ]

    talk.returned()

    assert talk.types() == ["final", "utterance_end", "finalized", "session_ended"]


def test_a_flush_claims_no_more_than_was_told() -> None:
    """Who begins anew sends again from there: not what was told in a partial only, nor what is not decoded."""
    talk = listening().audio(SECOND * 3).text(type="finalize")
    talk.heard(final("a", 0, 1), Partial(text="b", start_s=1.5, end_s=2), Processed(audio_s=2.5), Flushed(number=1))
    assert talk.wait(1).take()[-1]["final_s"] == 1.0

    talk.text(type="finalize").heard(final("b", 1.5, 2), UtteranceEnd(last_word_end_s=2.0), Flushed(number=2))

    assert talk.wait(1).take()[-1]["final_s"] == 2.5


def test_nothing_comes_behind_the_end_whatever_else_is_due_with_it() -> None:
    """An ack was due in the same moment."""
    talk = listening().wait(0.5).text(type="end_of_stream")
    talk.heard(SpeechStarted(at_s=0), Processed(audio_s=1.0)).wait(20)

    assert talk.types()[-1] == "session_ended"


def test_the_rest_is_waited_for_from_the_moment_at_which_the_recogniser_listens() -> None:
    """A client that does not wait for ready may send all, and its end, while a model is loaded."""
    talk = Talk().text().audio(SECOND).text(type="end_of_stream").wait(100)
    assert talk.take() == []

    talk.heard(Listening(model="m")).wait(19).heard(final("a"), Processed(audio_s=1.0)).returned()

    assert [kind for kind in talk.types() if kind != "ack"][-3:] == ["final", "utterance_end", "session_ended"]
    assert talk.session.closing == (1000, "Normal closure")


def test_a_load_is_not_waited_for_longer_because_the_audio_has_ended() -> None:
    """As without."""
    talk = Talk().text().text(type="end_of_stream").wait(300)

    assert talk.take()[-1]["code"] == "model_unavailable"


def test_the_end_of_an_utterance_stands_where_its_last_word_ended() -> None:
    """Also if the audio ended between the final and the end of the utterance."""
    talk = listening().audio(SECOND * 4).heard(final("a", 0, 1)).text(type="end_of_stream")
    talk.heard(UtteranceEnd(last_word_end_s=1.0), Processed(audio_s=4.0)).returned()

    assert [message["last_word_end"] for message in talk.take() if message["type"] == "utterance_end"] == [1.0]


# Floods ---------------------------------------------------------------------------------------------------------------


def test_answers_to_a_flood_wait_once_each_however_slow_the_client_reads() -> None:
    """The memory of a session is not the client's to fill."""
    talk = listening()
    for _ in range(1000):
        talk.text(type="dance").text(sample_rate=8000)

    assert [message["code"] for message in talk.take()] == ["unknown_type", "already_configured"]


def test_more_flushes_than_can_be_answered_end_the_session() -> None:
    """With an error, and all that were accepted are answered."""
    talk = listening()
    for number in range(FLUSHES + 5):
        talk.text(type="finalize", id=number)
    assert sum(isinstance(effect, Feed) and isinstance(effect.item, Flush) for effect in talk.effects) == FLUSHES

    said = talk.returned().take()

    assert (said[0]["code"], said[0]["fatal"]) == ("too_many_errors", True)
    assert [message["id"] for message in said if message["type"] == "finalized"] == list(range(FLUSHES))
    assert talk.session.closing is not None
    assert talk.session.closing[0] == 1008


def test_a_client_that_flushes_and_does_not_read_is_not_listened_to_for_ever() -> None:
    """The recogniser answers each flush at once."""
    talk = listening()
    for number in range(3 * UNREAD):
        talk.text(type="finalize", id="x" * 200).heard(Flushed(number=number + 1))

    assert len(talk.session.outbox) <= UNREAD + 3
