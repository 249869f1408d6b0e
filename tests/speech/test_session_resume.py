"""The session machine when its client is cut off and comes back, and what never changes, whatever comes."""

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sibyl.core.errors import RecogniserFailed
from sibyl.speech.effects import Feed, Resume, Stop
from sibyl.speech.hearing import (
    Flushed,
    Listening,
    Partial,
    Processed,
    UtteranceEnd,
)
from sibyl.speech.inlet import Flush
from sibyl.speech.session import Phase
from tests.speech.session_talk import SECOND, Talk, final, listening

# Cut and resumed ------------------------------------------------------------------------------------------------------


def test_a_client_that_comes_back_gets_what_it_missed_and_where_to_go_on() -> None:
    """From the last number that it saw, and the last whole sample that came."""
    talk = listening().audio(SECOND + b"\x05").heard(final("a"), final("b"))
    seen = talk.take()[1]["seq"]
    talk.session.cut_off(talk.now)
    talk.heard(final("c")).wait(5)

    assert talk.session.attach(seen, talk.now)

    said = [message for message in talk.take() if message["type"] != "ack"]
    assert [message.get("text") for message in said] == ["b", "c", None]
    assert (said[-1]["type"], said[-1]["resumed"], said[-1]["audio_received_s"]) == ("ready", True, 1.0)


def test_a_client_that_does_not_come_back_is_not_waited_for_longer_than_the_grace() -> None:
    """Its recogniser is stopped."""
    talk = listening()
    talk.session.cut_off(talk.now)

    assert talk.session.due == talk.now + 15
    assert talk.wait(15).effects[-1] == Stop()
    assert talk.session.over


def test_a_session_that_ended_while_its_client_was_away_still_tells_its_end() -> None:
    """Within the grace."""
    talk = listening().text(type="end_of_stream")
    talk.session.cut_off(talk.now)
    talk.heard(final("a")).returned()
    assert not talk.session.over

    assert talk.session.attach(0, talk.now)

    assert talk.types() == ["speech_started", "final", "utterance_end", "session_ended"]
    assert talk.session.closing == (1000, "Normal closure")


def test_a_half_sample_of_a_connection_that_is_half_open_does_not_shift_what_the_next_one_sends() -> None:
    """It sends from the last whole sample on; nobody saw the old connection end."""
    talk = listening().audio(b"\x01\x00\x02")

    assert talk.session.attach(0, talk.now)
    talk.audio(b"\x02\x00")

    assert [effect.item for effect in talk.effects if isinstance(effect, Feed)] == [b"\x01\x00", b"\x02\x00"]


def test_a_session_whose_grace_is_over_cannot_be_resumed() -> None:
    """Even while its thread has not ended: it would never say anything again."""
    talk = listening()
    talk.session.cut_off(talk.now)
    talk.wait(15)

    assert not talk.session.attach(0, talk.now)


def test_ready_names_the_last_number_before_it() -> None:
    """Also where messages with numbers still to come wait in front of it."""
    talk = listening().heard(final("a"))
    talk.session.cut_off(talk.now)
    assert talk.session.attach(0, talk.now)

    started, said, ready = talk.take()[:3]
    assert (started["seq"], said["seq"], ready["type"], ready["seq"]) == (1, 2, "ready", 2)


def test_a_config_with_a_token_asks_for_the_other_session() -> None:
    """Whoever carries out the effects knows it."""
    talk = Talk().text(resume={"token": "t", "last_seq": 4})

    assert talk.effects == [Resume("t", 4)]


# What never changes ---------------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.just(("audio", SECOND)),
    st.just(("audio", b"\x01")),
    st.just(("audio", b"")),
    st.sampled_from(
        [
            ("text", '{"type": "finalize", "id": 1}'),
            ("text", '{"type": "end_of_stream"}'),
            ("text", '{"type": "keepalive"}'),
            ("text", "rubbish"),
            ("text", '{"type": "new"}'),
            ("text", "{}"),
            ("cut", None),
            ("attach", None),
            ("shut_down", None),
            ("hear", "a"),
            ("hear", "b"),
            ("hear", "end"),
            ("hear", "partial"),
            ("fail", None),
        ]
    ),
    st.floats(0.1, 20).map(lambda seconds: ("wait", seconds)),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=40))
def test_whatever_comes_the_wire_keeps_its_promises(steps: list[tuple[str, Any]]) -> None:
    """Numbers rise by one, one end and it is the last, no partial after its final, times rise, all audio is heard."""
    talk = Talk().text()
    talk.heard(Listening(model="m"))
    heard_bytes, ended_feed, clock_s, cut = 0, False, 0.0, False
    fed = 0

    def hear_all() -> None:
        """The recogniser takes what was fed."""
        nonlocal fed, heard_bytes, ended_feed
        for effect in talk.effects[fed:]:
            if isinstance(effect, Feed) and isinstance(effect.item, bytes):
                heard_bytes += len(effect.item)
                talk.heard(Processed(audio_s=heard_bytes / 32_000))
            elif isinstance(effect, Feed) and isinstance(effect.item, Flush):
                talk.heard(Flushed(number=effect.item.number))
            elif isinstance(effect, Feed):
                ended_feed = True
        fed = len(talk.effects)

    for kind, value in steps:
        match kind:
            case "audio":
                if not cut:
                    talk.audio(value)
            case "text":
                if not cut:
                    talk.raw(value)
            case "cut":
                cut = True
                talk._after(talk.session.cut_off(talk.now))
            case "attach":
                if cut and not talk.session.over:
                    cut = False
                    assert talk.session.attach(talk.session.outbox.seq, talk.now)
            case "shut_down":
                talk._after(talk.session.shut_down(talk.now))
            case "hear":
                if not ended_feed:
                    clock_s += 0.1
                    if value == "end":
                        talk.heard(UtteranceEnd(last_word_end_s=clock_s))
                    elif value == "partial":
                        talk.heard(Partial(text="p", start_s=clock_s, end_s=clock_s))
                    else:
                        talk.heard(final(value, clock_s, clock_s))
            case "fail":
                talk.failed(RecogniserFailed())
            case "wait":
                talk.wait(value)
        hear_all()
        if ended_feed and talk.session.phase is Phase.DRAIN:
            talk.returned()
        talk.take()
    talk._after(talk.session.shut_down(talk.now))
    hear_all()
    talk.returned().take()

    said = [message for message in talk.said if "seq" in message and message["type"] != "ready"]
    assert [message["seq"] for message in said] == list(range(1, len(said) + 1))
    ends = [place for place, message in enumerate(talk.said) if message["type"] == "session_ended"]
    assert len(ends) <= 1
    if ends:
        assert ends[0] == len(talk.said) - 1
        end = talk.said[-1]
        if end["reason"] == "end_of_stream":
            assert end["totals"]["audio_processed_s"] == end["totals"]["audio_received_s"]
    finals = [message["utt"] for message in said if message["type"] == "final"]
    assert finals == sorted(set(finals))
    told: set[int] = set()
    speaking = False
    for message in said:
        match message["type"]:
            case "final":
                told.add(message["utt"])
            case "partial":
                assert message["utt"] not in told
            case "speech_started":
                assert not speaking
                speaking = True
            case "utterance_end":
                assert speaking
                speaking = False
    assert talk.session.phase is Phase.ENDED
    assert talk.session.closing is not None or talk.session.over
    if talk.session.over:
        assert talk.session.due == math.inf
