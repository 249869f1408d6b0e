"""The plugin's pure parts: what is kept of the audio, and how a session's clock stands to the stream's."""

from hypothesis import given
from hypothesis import strategies as st
from livekit.agents import LanguageCode
from livekit.plugins.custom_stt.audio import RetainedAudio
from livekit.plugins.custom_stt.clock import Clock
from livekit.plugins.custom_stt.options import Options
from livekit.plugins.custom_stt.session import Session

RATE_HZ = 16_000


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 20_000)), max_size=20), st.integers(1, 3))
def test_kept_audio_is_a_window_of_what_was_pushed(steps: list[tuple[int, int]], limit_s: int) -> None:
    """Whatever is pushed and let go: positions stay those of the whole, and no more than the limit is kept."""
    whole, audio = bytearray(), RetainedAudio(1000, limit_s)
    for samples, until in steps:
        pcm = bytes((len(whole) + index) % 251 for index in range(2 * samples))
        whole += pcm
        audio.append(pcm)
        audio.forget(until)

        assert audio.end == len(whole) // 2 or audio.start == audio.end
        assert audio.end - audio.start <= limit_s * 1000
        assert audio.read(audio.start, 10_000) == whole[2 * audio.start : 2 * audio.end]


def test_flushes_wait_for_their_answer_in_order() -> None:
    """One for each place in the audio; an answer that nobody asked for is none."""
    audio = RetainedAudio(1000, None)
    audio.flush()
    audio.flush()
    audio.append(bytes(20))
    audio.flush()

    first, second = audio.next_flush(0), audio.next_flush(1)
    assert first is not None
    assert second is not None
    assert ((first.number, first.position), (second.number, second.position)) == ((1, 0), (2, 10))
    assert audio.next_flush(2) is None
    assert audio.answered(1) == first
    assert audio.answered(1) is audio.answered(9) is None


def test_an_answered_flush_lets_the_audio_before_it_go() -> None:
    """All of it was told, also where no final came since there was nothing to tell."""
    audio = RetainedAudio(RATE_HZ, None)
    session = Session(Options(), LanguageCode("en"), audio)
    session.ready({"type": "ready", "resume_token": "a", "resumed": False})
    audio.append(bytes(2 * RATE_HZ))
    audio.flush()
    session.sending(RATE_HZ)
    session.finalized({"id": 1})

    assert (session.covered, audio.start) == (RATE_HZ, RATE_HZ)


def test_a_clock_with_a_jump_tells_begins_behind_it_and_ends_before_it() -> None:
    """A session that began at 2 s of the stream, and was not sent the second after its first one."""
    clock = Clock(1000, 2000)
    clock.jump(1000, 4000)

    assert (clock.sample(0.5), clock.sample(1.0), clock.sample(1.5)) == (2500, 4000, 4500)
    assert (clock.begin_s(0.5), clock.begin_s(1.0), clock.begin_s(1.5)) == (2.5, 4.0, 4.5)
    assert (clock.end_s(0.0), clock.end_s(1.0), clock.end_s(1.5)) == (2.0, 3.0, 4.5)


def test_events_that_were_seen_are_known_by_their_number_until_another_session_begins() -> None:
    """Numbers go on over all connections of one session, and begin anew with the next."""
    session = Session(Options(), LanguageCode("en"), RetainedAudio(RATE_HZ, None))
    session.ready({"type": "ready", "resume_token": "a", "resumed": False})
    final = {"type": "final", "seq": 1}

    assert session.is_new(final)
    assert not session.is_new(final)
    assert session.config["resume"] == {"token": "a", "last_seq": 1}
    assert session.is_new({"type": "ready", "seq": 1})
    assert session.ready({"type": "ready", "resume_token": "a", "resumed": True})
    assert not session.is_new(final)
    assert not session.ready({"type": "ready", "resume_token": "b", "resumed": False})
    assert session.is_new(final)


def test_a_new_session_begins_where_the_last_one_had_told_all() -> None:
    """Not where it had received all, and never before what was told."""
    audio = RetainedAudio(RATE_HZ, None)
    session = Session(Options(), LanguageCode("en"), audio)
    session.ready({"type": "ready", "resume_token": "a", "resumed": False})
    audio.append(bytes(2 * RATE_HZ))
    session.sending(RATE_HZ)
    session.ack({"audio_received_s": 1.0, "audio_processed_s": 0.9, "final_s": 0.25})
    session.final({"end": 0.5})
    session.ready({"type": "ready", "resume_token": "b", "resumed": False})

    assert (session.covered, session.sent, audio.start) == (8000, 8000, 8000)
    assert session.clock.begin_s(0.25) == 0.75
