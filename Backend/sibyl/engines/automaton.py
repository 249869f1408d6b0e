"""A grammar as a machine that reads bytes: what may come next, and whether the text may end here.

A state is the set of all places in the rules that the text so far can have led to. Each place stands on what must
follow it, as a call stands on its callers. States and steps are made when a text first gets there and are kept, so
that the next text costs one look a byte. What a state may cost is bounded: a grammar that can be read in too many ways
at once is given up in one clear error, in milliseconds, and never by using up time or memory.

Safe from any thread. Bytes, not characters, because a token may end in the middle of a character.
"""

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache

from sibyl.core.errors import EngineError
from sibyl.wire.grammar_rules import Chars, Rules, Symbol

DEAD = -1  #: the state in which no text can go on

PLACES = 2_000  # most places of one state
VISITS = 20_000  # most places looked at for one step
KEPT = 500_000  # most places that one machine keeps, each time it is in a state or on another one; 100 bytes each
CROWDED = 50_000
STEPS = 200_000  # most steps that it keeps

_END = 0  # the place behind the whole text


class Automaton:
    """The machine of one grammar."""

    def __init__(self, rules: Rules) -> None:
        """Raise EngineError if the grammar can begin in too many ways."""
        flat = _Flat(rules)
        self._symbols, self._starts = flat.symbols, flat.starts
        self._cells: list[tuple[int, int]] = [(-1, -1)]  # position, and the cell that goes on behind its rule
        self._cell_ids: dict[tuple[int, int], int] = {}
        self._behind: dict[int, frozenset[int]] = {}  # the places after the character at a cell
        self._states: list[frozenset[int]] = []
        self._state_ids: dict[frozenset[int], int] = {}
        self._steps: dict[int, int] = {}
        self._kept = 0
        self._visits = 0
        self._growing = threading.Lock()
        self.start = self._state(self._places((start, _END) for start in self._starts[rules.root]))

    @property
    def crowded(self) -> bool:
        """Whether so much is kept that a new machine should be made for the next text."""
        return self._kept > CROWDED

    def step(self, state: int, byte: int) -> int:
        """Return the state after one more byte; DEAD if none may follow.

        Raises:
            EngineError: the text can be read in too many ways.
        """
        known = self._steps.get(state << 8 | byte)
        return known if known is not None else self._grow(state, byte)

    def walk(self, state: int, piece: bytes) -> int:
        """Return the state after all of these bytes; see ``step``."""
        steps = self._steps
        for byte in piece:
            known = steps.get(state << 8 | byte)
            state = known if known is not None else self._grow(state, byte)
            if state == DEAD:
                break
        return state

    def following(self, state: int) -> bytes:
        """Return 256 flags: which bytes may follow."""
        flags = 0
        for cell in self._states[state]:
            symbol = self._symbols[self._cells[cell][0]] if cell != _END else None
            if isinstance(symbol, bytes):
                flags |= int.from_bytes(symbol, "little")
        return flags.to_bytes(256, "little")

    def may_end(self, state: int) -> bool:
        """Whether the text is whole."""
        return _END in self._states[state]

    def must_end(self, state: int) -> bool:
        """Whether the text is whole and nothing can follow."""
        return len(self._states[state]) == 1 and self.may_end(state)

    def _grow(self, state: int, byte: int) -> int:
        with self._growing:
            self._visits = 0
            following: set[int] = set()
            for cell in self._states[state]:
                position, below = self._cells[cell]
                symbol = self._symbols[position] if cell != _END else None
                if isinstance(symbol, bytes) and symbol[byte]:
                    behind = self._behind.get(cell)
                    if behind is None:
                        behind = self._behind[cell] = self._places([(position + 1, below)])
                    following |= behind
            reached = self._state(frozenset(following)) if following else DEAD
            if len(self._steps) >= STEPS:
                self._steps.clear()
            self._steps[state << 8 | byte] = reached
            return reached

    def _state(self, places: frozenset[int]) -> int:
        known = self._state_ids.get(places)
        if known is None:
            _bound(len(places), PLACES)
            self._keep(len(places))
            known = self._state_ids[places] = len(self._states)
            self._states.append(places)
        return known

    def _cell(self, position: int, below: int) -> int:
        known = self._cell_ids.get((position, below))
        if known is None:
            self._keep(1)
            known = self._cell_ids[position, below] = len(self._cells)
            self._cells.append((position, below))
        return known

    def _places(self, todo: Iterator[tuple[int, int]] | Sequence[tuple[int, int]]) -> frozenset[int]:
        """Return all places with a character that can be reached from these without one, and the end if it can be."""
        pending = list(todo)
        seen: set[tuple[int, int]] = set()
        found: set[int] = set()
        while pending:
            place = pending.pop()
            if place in seen:
                continue
            seen.add(place)
            self._visits += 1
            _bound(self._visits, VISITS)
            position, below = place
            symbol = self._symbols[position]
            if isinstance(symbol, bytes):
                found.add(self._cell(position, below))
            elif isinstance(symbol, int):
                # A rule that ends with another one leaves nothing to come back to: recursion there needs no stack.
                last = self._symbols[position + 1] is None
                caller = below if last else self._cell(position + 1, below)
                pending += [(start, caller) for start in self._starts[symbol]]
            elif below == _END:
                found.add(_END)
            else:
                pending.append(self._cells[below])
        return frozenset(found)

    def _keep(self, places: int) -> None:
        self._kept += places
        _bound(self._kept, KEPT)


