"""The embedded recogniser hears recorded human speech, in real processes that really die."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soxr

from sibyl.bridge.abort import Abort
from sibyl.core.errors import (
    InvalidRequest,
    RecogniserBusy,
    RecogniserFailed,
    RecogniserUnavailable,
    TaskCancelled,
)
from sibyl.speech.hearing import Final, Flushed, Heard, Listening, Partial, Processed, SpeechStarted, UtteranceEnd
from sibyl.speech.inlet import END, AudioInlet, Flush, Taken
from sibyl.speech.pocketsphinx.recogniser import PocketSphinxRecogniser
from sibyl.speech.recogniser import RecognitionRequest
from tests import human_speech
from tests.human_speech import Recording, for_tests
from tests.processes import until
from tests.speech.hearing import hear, text_of

pytestmark = pytest.mark.timeout(300)  # the recordings may have to be fetched
RATE_HZ = 16_000
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cards() -> list[Recording]:
    """Five calls of playing cards."""
    return for_tests(human_speech.cards)


@pytest.fixture(scope="module")
def librivox() -> list[Recording]:
    """Five sentences of a novel."""
    return for_tests(human_speech.librivox)


@pytest.fixture
def lonely() -> Iterator[PocketSphinxRecogniser]:
    """A recogniser with one process, so that a test knows which one it kills."""
    recogniser = PocketSphinxRecogniser(processes=1)
    yield recogniser
    recogniser.close()
    assert children_of(os.getpid()) == []


@pytest.fixture
def recogniser() -> Iterator[PocketSphinxRecogniser]:
    """A recogniser with two processes at most, all of which are gone afterwards."""
    recogniser = PocketSphinxRecogniser(processes=2)
    yield recogniser
    recogniser.close()
    assert children_of(os.getpid()) == []


def children_of(parent: int) -> list[int]:
    """Return the recogniser's processes that this process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                ours = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent
                if ours and b"pocketsphinx.process" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return sorted(found)


def only_child() -> int:
    """Return the one process there is."""
    (child,) = children_of(os.getpid())
    return child


class Speaking:
    """A session whose audio a test hands in while it runs."""

    def __init__(self, recogniser: PocketSphinxRecogniser, **wishes: object) -> None:
        self.abort = Abort()
        self.inlet = AudioInlet(self.abort)
        self.heard: list[Heard] = []
        self.error: BaseException | None = None
        request = RecognitionRequest(**{"sample_rate_hz": RATE_HZ, "abort": self.abort, **wishes})  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._run, args=(recogniser, request))
        self._thread.start()

    def _run(self, recogniser: PocketSphinxRecogniser, request: RecognitionRequest) -> None:
        try:
            recogniser.recognise(request, self.inlet, self.heard.append)
        except BaseException as error:
            self.error = error

    def say(self, pcm: bytes) -> None:
        """Hand in audio and wait until it was processed, but for the rest of a frame."""
        before_s = self.processed_s
        self.inlet.put(pcm)
        least_s = before_s + len(pcm) / 2 / RATE_HZ - 0.06
        until(lambda: self.processed_s >= least_s or self.error, limit_s=LIMIT_S, what="processed")

    @property
    def processed_s(self) -> float:
        """How much was processed."""
        return max((item.audio_s for item in self.heard if isinstance(item, Processed)), default=0.0)

    def ended(self) -> list[Heard]:
        """Wait for the end and return all that was heard; raise what the recogniser raised."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.heard


def finals_of(heard: list[Heard]) -> list[Final]:
    """Return the finals."""
    return [item for item in heard if isinstance(item, Final)]


def pieces(pcm: bytes, *, size: int = 3_200) -> list[Taken]:
    """Return audio in pieces of 100 ms."""
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


def test_human_speech_becomes_its_words(recogniser: PocketSphinxRecogniser, cards: list[Recording]) -> None:
    """Of 21 words at most a quarter is wrong, each recording a session of its own, whatever voice it has."""
    texts = [text_of(hear(recogniser, pieces(card.pcm))) for card in cards]

    assert jiwer.wer([card.transcript for card in cards], texts) <= 0.25


def test_what_is_heard_keeps_the_order_and_the_times(
    recogniser: PocketSphinxRecogniser, cards: list[Recording]
) -> None:
    """Listening first, no empty final, words in order and inside the audio, and at the end all of it processed."""
    audio = human_speech.joined([cards[0], cards[2], cards[3]])

    heard = hear(recogniser, pieces(audio.pcm))

    assert isinstance(heard[0], Listening)
    assert heard[-1] == Processed(audio_s=audio.seconds)
    story = [item for item in heard if isinstance(item, SpeechStarted | Final | UtteranceEnd)]
    assert [type(item) for item in story] == [SpeechStarted, Final, UtteranceEnd] * 3
    words = [word for final in finals_of(heard) for word in final.words]
    times = [time_s for word in words for time_s in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] and times[-1] <= audio.seconds
    for final in finals_of(heard):
        assert final.text == " ".join(word.text for word in final.words)
        assert "(" not in final.text and "<" not in final.text and "[" not in final.text
        assert final.confidence is None
    processed = [item.audio_s for item in heard if isinstance(item, Processed)]
    assert processed == sorted(processed)
    partials = [item for item in heard if isinstance(item, Partial)]
    assert len(partials) > 3
    assert all(one.text != other.text for one, other in pairwise(partials))


def test_the_text_is_the_same_whatever_was_decoded_before(
    lonely: PocketSphinxRecogniser, cards: list[Recording], librivox: list[Recording]
) -> None:
    """To the last partial and the last time, in the same process after two other voices; so nobody's speech leaks into
    somebody else's session."""
    alone = hear(lonely, [cards[0].pcm])
    process = only_child()

    hear(lonely, [librivox[1].pcm])
    hear(lonely, [cards[3].pcm])

    assert hear(lonely, [cards[0].pcm]) == alone
    assert only_child() == process


