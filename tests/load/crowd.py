"""A crowd of followers in processes of their own: bare sockets, one epoll each, which note when how many events came.

Whatever the driver of a benchmark needs is missing from what it measures, so these clients do next to nothing: they
count a marker in what arrives. Times are of the monotonic clock, which all processes of a machine share.
"""

import argparse
import pickle
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OUTPUT = '"type":"llm_streaming"'
END = '"type":"completed"'
LIMIT_S = 180.0
_RECEIVE_BYTES = 1 << 18
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Receipts:
    """What one follower got: after each of its reads the moment, and how many events it had by then."""

    times_s: "array[float]"
    counts: "array[int]"
    whole: bool  #: the end came

    def lags_s(self, stored_s: Sequence[float]) -> Iterator[float]:
        """Yield for each event the time from its own moment to the read that brought it."""
        had = 0
        for at, count in zip(self.times_s, self.counts, strict=True):
            for number in range(had, min(count, len(stored_s))):
                yield at - stored_s[number]
            had = count


@dataclass(frozen=True, slots=True)
class Crowd:
    """The followers of one or several processes, once all is over."""

    receipts: list[Receipts]
    cpu_s: float

    @property
    def events(self) -> int:
        """Events that came, all followers together."""
        return sum(each.counts[-1] if each.counts else 0 for each in self.receipts)

    @property
    def whole(self) -> int:
        """Followers that saw the end."""
        return sum(each.whole for each in self.receipts)


class Gathering:
    """Followers that follow."""

    def __init__(self, processes: "list[tuple[subprocess.Popen[str], Path]]") -> None:
        self._processes = processes

    def leave(self) -> Crowd:
        """Wait until each has seen the end, or has been cut, and return what they got."""
        receipts: list[Receipts] = []
        cpu_s = 0.0
        for process, path in self._processes:
            if process.wait(LIMIT_S):
                raise RuntimeError(f"a crowd ended with {process.returncode}")
            found, used_s = pickle.loads(path.read_bytes())  # written by our own process, a moment ago
            receipts += [Receipts(*each) for each in found]
            cpu_s += used_s
        return Crowd(receipts, cpu_s)


@contextmanager
def gathered(
    port: int, path: str, followers: int, *, processes: int = 2, marker: str = OUTPUT, end: str = END
) -> Iterator[Gathering]:
    """Have so many followers connected, each with its response begun, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="sibyl-crowd-") as name:
        started: list[tuple[subprocess.Popen[str], Path]] = []
        try:
            for number in range(processes):
                count = followers // processes + (number < followers % processes)
                place = Path(name) / str(number)
                words = ["-m", "tests.load.crowd", str(port), path, str(count), str(place), marker, end]
                process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, cwd=_ROOT)
                started.append((process, place))
            for process, _ in started:
                assert process.stdout is not None
                if process.stdout.readline() != "open\n":
                    raise RuntimeError("a crowd did not get its responses")
            yield Gathering(started)
        finally:
            for process, _ in started:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def _follow(
    port: int, path: str, followers: int, marker: bytes, end: bytes
) -> "list[tuple[array[float], array[int], bool]]":
    receipts = [(array("d"), array("L")) for _ in range(followers)]
    whole = [False] * followers
    counts, rests = [0] * followers, [b""] * followers
    keep = max(len(marker), len(end)) - 1
    sockets: dict[int, tuple[int, socket.socket]] = {}
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode()
    begun = 0
    with select.epoll() as epoll:
        for number in range(followers):
            connection = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
            connection.sendall(request)
            connection.setblocking(False)
            sockets[connection.fileno()] = number, connection
            epoll.register(connection.fileno(), select.EPOLLIN)
        buffer = bytearray(_RECEIVE_BYTES)
        view = memoryview(buffer)
        give_up = time.monotonic() + LIMIT_S
        while sockets:
            ready = epoll.poll(5.0, 1024)
            if time.monotonic() > give_up:
                raise TimeoutError("the crowd's streams do not end")
            for handle, _ in ready:
                number, connection = sockets[handle]
                try:
                    size = connection.recv_into(view)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    size = 0
                at = time.monotonic()
                data = rests[number] + view[:size]
                if not rests[number] and size:
                    if not data.startswith(b"HTTP/1.1 200"):
                        raise RuntimeError(f"refused: {data[:60]!r}")
                    begun += 1
                    if begun == followers:
                        print("open", flush=True)
                rests[number] = data[-keep:]
                if found := data.count(marker):
                    counts[number] += found
                    receipts[number][0].append(at)
                    receipts[number][1].append(counts[number])
                whole[number] = end in data
                if whole[number] or not size:
                    epoll.unregister(handle)
                    connection.close()
                    del sockets[handle]
    return [(times, had, seen) for (times, had), seen in zip(receipts, whole, strict=True)]


def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("port", "path", "followers", "place", "marker", "end"):
        parser.add_argument(name)
    asked = parser.parse_args()
    receipts = _follow(int(asked.port), asked.path, int(asked.followers), asked.marker.encode(), asked.end.encode())
    used = resource.getrusage(resource.RUSAGE_SELF)
    Path(asked.place).write_bytes(pickle.dumps((receipts, used.ru_utime + used.ru_stime)))


if __name__ == "__main__":
    _main()