def _bound(count: int, most: int) -> None:
    if count > most:
        raise EngineError("The grammar can be read in too many ways at once. Make its alternatives begin differently.")


class _Flat:
    """The rules as one array: byte sets, numbers of rules, and None where an alternative ends."""

    def __init__(self, rules: Rules) -> None:
        self.symbols: list[bytes | int | None] = []
        self.starts: list[list[int]] = []
        self._classes: dict[Chars, int] = {}
        self._extra: list[tuple[tuple[bytes, ...], ...]] = []
        self._count = len(rules.rules)
        for alternatives in rules.rules:
            self.starts.append([self._write(symbols) for symbols in alternatives])
        for sequences in self._extra:
            self.starts.append([self._write_bytes(sequence) for sequence in sequences])

    def _write(self, symbols: Sequence[Symbol]) -> int:
        start = len(self.symbols)
        for symbol in symbols:
            if isinstance(symbol, int):
                self.symbols.append(symbol)
                continue
            sequences = byte_sequences(symbol)
            if len(sequences) == 1:
                self.symbols += sequences[0]
            else:
                self.symbols.append(self._class(symbol, sequences))
        self.symbols.append(None)
        return start

    def _write_bytes(self, sequence: tuple[bytes, ...]) -> int:
        start = len(self.symbols)
        self.symbols += [*sequence, None]
        return start

    def _class(self, chars: Chars, sequences: tuple[tuple[bytes, ...], ...]) -> int:
        """Return the number of the rule that stands for a class of characters of several lengths."""
        if chars not in self._classes:
            self._classes[chars] = self._count + len(self._extra)
            self._extra.append(sequences)
        return self._classes[chars]


@lru_cache(1024)
def _byte_set(ranges: tuple[tuple[int, int], ...]) -> bytes:
    """Return 256 flags."""
    flags = bytearray(256)
    for low, high in ranges:
        flags[low : high + 1] = b"\x01" * (high + 1 - low)
    return bytes(flags)


@lru_cache(1024)
def byte_sequences(chars: Chars) -> tuple[tuple[bytes, ...], ...]:
    """Return the characters' UTF-8 as sequences of byte sets; a text of one of them is one of the characters."""
    found: dict[tuple[tuple[int, int], ...], list[tuple[int, int]]] = {}  # by all but the first byte
    for low, high in chars.ranges:
        for least, most in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF)):
            first, last = max(low, least), min(high, most)
            if first <= last:
                for sequence in _split(chr(first).encode(), chr(last).encode()):
                    found.setdefault(sequence[1:], []).append(sequence[0])
    return tuple((_byte_set(tuple(heads)), *(_byte_set((part,)) for part in tail)) for tail, heads in found.items())


def _split(low: bytes, high: bytes) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the sequences of byte ranges that make up a range of characters whose UTF-8 is of one length."""
    first, last, rest = low[0], high[0], len(low) - 1
    if not rest:
        yield ((first, last),)
        return
    if first == last:
        yield from (((first, first), *tail) for tail in _split(low[1:], high[1:]))
        return
    if low[1:] != b"\x80" * rest:
        yield from (((first, first), *tail) for tail in _split(low[1:], b"\xbf" * rest))
        first += 1
    end: list[tuple[tuple[int, int], ...]] = []
    if high[1:] != b"\xbf" * rest:
        end = [((last, last), *tail) for tail in _split(b"\x80" * rest, high[1:])]
        last -= 1
    if first <= last:
        yield ((first, last), *((0x80, 0xBF),) * rest)
    yield from end