def test_the_pieces_change_no_word(recogniser: PocketSphinxRecogniser, cards: list[Recording]) -> None:
    """Nor its time."""
    expected = finals_of(hear(recogniser, [cards[3].pcm]))

    assert expected
    assert finals_of(hear(recogniser, pieces(cards[3].pcm, size=1_234))) == expected


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_other_rates_are_heard_and_their_length_is_exact(
    recogniser: PocketSphinxRecogniser, cards: list[Recording], rate_hz: int
) -> None:
    """A telephone or a sound card, with a length that is no whole frame."""
    samples = np.frombuffer(cards[0].pcm, "<i2").astype(np.float32)
    other = np.rint(soxr.resample(samples, RATE_HZ, rate_hz)).clip(-32_768, 32_767).astype("<i2")[:-7].tobytes()

    heard = hear(recogniser, pieces(other), sample_rate_hz=rate_hz)

    assert heard[-1] == Processed(audio_s=len(other) / 2 / rate_hz)
    assert jiwer.wer(cards[0].transcript, text_of(heard)) < 0.5


def test_silence_is_nothing_and_is_processed(recogniser: PocketSphinxRecogniser) -> None:
    """To the last sample."""
    heard = hear(recogniser, pieces(bytes(2 * 12_345)))

    assert {type(item) for item in heard} == {Listening, Processed}
    assert heard[-1] == Processed(audio_s=12_345 / RATE_HZ)
    assert hear(recogniser, [])[1:] == [Processed(audio_s=0.0)]


def test_partials_and_words_are_left_out_where_nobody_wants_them(
    recogniser: PocketSphinxRecogniser, cards: list[Recording]
) -> None:
    """The final keeps its text and times."""
    heard = hear(recogniser, pieces(cards[0].pcm), interim=False, words=False)

    assert not any(isinstance(item, Partial) for item in heard)
    (final,) = finals_of(heard)
    assert final.text and not final.words and final.end_s > final.start_s


def test_the_end_cuts_off_no_word(recogniser: PocketSphinxRecogniser, cards: list[Recording]) -> None:
    """The audio ends in the middle of a word and of a frame; the words before are there."""
    (whole,) = finals_of(hear(recogniser, [cards[0].pcm]))
    cut = cards[0].pcm[: 2 * round(whole.words[-1].end_s * RATE_HZ) - 2 * 100]

    heard = hear(recogniser, pieces(cut))

    assert [word.text for word in finals_of(heard)[-1].words][:2] == [word.text for word in whole.words][:2]
    assert heard[-1] == Processed(audio_s=len(cut) / 2 / RATE_HZ)


