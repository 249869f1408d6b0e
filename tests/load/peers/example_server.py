"""The batching server in Python among the examples of llama-cpp-python; only its sdist has it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.load.peers.environments import environment
from tests.load.peers.llama_cpp_sources import VERSION, sources
from tests.load.peers.peer import Running, Seat, server
from tests.processes import free_port

# What the head of the script names, but for what is lent.
_PACKAGES = ("openai", "safetensors", "websockets")
# By default it keeps the scores of every token.
_SET: dict[str, bool] = {"kv_unified": True, "store_logits": False, "flash_attn": True}


class ExampleServer:
    """`examples/server/server.py`, set as its example configurations are."""

    name = "examples/server"

    @contextmanager
    def start(self, seat: Seat, folder: Path) -> Iterator[Running]:
        """Run it while the block runs."""
        script = sources() / "examples" / "server" / "server.py"
        python, port = environment("example-server", *_PACKAGES, lends=True), free_port()
        config = {
            "server": {"host": "127.0.0.1", "port": port},
            "model": {
                "path": str(seat.model),
                "n_ctx": seat.slots * seat.context_tokens,
                "n_seq_max": seat.slots,
                "n_batch": 512,
                "n_ubatch": 512,
                "threads": seat.threads,
                "threads_batch": seat.threads,
                **_SET,
            },
        }
        path = folder / "example-server.json"
        path.write_text(json.dumps(config))
        command = [str(python), str(script), "--config-file", str(path)]
        with server("example-server", command, folder, port=port, health="/healthz") as running:
            yield Running(self.name, running.port, running.wire, running.pid)

    def about(self) -> dict[str, str]:
        """Return the version, and what was set."""
        return {"version": f"of the sdist {VERSION}, our own build", "set": ", ".join(_SET)}
