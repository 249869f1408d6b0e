"""A session inside a child: utterances without end, and going on where another child stopped.

The decoder is a double that counts: what it is given shows in its words. PocketSphinx itself is in test_pocketsphinx.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from sibyl.speech.hearing import Final, SpeechStarted, UtteranceEnd
from sibyl.speech.pocketsphinx.listener import LONG_SAMPLES, LONGEST_SAMPLES, Listener
from sibyl.speech.pocketsphinx.messages import FRAME_SAMPLES, RATE_HZ, Begin, Reply, ResumePoint, Told

SPEECH = b"\1\0" * FRAME_SAMPLES
SILENCE = bytes(2 * FRAME_SAMPLES)


@dataclass
class Counted:
    """All the audio as one word."""

    word: str
    start_frame: int
    end_frame: int


class CountingDecoder:
    """Says how many samples an utterance has, and how far the mean has gone."""

    def __init__(self) -> None:
        self.mean = 40.0
        self.samples = 0
        self.longest = 0

    def start_stream(self) -> None: ...

    def activate_search(self, search_name: str | None = None) -> None: ...

    def add_jsgf_string(self, name: str, jsgf_string: str) -> None: ...

    def start_utt(self) -> None:
        self.samples = 0

    def process_raw(self, data: bytes, no_search: bool = False) -> None:
        self.samples += len(data) // 2
        self.longest = max(self.longest, self.samples)

    def end_utt(self) -> None:
        frames = self.samples // 160
        self.mean = (500 * self.mean + 30 * frames) / (500 + frames)

    def seg(self) -> Iterable[Counted]:
        yield Counted("<s>", 0, 0)
        yield Counted(f"{self.samples}(2)", 0, self.samples // 160 - 1)
        yield Counted("[NOISE]", 0, 0)

    def get_cmn(self, update: bool = False) -> str:
        return f"{self.mean:.6g},1.5,0"

    def set_cmn(self, cmn: str) -> None:
        self.mean = float(cmn.split(",")[0])


def listener(decoder: CountingDecoder, point: ResumePoint | None = None) -> Listener:
    """Return a listener for which every frame that is not all zero sounds like speech."""
    begin = Begin(at=0 if point is None else point.at, point=point or ResumePoint(), endpointing_s=0.3, interim=False)
    return Listener(decoder, lambda frame: any(frame), begin)


def story(replies: Iterable[Reply]) -> list[Told]:
    """Return all that was told."""
    return [item for reply in replies for item in reply.told]


@pytest.mark.parametrize("pause", [0, 4])
def test_speech_without_an_end_is_told_piece_by_piece(pause: int) -> None:
    """At a little pause after 20 s, or after 30 s wherever it is; no sample is lost between two utterances."""
    decoder = CountingDecoder()
    session = listener(decoder)
    seconds = SPEECH * (33 - pause) + SILENCE * pause

    replies = [session.hear(seconds) for _ in range(70)] + [session.stop()]

    finals = [item for item in story(replies) if isinstance(item, Final)]
    starts = [item for item in story(replies) if isinstance(item, SpeechStarted)]
    limit_samples = LONG_SAMPLES + RATE_HZ if pause else LONGEST_SAMPLES
    assert decoder.longest <= limit_samples
    assert len(finals) == len(starts) == (4 if pause else 3)
    assert [type(item) for item in story(replies)] == [SpeechStarted, Final, UtteranceEnd] * len(finals)
    said = sum(int(final.text) for final in finals)
    assert 0 <= 70 * 33 * FRAME_SAMPLES - said <= len(finals) * max(pause, 1) * FRAME_SAMPLES
    for one, other in zip(finals, starts[1:], strict=False):
        assert other.at_s >= one.end_s


@pytest.mark.parametrize("at_frames", [0, 7, 55, 90, 131, 200, 263])
def test_another_listener_goes_on_from_the_resume_point(at_frames: int) -> None:
    """It tells what the first one would have told from there, to the last digit of the mean."""
    audio = (SILENCE * 5 + SPEECH * 40 + SILENCE * 12) * 2 + SPEECH * 100 + SILENCE * 4 + SPEECH * 30 + SILENCE * 20
    pieces = [audio[start : start + 2 * FRAME_SAMPLES] for start in range(0, len(audio), 2 * FRAME_SAMPLES)]
    first = listener(CountingDecoder())
    before = [first.hear(piece) for piece in pieces[:at_frames]]
    point = before[-1].point if before else ResumePoint()
    expected = [*(first.hear(piece) for piece in pieces[at_frames:]), first.stop()]

    second = listener(CountingDecoder(), point)
    again = [second.hear(audio[2 * point.at :]), second.stop()]

    already = [item for item in story(before) if isinstance(item, SpeechStarted) and item.at_s * RATE_HZ >= point.at]
    assert story(again) == already + story(expected)
    assert again[-1].point == expected[-1].point
    assert point.at <= at_frames * FRAME_SAMPLES