def test_a_flush_tells_all_so_far_and_the_session_goes_on(
    recogniser: PocketSphinxRecogniser, cards: list[Recording]
) -> None:
    """Right away, without waiting for silence, and what follows is heard from the next sample on."""
    (whole,) = finals_of(hear(recogniser, [cards[4].pcm]))
    middle = 2 * round(whole.words[3].start_s * RATE_HZ)

    heard = hear(recogniser, [cards[4].pcm[:middle], Flush(7), cards[4].pcm[middle:], Flush(8)])

    first, second = (heard.index(Flushed(number=number)) for number in (7, 8))
    before, after = finals_of(heard[:first]), finals_of(heard[first:second])
    assert [word.text for word in before[0].words][:2] == [word.text for word in whole.words][:2]
    assert after and after[-1].text.split()[-1] == whole.text.split()[-1]
    assert before[-1].end_s <= middle / 2 / RATE_HZ <= after[0].start_s + 0.05
    assert heard[first - 1] == Processed(audio_s=middle / 2 / RATE_HZ)


def test_a_longer_silence_can_be_asked_for(recogniser: PocketSphinxRecogniser, cards: list[Recording]) -> None:
    """Then a pause of half a second ends nothing."""
    audio = human_speech.joined([cards[0], cards[3]], pause_s=0.5)

    assert len(finals_of(hear(recogniser, pieces(audio.pcm)))) == 2
    assert len(finals_of(hear(recogniser, pieces(audio.pcm), endpointing_s=1.5))) == 1


def test_a_killed_process_costs_no_word(lonely: PocketSphinxRecogniser, cards: list[Recording]) -> None:
    """Kill -9 in the middle of the second utterance: the same finals with the same times, none told twice."""
    audio = human_speech.joined([cards[0], cards[4]])
    undisturbed = hear(lonely, pieces(audio.pcm))
    session = Speaking(lonely)
    middle = len(cards[0].pcm) + 32_000 + 2 * RATE_HZ * 2

    session.say(audio.pcm[:middle])
    killed = only_child()
    os.kill(killed, signal.SIGKILL)
    session.inlet.put(audio.pcm[middle:])
    session.inlet.put(END)
    heard = session.ended()

    def story(items: list[Heard]) -> list[Heard]:
        return [item for item in items if isinstance(item, SpeechStarted | Final | UtteranceEnd)]

    assert story(heard) == story(undisturbed)
    assert only_child() != killed
    assert heard[-1] == undisturbed[-1]


def test_a_process_that_dies_again_and_again_fails_the_session(
    lonely: PocketSphinxRecogniser, cards: list[Recording]
) -> None:
    """At the third death in the same words; it does not try for ever, and the next session works."""
    session = Speaking(lonely)
    session.say(cards[4].pcm[: 2 * RATE_HZ])

    for _ in range(2):
        os.kill(only_child(), signal.SIGKILL)
        session.say(cards[4].pcm[2 * RATE_HZ : 2 * RATE_HZ + 6_400])
    os.kill(only_child(), signal.SIGKILL)
    session.inlet.put(END)
    with pytest.raises(RecogniserFailed):
        session.ended()

    assert text_of(hear(lonely, [cards[0].pcm]))


@pytest.mark.parametrize("decodes", [False, True])
def test_an_abort_ends_it_at_once(recogniser: PocketSphinxRecogniser, cards: list[Recording], decodes: bool) -> None:
    """Whether it waits for audio or for its process; and the process serves the next session."""
    session = Speaking(recogniser)
    session.say(cards[4].pcm[:32_000])
    if decodes:
        session.inlet.put(cards[4].pcm[32_000:])
        until(lambda: session.processed_s > 1.1, limit_s=LIMIT_S, what="decoding")
    reason = TaskCancelled("the test wants it")

    asked = time.monotonic()
    session.abort.request(reason)
    with pytest.raises(TaskCancelled) as raised:
        session.ended()

    assert time.monotonic() - asked < 0.5  # 0.1 s on a machine that has nothing else to do
    assert raised.value is reason
    assert text_of(hear(recogniser, [cards[0].pcm])) == text_of(hear(recogniser, [cards[0].pcm]))


