"""Our own side: `sibyl serve` with everything that it starts, asked over REST and followed over SSE."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sibyl
from tests.load.peers.peer import Running, Seat
from tests.processes import serving


class SibylServe:
    """`sibyl serve`, with an embedded Redis and all its defaults."""

    name = "sibyl"

    @contextlib.contextmanager
    def start(self, seat: Seat, folder: Path) -> Iterator[Running]:
        """Run it while the block runs."""
        flags = ("--model", seat.model, "--slots", seat.slots, "--threads", seat.threads)
        with serving(folder / "sibyl", *map(str, flags), "--context-tokens", str(seat.context_tokens)) as serve:
            yield Running(self.name, serve.port, "sibyl", serve.process.pid)

    def about(self) -> dict[str, str]:
        """Return the version."""
        return {"version": sibyl.__version__, "set": "nothing"}
