"""The rules of a grammar: characters, references and sequences of them, and whether they can be read at all. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sibyl.core.errors import InvalidRequest

HIGHEST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of these; the ranges are in order, apart, and hold no surrogates."""

    ranges: tuple[tuple[int, int], ...]


Symbol = Chars | int
"""A character, or the rule of this number."""

Alternatives = Sequence[Sequence[Symbol]]


@dataclass(frozen=True, slots=True)
class Rules:
    """A grammar: each rule is its alternatives, each alternative a sequence of symbols. Nothing is left recursive."""

    rules: Sequence[Alternatives]
    root: int


def complement(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the characters that are not in ``ranges``, in order; surrogates are none."""
    rest: list[tuple[int, int]] = []
    low = 0
    for first, last in sorted([*ranges, _SURROGATES]):
        if low < first:
            rest.append((low, first - 1))
        low = max(low, last + 1)
    if low <= HIGHEST:
        rest.append((low, HIGHEST))
    return tuple(rest)


def quoted(name: str) -> str:
    """Return a name from outside for a message, cut if it is long."""
    return f'"{name}"' if len(name) <= 60 else f'"{name[:60]}…"'


def refuse_left_recursion(rules: Sequence[Alternatives], names: Mapping[int, str]) -> None:
    """Raise InvalidRequest if a rule can come back to itself without a character, which would never end."""
    empty = _may_be_empty(rules)
    first: list[set[int]] = [set() for _ in rules]  # the rules that may stand first in a rule
    for number, alternatives in enumerate(rules):
        for symbols in alternatives:
            for symbol in symbols:
                if isinstance(symbol, int):
                    first[number].add(symbol)
                if not isinstance(symbol, int) or symbol not in empty:
                    break
    done: set[int] = set()
    for start in range(len(rules)):
        path: dict[int, Iterator[int]] = {} if start in done else {start: iter(first[start])}
        while path:
            number = next(reversed(path))
            following = next(path[number], None)
            if following is None:
                done.add(number)
                del path[number]
            elif following in path:
                loop = [*path][[*path].index(following) :]
                name = next((names[each] for each in loop if each in names), None)
                where = "A repetition" if name is None else f"Rule {quoted(name)}"
                raise InvalidRequest(
                    f"{where} of the grammar comes back to itself before any character (left recursion)."
                )
            elif following not in done:
                path[following] = iter(first[following])


def _may_be_empty(rules: Sequence[Alternatives]) -> set[int]:
    """Return the rules that match the empty text."""
    users: dict[int, list[tuple[int, int]]] = {}
    missing: dict[tuple[int, int], int] = {}  # references in an alternative that are not known to be empty
    found: list[int] = []
    for number, alternatives in enumerate(rules):
        for place, symbols in enumerate(alternatives):
            if any(isinstance(symbol, Chars) for symbol in symbols):
                continue
            missing[number, place] = len(symbols)
            if not symbols:
                found.append(number)
            for symbol in symbols:
                if isinstance(symbol, int):
                    users.setdefault(symbol, []).append((number, place))
    empty: set[int] = set()
    while found:
        number = found.pop()
        if number in empty:
            continue
        empty.add(number)
        for user in users.get(number, ()):
            missing[user] -= 1
            if not missing[user]:
                found.append(user[0])
    return empty