def test_a_raising_receiver_ends_the_session_and_nothing_else(
    recogniser: PocketSphinxRecogniser, cards: list[Recording]
) -> None:
    """What it raised comes out; the next session is heard."""
    inlet = AudioInlet(Abort())
    inlet.put(cards[0].pcm)

    def receive(item: Heard) -> None:
        if isinstance(item, SpeechStarted):
            raise LookupError("the receiver is gone")

    with pytest.raises(LookupError):
        recogniser.recognise(RecognitionRequest(sample_rate_hz=RATE_HZ, abort=Abort()), inlet, receive)

    assert text_of(hear(recogniser, [cards[0].pcm]))


def test_ten_sessions_leave_no_process(recogniser: PocketSphinxRecogniser) -> None:
    """While it is open one or two are kept for the next; when it is closed none is left, as the fixture checks."""
    for _ in range(10):
        hear(recogniser, pieces(bytes(6_400)))
        assert 1 <= len(children_of(os.getpid())) <= 2


def test_one_session_too_many_is_refused(lonely: PocketSphinxRecogniser) -> None:
    """At once, and only while the others run."""
    session = Speaking(lonely)
    until(lambda: session.heard, limit_s=LIMIT_S, what="listening")

    with pytest.raises(RecogniserBusy):
        hear(lonely, [])
    session.inlet.put(END)
    session.ended()

    assert hear(lonely, [])


def test_a_killed_parent_leaves_no_process() -> None:
    """Kill -9: its children read the end of their pipes, the idle one and the one in a session."""
    program = (
        "import sys, threading\n"
        "from sibyl.bridge.abort import Abort\n"
        "from sibyl.speech.inlet import AudioInlet\n"
        "from sibyl.speech.pocketsphinx.recogniser import PocketSphinxRecogniser\n"
        "from sibyl.speech.recogniser import RecognitionRequest\n"
        "abort = Abort()\n"
        "request = RecognitionRequest(sample_rate_hz=16000, abort=abort)\n"
        "recogniser = PocketSphinxRecogniser(processes=3)\n"
        "recogniser.recognise(request, AudioInlet(abort), lambda heard: print(heard, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline().startswith("Listening")
            children = children_of(parent.pid)
            assert len(children) == 2
        finally:
            parent.kill()

    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), limit_s=10, what="gone")


def test_a_process_is_polite(lonely: PocketSphinxRecogniser) -> None:
    """It has no socket of ours, and an interrupt, as Ctrl-C sends it, is none of its business."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        session = Speaking(lonely)
        until(lambda: session.heard, limit_s=LIMIT_S, what="listening")
        child = only_child()

        os.kill(child, signal.SIGINT)
        links = [os.readlink(entry) for entry in Path(f"/proc/{child}/fd").iterdir()]
        session.inlet.put(bytes(6_400))
        session.inlet.put(END)

        assert session.ended()[-1] == Processed(audio_s=0.2)
        assert only_child() == child

    assert not [link for link in links if link.startswith("socket:")]


def test_another_language_is_refused(recogniser: PocketSphinxRecogniser) -> None:
    """With a word about which one is heard; kinds of English are English."""
    with pytest.raises(InvalidRequest, match="English only, not 'de'"):
        hear(recogniser, [], language="de")
    hear(recogniser, [], language="en-GB")


def test_a_missing_library_says_how_to_get_it(
    recogniser: PocketSphinxRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And starts no process."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(RecogniserUnavailable, match=r"not installed.*pip install .*pocketsphinx"):
        hear(recogniser, [])
    assert children_of(os.getpid()) == []


def test_a_broken_library_says_so(
    recogniser: PocketSphinxRecogniser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process that cannot load it tells why, and nobody waits for it."""
    (tmp_path / "pocketsphinx.py").write_text("raise ImportError('libpocketsphinx.so is not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(RecogniserUnavailable, match=r"cannot be used.*pip install"):
        hear(recogniser, [])
