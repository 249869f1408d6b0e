"""Whole processes: `sibyl serve` as a user starts it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Serve

StartServe = Callable[..., Serve]


@pytest.fixture
def start_serve(tmp_path: Path) -> Iterator[StartServe]:
    """Starts `sibyl serve` with the scripted engine, or as the flags say; ends all that were started."""
    started: list[Serve] = []

    def start(*flags: str, data_dir: Path = tmp_path / "data", **options: Any) -> Serve:
        flags = (
            flags
            if any(flag.startswith("--engine") or flag == "--model" for flag in flags)
            else ("--engine", "scripted", *flags)
        )
        serve = Serve(data_dir, *flags, **options)
        started.append(serve)
        return serve

    yield start
    for serve in started:
        serve.stop()
