"""Models with random weights that every side loads, written once."""

import hashlib
from pathlib import Path

from tests.load import make_random_gguf
from tests.load.peers.environments import CACHE

CONTEXT_TOKENS = 8192


def random_model(preset: str, kind: str) -> Path:
    """Return a model of this size and quantisation; it never ends an answer by itself."""
    writer = hashlib.sha256(Path(make_random_gguf.__file__).read_bytes()).hexdigest()[:8]
    path = CACHE / "models" / f"random-{preset}-{kind}-{writer}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        template = make_random_gguf.CHAT_TEMPLATE
        make_random_gguf.write_random(unfinished, preset, context=CONTEXT_TOKENS, kind=kind, seed=1, template=template)
        unfinished.rename(path)
    return path
