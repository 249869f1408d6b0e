"""The recogniser faster_whisper: the real library, CTranslate2 and Silero, with a model that counts half seconds."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sibyl.bridge.abort import Abort
from sibyl.bridge.bridge import Bridge
from sibyl.core.errors import InvalidRequest, RecogniserBusy, RecogniserFailed, RecogniserUnavailable
from sibyl.speech.hearing import Final, Flushed, Heard, Listening, Partial, Processed, UtteranceEnd
from sibyl.speech.inlet import END, AudioInlet, Flush
from sibyl.speech.recogniser import RecognitionRequest
from sibyl.speech.resampling import Resampler
from sibyl.speech.whisper.binding import WhisperBinding
from sibyl.speech.whisper.buffer import Hypothesis, Samples
from sibyl.speech.whisper.listener import Passage
from sibyl.speech.whisper.recogniser import FasterWhisperRecogniser
from sibyl.speech.whisper.silero import SileroStream
from sibyl.speech.whisper.voice_gate import FRAME
from tests import human_speech
from tests.processes import until
from tests.speech.hearing import hear, text_of
from tests.speech.synthetic_voice import noise, silence, voice
from tests.speech.tiny_whisper import WORD_S, WORDS, write_tiny_whisper


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model."""
    return write_tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture
def recogniser(model: Path) -> Iterator[FasterWhisperRecogniser]:
    """A recogniser with the tiny model, for three sessions."""
    recogniser = FasterWhisperRecogniser(model=str(model), threads=1, sessions=3)
    yield recogniser
    recogniser.close()


@pytest.fixture
def passages(monkeypatch: pytest.MonkeyPatch) -> list[Passage]:
    """All passages that are transcribed while the test runs."""
    seen: list[Passage] = []
    real = WhisperBinding.transcribe

    def watched(self: WhisperBinding, passage: Passage, *, language: str, abort: Abort) -> Hypothesis:
        seen.append(passage)
        return real(self, passage, language=language, abort=abort)

    monkeypatch.setattr(WhisperBinding, "transcribe", watched)
    return seen


