"""Texts of a grammar, written by chance."""

import random

from sibyl.engines.automaton import DEAD, Automaton
from sibyl.wire.gbnf import parse_gbnf

CLOSING = b'"}]0aelsurtnf:,1'  # what brings JSON to its end, most of all first


def automaton_of(grammar: str) -> Automaton:
    """Return the machine that reads texts of this grammar."""
    return Automaton(parse_gbnf(grammar))


def matches(automaton: Automaton, text: str | bytes) -> bool:
    """Whether this is a whole text of the grammar."""
    state = automaton.walk(automaton.start, text.encode() if isinstance(text, str) else text)
    return state != DEAD and automaton.may_end(state)


def write_text(automaton: Automaton, seed: int, *, free_bytes: int = 60, most_bytes: int = 5_000) -> bytes | None:
    """Return a text of the grammar, or None if it did not come to an end.

    Args:
        free_bytes: so many are drawn; from then on it closes what is open.
    """
    chance = random.Random(seed)
    state, text = automaton.start, bytearray()
    while len(text) < most_bytes:
        following = {byte: after for byte in range(256) if (after := automaton.step(state, byte)) != DEAD}
        if automaton.may_end(state) and (not following or len(text) >= free_bytes or chance.random() < 0.2):
            return bytes(text)
        assert following, f"a dead end after {bytes(text)!r}"
        hasty = [byte for byte in CLOSING if byte in following] if len(text) >= free_bytes else []
        byte = hasty[0] if hasty else chance.choice(list(following))
        text.append(byte)
        state = following[byte]
    return None
