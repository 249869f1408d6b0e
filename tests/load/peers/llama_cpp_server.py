"""The server in the llama-cpp-python package: one answer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.load.peers.environments import environment
from tests.load.peers.llama_cpp_sources import VERSION
from tests.load.peers.peer import Running, Seat, server
from tests.processes import free_port

# What the extra "server" of the package names. The package itself is lent.
_PACKAGES = ("starlette-context>=0.3.6,<0.4", "PyYAML>=5.1")
# By default a question ends the answer that is under way, and scores are kept of every token of the prompt.
_SET = {"interrupt_requests": "false", "logits_all": "false", "flash_attn": "true"}


class LlamaCppServer:
    """`python -m llama_cpp.server`, set so that it is at its best."""

    name = "llama_cpp.server"

    @contextmanager
    def start(self, seat: Seat, folder: Path) -> Iterator[Running]:
        """Run it while the block runs."""
        python, port = environment("llama-cpp-server", *_PACKAGES, lends=True), free_port()
        settings = {
            "model": seat.model,
            "port": port,
            "n_ctx": seat.context_tokens,
            "n_threads": seat.threads,
            "n_threads_batch": seat.threads,
            **_SET,
        }
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        command = [str(python), "-m", "llama_cpp.server", *flags]
        with server(self.name, command, folder, port=port, health="/v1/models") as running:
            yield running

    def about(self) -> dict[str, str]:
        """Return the version, and what was set."""
        return {"version": f"{VERSION}, our own build", "set": ", ".join(f"{key}={_SET[key]}" for key in _SET)}
