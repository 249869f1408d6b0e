"""Deepgram's messages in every order that may come, without a connection."""

from types import SimpleNamespace
from typing import Any

import pytest

from sibyl.speech.deepgram.kept import KeptAudio
from sibyl.speech.deepgram.transcript import Transcript
from sibyl.speech.hearing import Final, Flushed, Heard, Partial, Processed, SpeechStarted, UtteranceEnd


def results(text: str, start: float, end: float, *, final: bool = True, **more: Any) -> SimpleNamespace:
    """Return a Results message; its words share the time evenly."""
    said = text.split()
    step = (end - start) / max(1, len(said))
    words = [
        SimpleNamespace(word=word, start=start + step * place, end=start + step * (place + 1), confidence=0.5)
        for place, word in enumerate(said)
    ]
    said_so = SimpleNamespace(transcript=text, confidence=0.5, words=words, **more.pop("said", {}))
    channel = SimpleNamespace(alternatives=[said_so])
    return SimpleNamespace(type="Results", start=start, duration=end - start, is_final=final, channel=channel, **more)


def utterance_end(last_word_end: float) -> SimpleNamespace:
    """Return an UtteranceEnd message."""
    return SimpleNamespace(type="UtteranceEnd", last_word_end=last_word_end)


def speech_started(timestamp: float) -> SimpleNamespace:
    """Return a SpeechStarted message."""
    return SimpleNamespace(type="SpeechStarted", timestamp=timestamp)


@pytest.fixture
def transcript() -> Transcript:
    """A transcript of a minute that was sent."""
    transcript = Transcript(interim=True, words=True, flush_s=3.0)
    transcript.audio_s = 60.0
    return transcript


def told(transcript: Transcript, *messages: object) -> list[Heard]:
    """Return all that these messages tell but ``Processed``."""
    heard = [item for message in messages for item in transcript.take(message, 0.0)]
    return [item for item in heard if not isinstance(item, Processed)]


def kinds(heard: list[Heard]) -> list[type[Heard]]:
    """Return the kinds."""
    return [type(item) for item in heard]


def test_an_utterance_in_several_finals_ends_once(transcript: Transcript) -> None:
    """Pieces that are final come at once; ``speech_final`` ends it; UtteranceEnd says nothing new."""
    heard = told(
        transcript,
        speech_started(0.9),
        results("one", 0, 1, final=False),
        results("one", 0, 2),
        results("two", 2, 3, speech_final=True),
        utterance_end(3.0),
    )
    assert kinds(heard) == [SpeechStarted, Partial, Final, Final, UtteranceEnd]
    assert heard[-1] == UtteranceEnd(last_word_end_s=3.0)


def test_what_is_heard_without_a_begin_gets_one(transcript: Transcript) -> None:
    """Partials and finals open an utterance where SpeechStarted did not come."""
    assert kinds(told(transcript, results("one", 0, 1, final=False))) == [SpeechStarted, Partial]
    assert kinds(told(transcript, results("one", 0, 2, speech_final=True))) == [Final, UtteranceEnd]
    assert kinds(told(transcript, results("two", 2, 3))) == [SpeechStarted, Final]


def test_a_late_end_of_the_last_utterance_does_not_end_the_next_one(transcript: Transcript) -> None:
    """UtteranceEnd comes a second late; it belongs to whose last word it names."""
    told(transcript, results("one", 0, 1, speech_final=True), speech_started(1.5))
    assert told(transcript, utterance_end(1.0)) == []
    assert kinds(told(transcript, results("two", 1, 3), utterance_end(3.0))) == [Final, UtteranceEnd]


def test_an_end_waits_for_the_final_of_what_was_told(transcript: Transcript) -> None:
    """All of an utterance is in finals when its end is told."""
    told(transcript, results("one", 0, 1), results("two", 1, 2, final=False))
    assert told(transcript, utterance_end(1.5)) == []
    assert kinds(told(transcript, results("two", 1, 2))) == [Final, UtteranceEnd]


def test_an_end_without_a_time_has_that_of_the_last_word(transcript: Transcript) -> None:
    """Deepgram says -1 where it knows none."""
    told(transcript, results("one", 0, 1))
    assert told(transcript, utterance_end(-1)) == [UtteranceEnd(last_word_end_s=1.0)]


def test_noise_that_was_no_speech_ends(transcript: Transcript) -> None:
    """A second after it began, with a final that says nothing; the begin of a noise is told once."""
    assert kinds(told(transcript, speech_started(1.0), speech_started(1.1))) == [SpeechStarted]
    assert told(transcript, results("", 0, 1.5, speech_final=True)) == []
    assert told(transcript, results("", 1.5, 2.5)) == [UtteranceEnd(last_word_end_s=1.0)]


def test_a_final_that_comes_twice_is_told_once(transcript: Transcript) -> None:
    """Also a part of it."""
    assert kinds(told(transcript, results("one two", 0, 2))) == [SpeechStarted, Final]
    assert told(transcript, results("one two", 0, 2), results("one", 0, 1)) == []


def test_another_connection_has_another_clock(transcript: Transcript) -> None:
    """Times are those of the audio; what was told in partials is forgotten, what was told in finals stays."""
    told(transcript, results("one", 0, 2), results("tw", 2, 3, final=False))
    transcript.begin(2.0, 5.0)
    assert not transcript.pending
    final = told(transcript, results("two", 0, 1))[0]
    assert isinstance(final, Final)
    assert (final.start_s, final.end_s, final.words[0].start_s) == (2.0, 3.0, 2.0)
    assert transcript.final_s == 3.0


