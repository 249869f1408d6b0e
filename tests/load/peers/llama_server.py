"""llama.cpp's own server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.load.peers.llama_cpp_sources import VERSION, libraries, program
from tests.load.peers.peer import Running, Seat, server
from tests.processes import free_port


class LlamaServer:
    """llama-server; each slot has room of its own, unless the KV is unified."""

    def __init__(self, name: str = "llama-server", *more: str) -> None:
        """Prepare it with more flags than all sides have."""
        self.name = name
        self._more = more

    @contextmanager
    def start(self, seat: Seat, folder: Path) -> Iterator[Running]:
        """Run it while the block runs."""
        port = free_port()
        room = seat.slots * seat.context_tokens
        command = [program("llama-server"), "--model", seat.model, "--port", port, "--parallel", seat.slots]
        command += ["--ctx-size", room, "--threads", seat.threads, "--threads-batch", seat.threads, *self._more]
        words = [str(word) for word in command]
        with server(self.name, words, folder, port=port, health="/health", env=libraries()) as running:
            yield running

    def about(self) -> dict[str, str]:
        """Return the version."""
        return {
            "version": f"of the sources in llama-cpp-python {VERSION}, on the llama.cpp libraries of our wheel",
            "set": " ".join(self._more) or "nothing",
        }