class Live:
    """A recognition in a thread, to which a test hands audio."""

    def __init__(self, recogniser: FasterWhisperRecogniser) -> None:
        self.abort = Abort()
        self.inlet = AudioInlet(self.abort)
        self.heard: list[Heard] = []
        self.error: BaseException | None = None
        self._request = RecognitionRequest(sample_rate_hz=16_000, abort=self.abort)
        self._thread = threading.Thread(target=self._run, args=(recogniser,), daemon=True)
        self._thread.start()

    def _run(self, recogniser: FasterWhisperRecogniser) -> None:
        try:
            recogniser.recognise(self._request, self.inlet, self.heard.append)
        except BaseException as error:
            self.error = error

    def wait_for(self, kind: type[Heard], *, count: int = 1) -> None:
        """Wait until it told so many of this kind."""

        def look() -> bool:
            if self.error is not None:
                raise self.error
            return sum(isinstance(heard, kind) for heard in self.heard) >= count

        until(look, limit_s=20, what=kind.__name__)

    def end(self) -> "Live":
        """Wait until it returned."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self


def floats(pcm: bytes) -> Samples:
    """Return whole frames of PCM as the detector takes them."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) * np.float32(1 / 32_768)
    return samples[: len(samples) // FRAME * FRAME]


def finals(heard: list[Heard]) -> list[Final]:
    """Return the finals."""
    return [item for item in heard if isinstance(item, Final)]


def about(spoken_s: float) -> range:
    """Return how many words the tiny model may say for so much speech, with the audio around it."""
    return range(int(spoken_s / WORD_S), int((spoken_s + 0.7) / WORD_S) + 2)


def test_an_utterance_goes_through_the_real_model(recogniser: FasterWhisperRecogniser) -> None:
    """Words in order, each half a second long and in its place in the session, confidence between 0 and 1 (002-9)."""
    heard = hear(recogniser, [silence(2.0), voice(4.0), silence(1.0)])

    assert heard[0] == Listening(model="tiny")
    (final,) = finals(heard)
    words = final.text.split()
    assert words == list(WORDS[: len(words)]) and len(words) in about(4.0)
    assert [word.text for word in final.words] == words
    for index, word in enumerate(final.words):
        assert abs(word.start_s - (1.7 + index * WORD_S)) < 0.3
        assert word.confidence is not None and 0 < word.confidence <= 1
    assert final.confidence is not None and 0 < final.confidence <= 1
    told = [item for item in heard if not isinstance(item, Processed)]
    assert told[-1] == UtteranceEnd(last_word_end_s=final.end_s) and heard[-1] == Processed(audio_s=7.0)


def test_nothing_is_transcribed_while_nobody_speaks(
    recogniser: FasterWhisperRecogniser, passages: list[Passage]
) -> None:
    """Silence and a steady hiss: no passage, no text, all processed."""
    heard = hear(recogniser, [silence(5.0), Flush(1), noise(5.0)])

    assert passages == []
    assert [type(item) for item in heard if not isinstance(item, Processed)] == [Listening, Flushed]
    assert heard[-1] == Processed(audio_s=10.0)


def test_the_real_silero_finds_human_speech_and_nothing_else_is_transcribed(
    recogniser: FasterWhisperRecogniser, passages: list[Passage]
) -> None:
    """Five read sentences with two seconds of silence behind each: every one is found, and all finals, and the
    audio of all passages, lie within the sentences."""
    spoken = human_speech.for_tests(human_speech.librivox)
    pause_s = 2.0
    whole = human_speech.joined(spoken, pause_s=pause_s)

    heard = hear(recogniser, [whole.pcm])

    begin_s = 0.0
    told = finals(heard)
    for recording in spoken:
        end_s = begin_s + recording.seconds
        inside = [final for final in told if begin_s - 0.4 < final.start_s and final.end_s <= end_s + 0.3]
        words = sum(len(final.text.split()) for final in inside)
        assert words in range(int(0.8 * recording.seconds / WORD_S), int((recording.seconds + 1) / WORD_S) + 1)
        told = [final for final in told if final not in inside]
        begin_s = end_s + pause_s
    assert told == []
    speech_s = sum(recording.seconds for recording in spoken)
    assert sum(len(passage.samples) for passage in passages) / 16_000 < speech_s + 0.5 * len(passages)
    assert heard[-1] == Processed(audio_s=whole.seconds)


def test_partials_are_told_while_somebody_speaks(recogniser: FasterWhisperRecogniser) -> None:
    """Each one counts further, before any final."""
    live = Live(recogniser)

    for second in range(1, 4):
        live.inlet.put(voice(3.0)[(second - 1) * 32_000 : second * 32_000])
        live.wait_for(Partial, count=second)
    live.inlet.put(END)
    live.end()

    partials = [heard.text.split() for heard in live.heard if isinstance(heard, Partial)]
    assert all(words == list(WORDS[: len(words)]) for words in partials)
    assert [len(words) for words in partials] == sorted({len(words) for words in partials})
    assert len(finals(live.heard)) == 1 and live.error is None


def test_a_flush_is_answered_behind_its_finals(recogniser: FasterWhisperRecogniser) -> None:
    """In the middle of an utterance; what is said later is told later."""
    heard = hear(recogniser, [voice(2.0), Flush(7), voice(2.0, seed=1)])

    flushed = heard.index(Flushed(number=7))
    before, after = finals(heard[:flushed]), finals(heard[flushed:])
    assert heard[flushed - 1] == Processed(audio_s=2.0)
    assert len(before) == 1 and before[0].end_s <= 2.0
    assert len(after) == 1 and after[0].start_s >= 2.0


def test_a_flush_reaches_the_samples_that_the_resampler_holds_back(
    recogniser: FasterWhisperRecogniser, passages: list[Passage]
) -> None:
    """The passage behind a flush, and the one behind the end, reach to the last sample that came."""
    resampler = Resampler(16_000, 48_000)
    pcm = resampler.push(voice(2.0)) + resampler.finish()

    hear(recogniser, [pcm, Flush(1), pcm], sample_rate_hz=48_000)

    ends = [round(passage.start_s * 16_000) + len(passage.samples) for passage in passages]
    assert ends == [32_000, 64_000]


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_other_sample_rates_give_the_same_words_at_the_same_times(
    recogniser: FasterWhisperRecogniser, rate_hz: int
) -> None:
    """And every sample is processed: the last figure is the length of the audio, exactly."""
    resampler = Resampler(16_000, rate_hz)
    pcm = resampler.push(silence(1.0) + voice(3.0) + silence(1.0)) + resampler.finish()

    heard = hear(recogniser, [pcm[at : at + 4001 * 2] for at in range(0, len(pcm), 4001 * 2)], sample_rate_hz=rate_hz)

    (final,) = finals(heard)
    assert len(final.text.split()) in about(3.0)
    assert abs(final.start_s - 0.7) < 0.2
    assert heard[-1] == Processed(audio_s=len(pcm) / 2 / rate_hz)


def test_forty_seconds_in_one_breath_are_cut_into_finals(
    recogniser: FasterWhisperRecogniser, passages: list[Passage]
) -> None:
    """No passage fills Whisper's window, every half second is told once, and times go on through the cuts."""
    heard = hear(recogniser, [voice(40.0)], words=True)

    assert len(finals(heard)) >= 2
    assert max(len(passage.samples) for passage in passages) < 30 * 16_000
    words = [word for final in finals(heard) for word in final.words]
    assert abs(len(words) - 80) <= 4
    edges = [edge for word in words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges) and edges[-1] <= 40.0
    assert passages[-1].prompt.strip() in " ".join(final.text for final in finals(heard))


def test_sessions_share_the_model_and_hear_their_own(recogniser: FasterWhisperRecogniser) -> None:
    """Three at once, each with as many words as it has speech; a fourth is refused at once, and heard later."""
    sessions = [Live(recogniser) for _ in range(3)]
    for live in sessions:
        live.wait_for(Listening)

    with pytest.raises(RecogniserBusy):
        hear(recogniser, [])
    for seconds, live in zip((2.0, 4.0, 6.0), sessions, strict=True):
        live.inlet.put(voice(seconds))
        live.inlet.put(END)

    for seconds, live in zip((2.0, 4.0, 6.0), sessions, strict=True):
        assert live.end().error is None
        assert len(text_of(live.heard).split()) in about(seconds)
    assert text_of(hear(recogniser, [voice(1.0)])) != ""


def test_an_abort_in_the_middle_of_a_transcript_takes_effect_at_the_next_computation(
    recogniser: FasterWhisperRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder is running when the abort comes: nothing is searched, and the reason is raised soon."""
    reason = RuntimeError("the client is gone")
    called: list[str] = []
    live = Live(recogniser)
    live.wait_for(Listening)
    loaded = recogniser._loaded
    assert loaded is not None
    real = loaded._model.model

    class Slow:
        """The model, with an encoder in which the abort is requested."""

        def __getattr__(self, name: str) -> object:
            if name in ("encode", "generate", "align"):
                called.append(name)
            if name == "encode":
                live.abort.request(reason)
            found: object = getattr(real, name)
            return found

    monkeypatch.setattr(loaded._model, "model", Slow())
    live.inlet.put(voice(3.0))

    live.end()

    assert live.error is reason
    assert called == ["encode"]
    assert finals(live.heard) == []


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_an_abort_while_it_waits_for_audio_ends_it(recogniser: FasterWhisperRecogniser, seconds: float) -> None:
    """In silence, and in an utterance; another session is heard as if nothing had been."""
    live = Live(recogniser)
    live.inlet.put(voice(seconds) if seconds else silence(1.0))
    live.wait_for(Partial if seconds else Processed)

    live.abort.request(RuntimeError("gone"))
    began = time.monotonic()
    live.end()

    assert time.monotonic() - began < 5
    assert isinstance(live.error, RuntimeError)
    assert len(text_of(hear(recogniser, [voice(2.0)])).split()) in about(2.0)


def test_a_model_that_fails_is_a_recogniser_that_failed(
    recogniser: FasterWhisperRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CTranslate2 raises, such as a lack of memory, does not escape as it is."""
    live = Live(recogniser)
    live.wait_for(Listening)
    assert recogniser._loaded is not None
    monkeypatch.setattr(recogniser._loaded._model, "model", object())

    live.inlet.put(voice(3.0))
    live.end()

    assert isinstance(live.error, RecogniserFailed)


def test_languages_are_checked_before_it_listens(recogniser: FasterWhisperRecogniser) -> None:
    """This model knows English alone, in any spelling."""
    assert hear(recogniser, [], language="en-GB")[0] == Listening(model="tiny")
    with pytest.raises(InvalidRequest, match="English alone"):
        hear(recogniser, [], language="de-AT")


async def test_the_event_loop_runs_on_while_it_transcribes(recogniser: FasterWhisperRecogniser) -> None:
    """Through the bridge, with a loop that wants to run every 5 ms: half of its waits take less than 50 ms, nearly all
    less than 200 ms, although more than ten passages are computed meanwhile."""
    hear(recogniser, [])  # the import of the library holds the interpreter's lock for long, once
    bridge, abort = Bridge(threads=1), Abort()
    inlet = AudioInlet(abort)
    for seed in range(12):
        inlet.put(voice(1.5, seed=seed) + silence(0.7))
    inlet.put(END)
    request = RecognitionRequest(sample_rate_hz=16_000, abort=abort)
    heard: list[Heard] = []

    async def deliver(batch: list[Heard]) -> None:
        heard.extend(batch)

    running = asyncio.ensure_future(bridge.run(lambda emit: recogniser.recognise(request, inlet, emit), deliver, abort))
    gaps_s = []
    while not running.done():
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        gaps_s.append(time.perf_counter() - began)
    await running
    bridge.close()

    assert len(finals(heard)) == 12
    gaps_s.sort()
    assert gaps_s[len(gaps_s) // 2] < 0.05
    assert gaps_s[int(len(gaps_s) * 0.95)] < 0.2


def test_nothing_is_left_behind(
    recogniser: FasterWhisperRecogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is written for the audio, and no thread stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())

    assert finals(hear(recogniser, [voice(2.0)]))

    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= before


def test_silero_gives_the_same_in_pieces_as_in_one() -> None:
    """Its state and its context go from call to call; faster-whisper's own call on the whole is the measure."""
    from faster_whisper.vad import get_vad_model

    samples = floats(silence(0.5) + voice(2.0) + silence(0.5) + noise(0.5))
    stream, pieces = SileroStream(), []
    at = 0
    for frames in (1, 2, 3, 50, 300):
        pieces += stream(samples[at : at + frames * FRAME])
        at += frames * FRAME

    whole = np.ravel(get_vad_model()(samples.copy()))

    assert len(pieces) == len(whole)
    np.testing.assert_allclose(pieces[:-1], whole[:-1], atol=1e-4)  # its call blanks the end of the last frame
    assert max(pieces[:12]) < 0.3 < 0.6 < np.median(pieces[20:75])


def test_an_incomplete_folder_says_which_file_is_missing(model: Path, tmp_path: Path) -> None:
    """Each of the files that are needed, by name; without mel bands in its settings a large model is refused."""
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.json"):
        folder = Path(shutil.copytree(model, tmp_path / name))
        (folder / name).unlink()
        with pytest.raises(RecogniserUnavailable, match=name):
            WhisperBinding(str(folder), threads=1)

    wide = Path(shutil.copytree(model, tmp_path / "wide"))
    (wide / "preprocessor_config.json").write_text(json.dumps({"feature_size": 128}), encoding="utf-8")
    with pytest.raises(RecogniserUnavailable, match=r"preprocessor_config\.json"):
        WhisperBinding(str(wide), threads=1)


def test_a_broken_model_and_a_missing_folder_say_so(model: Path, tmp_path: Path) -> None:
    """And the next session tries again: a folder that was mended is heard with."""
    folder = Path(shutil.copytree(model, tmp_path / "broken"))
    (folder / "model.bin").write_bytes(b"no model")
    recogniser = FasterWhisperRecogniser(model=str(folder), threads=1)

    with pytest.raises(RecogniserUnavailable, match="cannot be loaded"):
        hear(recogniser, [])
    shutil.copy(model / "model.bin", folder / "model.bin")
    assert hear(recogniser, [])[0] == Listening(model="broken")

    with pytest.raises(RecogniserUnavailable, match="There is no folder"):
        hear(FasterWhisperRecogniser(model=str(tmp_path / "nowhere")), [])


_CHILD = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2].split(","):
            raise ImportError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from sibyl.bridge.abort import Abort
from sibyl.core.errors import RecogniserUnavailable
from sibyl.speech.whisper.recogniser import FasterWhisperRecogniser
from sibyl.speech.inlet import AudioInlet
from sibyl.speech.recogniser import RecognitionRequest

assert not {"faster_whisper", "ctranslate2", "onnxruntime"} & set(sys.modules)
abort = Abort()
try:
    request = RecognitionRequest(sample_rate_hz=16_000, abort=abort)
    FasterWhisperRecogniser(model=sys.argv[1]).recognise(request, AudioInlet(abort), print)
except RecogniserUnavailable as error:
    print(error.message)
"""


def _message_of_a_child(model: str, tmp_path: Path, *, blocked: str = "") -> str:
    """Return why a recogniser is unavailable in a process without network and without some modules."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", _CHILD, model, blocked]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=25, check=True)
    return child.stdout.strip()


@pytest.mark.parametrize("module", ["faster_whisper", "ctranslate2"])
def test_a_missing_library_says_how_to_get_it(model: Path, tmp_path: Path, module: str) -> None:
    """The recogniser can be imported and made without it; the first session is told (002-5)."""
    message = _message_of_a_child(str(model), tmp_path, blocked=module)

    assert "pip install faster-whisper" in message and module in message


@pytest.mark.parametrize(
    ("name", "words"),
    [("base.en", "give its folder"), ("owner/model", "give its folder"), ("huge", "no Whisper model of the name")],
)
def test_a_model_that_cannot_be_fetched_says_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    """A name that the hub may know, but is out of reach; and one that nobody knows."""
    assert words in _message_of_a_child(name, tmp_path)
