"""One speech over many connections, as a machine, against the server's own machine."""

import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sibyl.client.errors import CannotConnect, Refused, ServerFailed, UnexpectedReply
from sibyl.client.listener import END_OF_STREAM, FINALIZE, KEEP_ALIVE, Listener, SpeechWish
from sibyl.core.errors import RecogniserBusy, RecogniserFailed, RecogniserUnavailable, SibylError, VendorRefused
from sibyl.speech.effects import Begin, Feed, Resume
from sibyl.speech.hearing import Final, Flushed, Listening, Processed, SpeechStarted, UtteranceEnd
from sibyl.speech.inlet import AudioEnd, Flush
from sibyl.speech.session import Phase, Session, SessionLimits

RATE_HZ = 8_000
LIMITS = {"max_frame_bytes": 65536, "max_backlog_s": 30.0, "keepalive_s": 5.0}


class Server:
    """The server's session beside a listener: what is sent arrives when told, what is heard is the samples' values."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.now = 0.0
        self.finals: list[tuple[int, int]] = []  # first and last sample of each, as the listener got them
        self._tokens = 0
        self._connect()

    def _connect(self) -> None:
        config = json.loads(self.listener.config())
        known = getattr(self, "_session", None)
        if known is not None and config.get("resume", {}).get("token") == known.token:
            assert known.attach(config["resume"]["last_seq"], self.now)
            return
        self._tokens += 1
        self._session = Session("id", f"token {self._tokens}", SessionLimits(), now=self.now, utc_s=0.0)
        self._samples: list[int] = []
        self._heard = 0
        effects = self._session.configure(config, self.now)
        if isinstance(effects[0], Resume):
            effects = self._session.begin(self.now)
        assert isinstance(effects[0], Begin)
        self._ended = False
        self._flushes: list[int] = []
        self._session.heard(Listening(model="m"), self.now)

    def send(self, count: int) -> None:
        """Have so many frames arrive."""
        for _ in range(count):
            frame = self.listener.take(self.now)
            if frame is None:
                return
            if isinstance(frame, bytes):
                effects = self._session.binary(frame, self.now)
            else:
                effects = self._session.text(frame, self.now)
            for effect in effects:
                assert isinstance(effect, Feed)
                if isinstance(effect.item, bytes):
                    self._samples += [value for (value,) in struct.iter_unpack("<h", effect.item)]
                if isinstance(effect.item, Flush):
                    self._flushes.append(effect.item.number)
                self._ended |= isinstance(effect.item, AudioEnd)

    def hear(self) -> None:
        """Recognise all that has arrived: one final."""
        session, end = self._session, len(self._samples)
        if end > self._heard:
            said = self._samples[self._heard : end]
            assert all(after == before + 1 for before, after in pairwise(said)), "samples were lost or doubled"
            start_s, end_s = self._heard / RATE_HZ, end / RATE_HZ
            session.heard(SpeechStarted(at_s=start_s), self.now)
            session.heard(Final(text=f"{said[0]} {said[-1]}", start_s=start_s, end_s=end_s), self.now)
            session.heard(UtteranceEnd(last_word_end_s=end_s), self.now)
            session.heard(Processed(audio_s=end_s), self.now)
            self._heard = end
        for number in self._flushes:
            session.heard(Flushed(number=number), self.now)
        self._flushes.clear()
        if self._ended and session.phase is Phase.DRAIN:
            session.returned(self.now)
        self.now += 1.0
        session.tick(self.now)

    def tell(self, count: int) -> None:
        """Have so many messages arrive."""
        for _ in range(count):
            message = self._session.outbox.take()
            if message is None:
                return
            told = self.listener.receive(json.dumps(message))
            if told is not None and told.type == "final":
                self.finals += [tuple(map(int, part.split())) for part in _pairs(told.text)]  # type: ignore[misc]

    def cut(self, *, forget: bool) -> None:
        """Break the connection: what was on its way back is lost. ``forget``: so is the session."""
        while (message := self._session.outbox.take()) is not None and message["type"] != "session_ended":
            pass
        self._session.cut_off(self.now)
        if forget:
            self._session.token = "another"
        self.listener.cut(self.now)
        self._connect()


def _pairs(text: str) -> list[str]:
    """The finals after the end of the audio come as one."""
    numbers = text.split()
    return [f"{numbers[at]} {numbers[at + 1]}" for at in range(0, len(numbers), 2)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "speak"]), st.integers(1, 5000)),
        st.tuples(st.just("send"), st.integers(1, 4)),
        st.tuples(st.just("hear"), st.just(0)),
        st.tuples(st.just("tell"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["cut", "forget"]), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_whatever_is_cut_every_sample_is_told_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    """Frames, messages and whole sessions are lost at any moment; the finals that come through cover the source."""
    listener = Listener(SpeechWish(sample_rate_hz=RATE_HZ), retry_s=None, give_up_s=None)
    server = Server(listener)
    given_samples = 0

    def put(count: int) -> None:
        nonlocal given_samples
        count = min(count, 30_000 - given_samples)  # as many values as a sample has
        listener.put(struct.pack(f"<{count}h", *range(given_samples + 1, given_samples + count + 1)))
        given_samples += count

    for step, count in steps:
        match step:
            case "put":
                put(count)
            case "speak":
                put(count)
                server.send(3)
                server.hear()
            case "send":
                server.send(count)
            case "hear":
                server.hear()
            case "tell":
                server.tell(count)
            case _:
                server.cut(forget=step == "forget")
    put(10)
    listener.end()
    for _ in range(10):
        server.send(100)
        server.hear()
        server.tell(1000)
    assert listener.over

    assert server.finals[0][0] == 1 and server.finals[-1][1] == given_samples
    assert all(after[0] == before[1] + 1 for before, after in pairwise(server.finals)), server.finals
    assert listener.lost_s == 0


def ready(**fields: object) -> str:
    """A ready message."""
    usual = {"resume_token": "t", "limits": LIMITS, "resumed": False, "seq": 0, "audio_received_s": 0.0, "final_s": 0.0}
    return json.dumps({"type": "ready"} | usual | fields)


def listening(**options: float | None) -> Listener:
    """A listener that is told to begin."""
    listener = Listener(SpeechWish(), retry_s=0, give_up_s=options.get("give_up_s", 0), jitter=lambda: 1.0)
    listener.config()
    listener.receive(ready())
    return listener


def test_a_config_says_what_is_wished_and_nothing_else() -> None:
    """What is left to the server is left out; after a cut it says where to go on."""
    plain = Listener(SpeechWish(), retry_s=0, give_up_s=0)
    wishful = Listener(
        SpeechWish(sample_rate_hz=8000, language="de", provider="scripted", interim=False), retry_s=0, give_up_s=None
    )
    first = json.loads(wishful.config())
    wishful.receive(ready())
    wishful.receive('{"type": "speech_started", "seq": 7, "t": 0}')

    assert json.loads(plain.config()) == {
        "type": "config",
        "sample_rate": 16000,
        "encoding": "pcm_s16le",
        "channels": 1,
        "interim": True,
    }
    assert (first["language"], first["provider"], first["sample_rate"], first["interim"]) == (
        "de",
        "scripted",
        8000,
        False,
    )
    assert json.loads(wishful.config())["resume"] == {"token": "t", "last_seq": 7}


def test_nothing_is_sent_before_the_server_is_ready() -> None:
    """Not even the end."""
    listener = Listener(SpeechWish(), retry_s=0, give_up_s=0)
    listener.put(bytes(100))
    listener.end()
    listener.config()

    before = listener.take(0.0)
    listener.receive(ready())

    assert before is None
    assert [listener.take(0.0), listener.take(0.0), listener.take(0.0)] == [bytes(100), FINALIZE, None]


def test_the_end_of_the_stream_comes_when_all_was_told() -> None:
    """What is told behind it is told in one piece, which would make one utterance of many."""
    listener = listening()
    listener.end()

    frames = [listener.take(0.0), listener.take(0.0)]
    listener.receive('{"type": "finalized", "seq": 1, "id": "end"}')

    assert [*frames, listener.take(0.0), listener.take(99.0)] == [FINALIZE, None, END_OF_STREAM, None]


def test_audio_goes_at_the_pace_of_the_acks() -> None:
    """At most half of the backlog is under way: 15 s; an ack makes room."""
    listener = listening()
    listener.put(bytes(2 * 16_000 * 40))

    def sent_s() -> float:
        return sum(len(frame) for frame in iter(lambda: listener.take(0.0), None) if isinstance(frame, bytes)) / 32_000

    first = sent_s()
    listener.receive('{"type": "ack", "audio_received_s": 15.0, "audio_processed_s": 4.5, "final_s": 0.0, "lag_s": 10}')

    assert (first, sent_s(), listener.processed_s) == (15.0, 4.5, 4.5)


def test_frames_are_whole_samples_no_longer_than_the_server_takes() -> None:
    """Half a sample waits for its other half, and is left out at the end."""
    listener = Listener(SpeechWish(), retry_s=0, give_up_s=0)
    listener.config()
    listener.receive(ready(limits=LIMITS | {"max_frame_bytes": 1001}))
    listener.put(bytes(1501))
    frames = [listener.take(0.0), listener.take(0.0), listener.take(0.0)]
    listener.put(b"\x01\x02")
    listener.end()

    assert [len(frame) if isinstance(frame, bytes) else frame for frame in frames] == [1000, 500, None]
    assert [listener.take(0.0), listener.take(0.0)] == [b"\x00\x01", FINALIZE]


def test_a_quiet_source_is_kept_alive() -> None:
    """Each five seconds in which nothing else was sent; never after the end (003-2)."""
    listener = listening()
    listener.take(0.0)
    listener.put(bytes(2))
    frames = [listener.take(at) for at in (8.0, 12.9, 13.0, 13.1, 18.0)]
    listener.end()
    last = listener.take(20.0)
    listener.receive('{"type": "finalized", "seq": 1, "id": "end"}')

    assert frames == [bytes(2), None, KEEP_ALIVE, None, KEEP_ALIVE]
    assert [last, listener.take(20.0), listener.take(99.0)] == [FINALIZE, END_OF_STREAM, None]


def test_another_session_goes_on_behind_what_was_told_and_on_the_same_clock() -> None:
    """The server forgot the old one: its times begin anew, the listener's do not."""
    listener = listening(give_up_s=None)
    listener.put(bytes(range(200)) * 320)  # two seconds
    while listener.take(0.0):
        pass
    listener.receive('{"type": "final", "seq": 3, "utt": 1, "text": "one", "start": 0.25, "end": 0.5, "words": []}')
    listener.cut(1.0)
    listener.config()
    listener.receive(ready())

    frame = listener.take(1.0)
    word = {"word": "two", "start": 0.25, "end": 0.5, "confidence": None}
    told = listener.receive(
        json.dumps({"type": "final", "seq": 1, "utt": 1, "text": "two", "start": 0.25, "end": 0.5, "words": [word]})
    )

    assert frame == (bytes(range(200)) * 320)[16_000:24_000]
    assert told is not None
    assert (told.message["start"], told.message["end"]) == (0.75, 1.0)
    assert told.message["words"] == [word | {"start": 0.75, "end": 1.0}]


