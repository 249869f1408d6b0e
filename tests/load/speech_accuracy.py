"""How well and how fast PocketSphinx hears through Sibyl, beside its plain decoder with default settings.

Recorded human speech (tests/human_speech.py) in pieces of 100 ms, as fast as they are taken: each recording as a
session of its own, and all of them as one session with a second of silence behind each. The plain decoder hears the
same recordings one after another, with a look at its text after each piece, and keeps what it learned from one to the
next, as it does. Sides alternate. The sets are small, 71 and 21 words: one word is 1.4 or 4.8 points.
"""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jiwer
import pocketsphinx

from sibyl.bridge.abort import Abort
from sibyl.speech.hearing import Final, Heard, Processed
from sibyl.speech.inlet import END, AudioInlet
from sibyl.speech.pocketsphinx.recogniser import PocketSphinxRecogniser
from sibyl.speech.recogniser import RecognitionRequest
from tests.human_speech import RATE_HZ, Recording, cards, joined, librivox

ROUNDS = 5
PIECE_BYTES = RATE_HZ // 10 * 2
_FRAME_S = 0.03  # the last one is only processed at the end


@dataclass(slots=True)
class Side:
    """What one side heard, and what it took."""

    texts: list[str] = field(default_factory=list)  #: of the last round
    rtfs: list[float] = field(default_factory=list)  #: of each round
    ends_s: list[float] = field(default_factory=list)  #: from the end of the audio to the return


Hear = Callable[[list[Recording], Side], None]


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return word error rates, real-time factors and the time to the end."""
    rounds = max(1, round(ROUNDS * scale))
    ours = PocketSphinxRecogniser(processes=1)
    try:
        _ours(ours, cards()[:1], Side())  # loads the model
        figures: dict[str, Any] = {
            "what": f"recorded human speech in pieces of 100 ms, {rounds} rounds; one session a recording, and joined"
        }
        promises: dict[str, bool] = {}
        for name, recordings in (("librivox", librivox()), ("cards", cards())):
            sides: dict[str, tuple[Hear, list[Recording], Side]] = {
                "sessions": (lambda r, s: _ours(ours, r, s), recordings, Side()),
                "plain decoder": (_plain, recordings, Side()),
                "one session": (lambda r, s: _ours(ours, r, s), [joined(recordings)], Side()),
            }
            for number in range(rounds):
                order = list(sides.values())
                for hear, audio, side in order if number % 2 == 0 else reversed(order):
                    _round(hear, audio, side)
            figures[name] = {label: _figures(audio, side) for label, (_, audio, side) in sides.items()}
            rates = {label: each["word error rate_%"] for label, each in figures[name].items()}
            promises[f"{name}: no more wrong words than the plain decoder"] = (
                max(rates["sessions"], rates["one session"]) <= rates["plain decoder"]
            )
        return figures | {"promises": promises}
    finally:
        ours.close()


def _round(hear: Hear, recordings: list[Recording], side: Side) -> None:
    side.texts.clear()
    began = time.perf_counter()
    hear(recordings, side)
    side.rtfs.append((time.perf_counter() - began) / sum(each.seconds for each in recordings))


def _figures(recordings: list[Recording], side: Side) -> dict[str, float]:
    ends_ms = sorted(1000 * end_s for end_s in side.ends_s)
    return {
        "word error rate_%": 100 * jiwer.wer([each.transcript for each in recordings], side.texts),
        "real-time factor": statistics.median(side.rtfs),
        "end p50_ms": statistics.median(ends_ms),
        "end p99_ms": ends_ms[min(len(ends_ms) - 1, round(0.99 * len(ends_ms)))],
    }


def _ours(recogniser: PocketSphinxRecogniser, recordings: list[Recording], side: Side) -> None:
    for recording in recordings:
        abort = Abort()
        inlet = AudioInlet(abort)
        request = RecognitionRequest(sample_rate_hz=RATE_HZ, abort=abort)
        heard: list[Heard] = []
        caught_up = threading.Event()

        def receive(
            item: Heard,
            heard: list[Heard] = heard,
            caught_up: threading.Event = caught_up,
            least_s: float = recording.seconds - _FRAME_S - 1e-6,
        ) -> None:
            heard.append(item)
            if isinstance(item, Processed) and item.audio_s >= least_s:
                caught_up.set()

        session = threading.Thread(target=recogniser.recognise, args=(request, inlet, receive))
        session.start()
        for start in range(0, len(recording.pcm), PIECE_BYTES):
            inlet.put(recording.pcm[start : start + PIECE_BYTES])
        if not caught_up.wait(60 + 10 * recording.seconds):
            abort.request(TimeoutError("it did not catch up"))
        asked = time.perf_counter()
        inlet.put(END)
        session.join()
        side.ends_s.append(time.perf_counter() - asked)
        side.texts.append(" ".join(item.text for item in heard if isinstance(item, Final)))


def _plain(recordings: list[Recording], side: Side) -> None:
    decoder = pocketsphinx.Decoder(loglevel="FATAL")
    for recording in recordings:
        decoder.start_utt()
        for start in range(0, len(recording.pcm), PIECE_BYTES):
            decoder.process_raw(recording.pcm[start : start + PIECE_BYTES])
            decoder.hyp()
        asked = time.perf_counter()
        decoder.end_utt()
        found = decoder.hyp()
        side.ends_s.append(time.perf_counter() - asked)
        side.texts.append(found.hypstr if found else "")
