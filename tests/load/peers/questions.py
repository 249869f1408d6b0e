"""Questions of a wanted length for models with random weights, the same for every side, and never asked twice."""

import random
from collections.abc import Sequence
from functools import cache

from tests.load.make_random_gguf import pieces

_WORDS = 16_000  # of a vocabulary of 32,000, two syllables or three


@cache
def _words() -> Sequence[str]:
    return [piece for piece in pieces(_WORDS) if piece.isalpha() and len(piece) >= 4]


def words(tokens: int, *key: object) -> str:
    """Return about so many tokens of text; the same key gives the same text."""
    chosen = random.Random(repr(key)).choices(_words(), k=tokens)
    return " ".join(chosen)