def test_what_was_kept_for_too_long_is_given_up_and_said() -> None:
    """A minute is kept; when the server forgets a longer speech that it never told, the rest is counted as lost."""
    listener = listening(give_up_s=None)
    for second in range(70):
        listener.put(bytes(32_000))
        while listener.take(0.0):
            pass
        ack = {"audio_received_s": second, "audio_processed_s": second, "final_s": 0.0, "lag_s": 0.0}
        listener.receive(json.dumps({"type": "ack"} | ack))
    listener.cut(1.0)
    listener.config()
    listener.receive(ready())

    assert listener.lost_s == pytest.approx(9.75, abs=0.5)


@pytest.mark.parametrize("reason", ["max_session", "server_shutdown"])
def test_a_session_that_ends_before_the_speech_is_followed_by_another(reason: str) -> None:
    """All that it got was told; the next one gets the rest."""
    listener = listening(give_up_s=None)
    listener.put(bytes(32_000))
    listener.take(0.0)
    totals = {"audio_received_s": 0.25, "audio_processed_s": 0.25}
    listener.receive(json.dumps({"type": "error", "code": reason, "message": "Over.", "fatal": True}))
    listener.receive(json.dumps({"type": "session_ended", "seq": 1, "reason": reason, "totals": totals}))
    over = listener.over
    listener.cut(1.0)

    assert not over
    assert "resume" not in json.loads(listener.config())
    listener.receive(ready())
    assert sum(len(frame) for frame in iter(lambda: listener.take(2.0), None) if isinstance(frame, bytes)) == 24_000


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("model_unavailable", RecogniserUnavailable),
        ("auth", VendorRefused),
        ("overloaded", RecogniserBusy),
        ("internal", RecogniserFailed),
        ("bad_config", Refused),
        ("unsupported", Refused),
    ],
)
def test_a_session_that_cannot_begin_says_why(code: str, kind: type[SibylError]) -> None:
    """In the server's words."""
    listener = Listener(SpeechWish(), retry_s=0, give_up_s=0)
    listener.config()
    listener.receive(json.dumps({"type": "error", "code": code, "message": "Do this.", "fatal": True}))

    with pytest.raises(kind, match=r"Do this\."):
        listener.cut(0.0)


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    """As long as there is patience."""
    listener = Listener(SpeechWish(), retry_s=60, give_up_s=0, jitter=lambda: 0.0)
    listener.config()
    busy: dict[str, object] = {"code": "overloaded", "message": "Full.", "fatal": True, "retry_after_s": 7}
    listener.receive(json.dumps({"type": "error"} | busy))

    assert listener.cut(0.0).wait_s == 7


