"""Audio on its way to a recogniser's thread."""

import threading

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import TaskCancelled
from sibyl.speech.inlet import END, AudioInlet, Flush


@pytest.fixture
def abort() -> Abort:
    return Abort()


@pytest.fixture
def inlet(abort: Abort) -> AudioInlet:
    return AudioInlet(abort)


def test_audio_comes_out_in_order_and_whole(inlet: AudioInlet) -> None:
    """Neighbours as one, in parts of at most what is asked for."""
    for piece in (b"abcd", b"ef", b"ghijkl"):
        inlet.put(piece)

    assert inlet.take(most_bytes=8) == b"abcdefgh"
    assert inlet.take(most_bytes=8) == b"ijkl"


def test_a_flush_keeps_its_place_between_the_audio(inlet: AudioInlet) -> None:
    """What came later belongs to the next utterance."""
    inlet.put(b"ab")
    inlet.put(Flush(1))
    inlet.put(b"cd")

    assert [inlet.take() for _ in range(3)] == [b"ab", Flush(1), b"cd"]


def test_after_the_end_there_is_only_the_end(inlet: AudioInlet) -> None:
    """Also for who hands in more."""
    inlet.put(END)
    inlet.put(b"late")

    assert inlet.take() is END
    assert inlet.take() is END


def test_a_wait_with_a_limit_ends_with_nothing(inlet: AudioInlet) -> None:
    """For a recogniser that has other things to do meanwhile."""
    assert inlet.take(0.001) is None


def test_a_waiting_reader_gets_what_comes(inlet: AudioInlet) -> None:
    """It sleeps until then."""
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.append(inlet.take()))
    reader.start()
    inlet.put(b"ab")
    reader.join(5)

    assert got == [b"ab"]


def test_an_abort_wakes_a_waiting_reader_with_its_reason(inlet: AudioInlet, abort: Abort) -> None:
    """And so it is for everyone who comes later."""
    raised: list[BaseException] = []

    def read() -> None:
        try:
            inlet.take()
        except TaskCancelled as error:
            raised.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    reason = TaskCancelled()
    abort.request(reason)
    reader.join(5)

    assert raised == [reason]
    with pytest.raises(TaskCancelled):
        inlet.take()
