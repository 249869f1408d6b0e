"""The stop request: the first reason stays, and hooks run while their block runs, never after it."""

import threading

import pytest

from sibyl.bridge.abort import Abort
from sibyl.core.errors import LeaseLost, TaskCancelled


def test_nothing_is_requested_at_first(abort: Abort) -> None:
    """The work may go on."""
    abort.raise_if_requested()

    assert not abort.requested
    assert abort.reason is None


def test_the_first_reason_wins(abort: Abort) -> None:
    """Whoever asks second changes nothing, and no hook hears of it twice."""
    heard: list[str] = []
    first = LeaseLost()

    with abort.hook(lambda: heard.append("stop")):
        abort.request(first)
        abort.request(TaskCancelled())

    assert abort.reason is first
    assert heard == ["stop"]
    with pytest.raises(LeaseLost) as raised:
        abort.raise_if_requested()
    assert raised.value is first


def test_a_hook_that_comes_late_is_called_at_once(abort: Abort) -> None:
    """The request came before the library could be told how to stop."""
    heard: list[str] = []
    abort.request(TaskCancelled())

    with abort.hook(lambda: heard.append("stop")):
        assert heard == ["stop"]


def test_a_hook_is_not_called_after_its_block(abort: Abort) -> None:
    """What it would stop belongs to the next generation by then."""
    heard: list[str] = []

    with abort.hook(lambda: heard.append("stop")):
        pass
    abort.request(TaskCancelled())

    assert heard == []


def test_a_block_does_not_end_while_its_hook_runs(abort: Abort) -> None:
    """A request in one thread, the end of the block in another: the hook is called within the block or not at all."""
    first_hook, may_go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def slow() -> None:
        first_hook.set()
        may_go_on.wait(5)

    def generation() -> None:
        with abort.hook(lambda: order.append("hook")):
            first_hook.wait(5)
            threading.Timer(0.05, may_go_on.set).start()
        order.append("block ended")

    with abort.hook(slow):
        thread = threading.Thread(target=generation)
        with abort.hook(lambda: None):
            thread.start()
            while len(abort._hooks) < 3:  # the other thread's hook is the third
                pass
            abort.request(TaskCancelled())
        thread.join(5)

    assert order == ["hook", "block ended"]


def test_hooks_of_other_threads_are_all_called(abort: Abort) -> None:
    """Many threads that compute for one generation all hear of it."""
    ready = threading.Barrier(9)
    heard: list[int] = []

    def work(number: int) -> None:
        stopped = threading.Event()
        with abort.hook(stopped.set):
            ready.wait(5)
            stopped.wait(5)
            heard.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    ready.wait(5)
    abort.request(TaskCancelled())
    for thread in threads:
        thread.join(5)

    assert sorted(heard) == list(range(8))
