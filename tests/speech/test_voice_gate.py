"""Where speech begins and ends."""

from sibyl.speech.whisper.voice_gate import FRAME, FRAME_S, LEAST_FRAMES, VoiceBegan, VoiceEnded, VoiceGate

V, S, BETWEEN = 0.9, 0.1, 0.4


def events(gate: VoiceGate, *probabilities: float) -> list[VoiceBegan | VoiceEnded]:
    """Return what a gate says to these frames."""
    heard = [gate.hear(probability) for probability in probabilities]
    return [event for event in heard if event is not None]


def test_speech_begins_with_the_first_of_three_frames() -> None:
    """A shorter noise is none; the begin is where it began, not where it was noticed."""
    gate = VoiceGate(silence_s=0.5)

    assert events(gate, S, V, V, S, S) == []
    assert events(gate, V, V, V) == [VoiceBegan(5 * FRAME)]
    assert gate.speaking and LEAST_FRAMES == 3


def test_speech_ends_where_the_silence_began() -> None:
    """It is told when the silence lasted long enough."""
    gate = VoiceGate(silence_s=4 * FRAME_S)

    heard = events(gate, V, V, V, V, S, S, S, S, S)

    assert heard == [VoiceBegan(0), VoiceEnded(4 * FRAME)]
    assert not gate.speaking


def test_a_pause_in_speech_does_not_end_it() -> None:
    """One voiced frame begins the silence anew."""
    gate = VoiceGate(silence_s=4 * FRAME_S)

    heard = events(gate, V, V, V, S, S, S, V, S, S, S)

    assert heard == [VoiceBegan(0)]
    assert gate.pause_s == 3 * FRAME_S
    assert gate.voice_end == 7 * FRAME


def test_a_doubtful_frame_neither_begins_a_silence_nor_ends_one() -> None:
    """Between the two thresholds all stays as it is."""
    gate = VoiceGate(silence_s=3 * FRAME_S)

    assert events(gate, V, V, V, *[BETWEEN] * 10) == [VoiceBegan(0)]
    assert events(gate, S, BETWEEN, BETWEEN) == [VoiceEnded(13 * FRAME)]
    assert events(gate, *[BETWEEN] * 10) == []


def test_an_utterance_may_pause_for_as_long_as_was_asked_for() -> None:
    """Also for no time at all: then one frame of silence ends it."""
    patient, hasty = VoiceGate(silence_s=2.0), VoiceGate(silence_s=0.0)

    assert len(events(patient, V, V, V, *[S] * 61)) == 1
    assert events(hasty, V, V, V, S) == [VoiceBegan(0), VoiceEnded(3 * FRAME)]