def test_a_connection_that_took_the_end_with_it_leaves_no_utterance_open(transcript: Transcript) -> None:
    """The next one knows nothing of it; a second of silence ends it."""
    told(transcript, results("one", 0, 2))
    transcript.begin(2.0, 0.0)
    assert told(transcript, results("", 0, 1.0)) == [UtteranceEnd(last_word_end_s=2.0)]


def test_more_than_was_sent_cannot_be_processed(transcript: Transcript) -> None:
    """Deepgram's times are rounded; ours end where the audio ends."""
    transcript.audio_s = 1.999
    (processed,) = transcript.take(results("", 0, 2.0), 0.0)
    assert processed == Processed(audio_s=1.999)
    assert transcript.final_s == 1.999


def test_the_end_tells_what_is_left(transcript: Transcript) -> None:
    """The last partial, an open utterance, flushes, and the length."""
    told(transcript, results("one", 0, 1, final=False))
    transcript.flush(4, 1.0, 0.0)
    heard = transcript.end()
    assert kinds(heard) == [Final, Flushed, UtteranceEnd, Processed]
    assert heard[-1] == Processed(audio_s=60.0)


def test_a_flush_is_answered_by_the_first_good_sign(transcript: Transcript) -> None:
    """All before it was told already; a final reaches it; ``from_finalize`` says so, for one; time is over."""
    assert transcript.flush(1, 0.0, 0.0) == [Flushed(number=1)]
    assert transcript.flush(2, 2.0, 0.0) == []
    assert kinds(told(transcript, results("one", 0, 2))) == [SpeechStarted, Final, Flushed]
    transcript.flush(3, 5.0, 0.0)
    transcript.flush(4, 6.0, 0.0)
    heard = told(transcript, results("", 2, 4, from_finalize=True))
    assert [item for item in heard if isinstance(item, Flushed)] == [Flushed(number=3)]
    assert transcript.overdue(2.9) == []
    assert transcript.overdue(3.0) == [Flushed(number=4)]
    assert not transcript.flushing


def test_progress_puts_a_flush_off(transcript: Transcript) -> None:
    """A vendor that is behind is still on its way to what was asked; once it is there, time runs."""
    transcript.flush(1, 10.0, 0.0)
    transcript.take(results("a", 0, 9, final=False), 2.0)
    assert transcript.overdue(4.9) == []
    transcript.take(results("a", 0, 11, final=False), 4.9)
    assert transcript.overdue(5.0) == [Flushed(number=1)]


def test_the_language_is_the_vendors_if_it_says_one(transcript: Transcript) -> None:
    """The first of several, with ``language=multi``."""
    heard = told(
        transcript, results("eins", 0, 1, said={"languages": ["de", "en"]}), results("two", 1, 2), results("x", 2, 3)
    )
    assert [item.language for item in heard if isinstance(item, Final)] == ["de", None, None]


@pytest.mark.parametrize(
    "message",
    [
        None,
        b"\0",
        SimpleNamespace(type="Results"),
        SimpleNamespace(type="Results", start=0, duration=1, is_final=True, channel=None),
        SimpleNamespace(type="Results", start="0", duration=1, is_final=True, channel=None),
        SimpleNamespace(type="Results", start=0, duration=float("nan"), channel=SimpleNamespace(alternatives=[])),
        SimpleNamespace(type="SpeechStarted", timestamp=None),
        SimpleNamespace(type=["Results"]),
    ],
)
def test_what_cannot_be_read_is_counted(transcript: Transcript, message: object) -> None:
    """And changes nothing (1.3)."""
    assert transcript.take(message, 0.0) == []
    assert transcript.ignored == 1
    assert transcript.final_s == transcript.processed_s == 0.0


def test_a_word_without_times_is_left_out(transcript: Transcript) -> None:
    """The text stays whole, and a confidence out of bounds is none."""
    message = results("one two", 0, 2)
    message.channel.alternatives[0].words[1].end = None
    message.channel.alternatives[0].words[0].confidence = 1.5
    (final,) = [item for item in told(transcript, message) if isinstance(item, Final)]
    assert final.text == "one two"
    assert [(word.text, word.confidence) for word in final.words] == [("one", None)]


def test_settled_is_what_was_told_or_was_silence(transcript: Transcript) -> None:
    """Silence is settled two seconds after it was decoded, speech when it was told."""
    transcript.take(results("", 0, 10, final=False), 0.0)
    assert transcript.settled_s == 8.0
    transcript.take(results("one", 0, 12, final=False), 0.0)
    assert transcript.settled_s == 0.0
    transcript.take(results("one", 0, 12), 0.0)
    assert transcript.settled_s == 12.0


def test_audio_is_kept_to_the_sample() -> None:
    """What was told is forgotten, in the middle of a piece too; nothing comes back."""
    kept = KeptAudio(8000)
    for piece in (b"aabb", b"ccdd", b"eeff"):
        kept.add(piece)
    kept.forget(3 / 8000)
    assert list(kept) == [b"dd", b"eeff"]
    assert (kept.first_s, kept.end_s) == (3 / 8000, 6 / 8000)
    kept.forget(2 / 8000)
    assert list(kept) == [b"dd", b"eeff"]
    kept.forget(99.0)
    assert list(kept) == []
    assert kept.first_s == kept.end_s == 6 / 8000