def test_a_session_that_fails_ends_the_speech() -> None:
    """The same audio would fail the next one as well."""
    listener = listening(give_up_s=None)
    totals = {"audio_received_s": 0.0, "audio_processed_s": 0.0}
    ended = json.dumps({"type": "session_ended", "seq": 1, "reason": "internal", "totals": totals})
    listener.receive('{"type": "error", "code": "internal", "message": "It broke.", "fatal": true}')

    with pytest.raises(RecogniserFailed, match="It broke"):
        listener.receive(ended)
    with pytest.raises(ServerFailed, match="too_many_errors"):
        listening().receive(ended.replace("internal", "too_many_errors"))


def test_patience_differs_before_and_after_the_first_session() -> None:
    """Who never got one learns soon; a speech under way waits longer; a server that only ever greets is given up."""
    listener = Listener(SpeechWish(), retry_s=2, give_up_s=60, jitter=lambda: 1.0)
    listener.config()
    listener.cut(0.0)
    with pytest.raises(CannotConnect):
        listener.cut(2.0)

    listener.receive(ready())
    listener.cut(30.0)
    listener.receive(ready(resumed=True))
    with pytest.raises(CannotConnect):
        listener.cut(90.1)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"type": 1}', '{"type": "ready"}', '{"type": "ack"}', "[" * 100_000, ready(audio_received_s=9.0)],
)
def test_what_is_no_message_is_told_as_such(text: str) -> None:
    """Whatever stands between us and the server may answer."""
    with pytest.raises(UnexpectedReply):
        listening().receive(text)


def test_a_message_of_a_newer_server_is_handed_on() -> None:
    """With its number."""
    listener = listening()

    told = listener.receive('{"type": "mood", "seq": 1, "text": "good"}')

    assert told is not None and (told.type, told.text) == ("mood", "good")
    assert listener.receive('{"type": "mood", "seq": 1, "text": "good"}') is None
