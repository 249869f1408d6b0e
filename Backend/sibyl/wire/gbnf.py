"""GBNF, llama.cpp's language for grammars, from text to rules: checked, bounded, with everything short written out.

The language is llama.cpp's, as its parser reads it, without tokens by number (``<[17]>``), and stricter where that
parser is careless. It overflows its stack on nested brackets, loops for ever on a left recursion that hides behind a
rule that may be empty, takes exponential time on some grammars of 500 bytes, reads ``{1,5000}`` as ``+``, and prints
what it refuses. Here each of these is one sentence for who wrote the grammar, before any model is asked.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from sibyl.core.errors import InvalidRequest
from sibyl.wire.grammar_rules import (
    HIGHEST,
    Alternatives,
    Chars,
    Rules,
    Symbol,
    complement,
    quoted,
    refuse_left_recursion,
)

GRAMMAR_CHARS = 16_384
ELEMENTS = 30_000  # characters, classes and references, with repetitions written out
REPEATS = 5_000
NESTING = 50
ROOT = "root"

_SPACE = re.compile(r"(?:[ \t]+|#[^\r\n]*)*")
_SPACE_OR_LINES = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_PLAIN = re.compile(r'[^"\\\r\n]+')
_REPEAT = re.compile(r"\{[ \t]*(\d{1,6})[ \t]*(?:(,)[ \t]*(\d{1,6})?[ \t]*)?\}", re.ASCII)
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"} | {mark: mark for mark in '\\"[]-'}


def parse_gbnf(text: str) -> Rules:
    """Return the rules that ``text`` says.

    Takes time in proportion to the text and ELEMENTS, whatever it says.

    Raises:
        InvalidRequest: it is no grammar, or exceeds a limit; the message says in which line and why.
    """
    parser = _Parser(text)
    parser.read()
    rules, root = parser.finished()
    refuse_left_recursion(rules, parser.names)
    return Rules(rules, root)


class _Parser:
    def __init__(self, text: str) -> None:
        self.names: dict[int, str] = {}  # of the rules that have one; the others were made for a bracket or a repeat
        self._text = text
        self._at = 0
        self._ids: dict[str, int] = {}
        self._rules: list[list[list[Symbol]] | None] = []
        self._elements = 0

    def read(self) -> None:
        """Take in the whole text."""
        self._skip(lines=True)
        while self._at < len(self._text):
            self._rule()

    def finished(self) -> tuple[list[Alternatives], int]:
        """Return all rules and the number of the root."""
        rules: list[Alternatives] = []
        for number, rule in enumerate(self._rules):
            if rule is None:
                raise InvalidRequest(f"The grammar has no rule {quoted(self.names[number])}, which it refers to.")
            rules.append(rule)
        if ROOT not in self._ids:
            raise InvalidRequest(f'The grammar has no rule {ROOT}; begin with: {ROOT} ::= "..."')
        return rules, self._ids[ROOT]

    def _rule(self) -> None:
        name = self._name()
        number = self._number(name)
        self._skip(lines=False)
        if not self._text.startswith("::=", self._at):
            raise self._error(f"::= must follow the name {quoted(name)}")
        if self._rules[number] is not None:
            raise self._error(f"rule {quoted(name)} is there twice")
        self._at += 3
        self._skip(lines=True)
        self._rules[number] = self._alternatives(0)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            raise self._error(f"{quoted(self._text[self._at])} means nothing here")
        self._skip(lines=True)

    def _alternatives(self, depth: int) -> list[list[Symbol]]:
        if depth > NESTING:
            raise self._error(f"brackets are nested more than {NESTING} deep")
        alternatives = [self._sequence(depth)]
        while self._peek() == "|":
            self._at += 1
            self._skip(lines=True)
            alternatives.append(self._sequence(depth))
        self._count(len(alternatives))
        return alternatives

    def _sequence(self, depth: int) -> list[Symbol]:
        """Read up to what ends a sequence. Within brackets it goes on in the next line."""
        symbols: list[Symbol] = []
        last = 0  # where the item begins that a repetition would repeat
        lines = depth > 0
        while letter := self._peek():
            if letter in "*+?{":
                least, most = self._repetition()
                item = symbols[last:]
                if not item:
                    raise self._error("there is nothing to repeat")
                symbols[last:] = self._repeated(item, least, most)
            else:
                found = self._item(letter, depth)
                if found is None:
                    break
                last = len(symbols)
                symbols += found
            self._skip(lines=lines)
        return symbols

    def _item(self, letter: str, depth: int) -> list[Symbol] | None:
        """Read a literal, a class, a bracket or a reference; None where something else stands."""
        match letter:
            case '"':
                return list(self._literal())
            case "[":
                self._count(1)
                return [self._class()]
            case ".":
                self._at += 1
                self._count(1)
                return [Chars(complement(()))]
            case "(":
                self._at += 1
                self._skip(lines=True)
                group = self._alternatives(depth + 1)
                if self._peek() != ")":
                    raise self._error("a bracket is not closed with )")
                self._at += 1
                self._count(1)
                return [self._add(group)]
            case "<" | "!":
                raise self._error("tokens by name or number cannot be used here, only their text")
            case _ if _NAME.match(letter):
                self._count(1)
                return [self._number(self._name())]
            case _:
                return None

    def _literal(self) -> Iterator[Symbol]:
        self._at += 1
        while (letter := self._peek()) != '"':
            plain = _PLAIN.match(self._text, self._at)
            if plain is not None:
                self._at = plain.end()
                self._count(len(plain[0]))
                yield from map(_one, plain[0])
            elif letter == "\\":
                self._count(1)
                code = self._character()
                yield self._chars([(code, code)])
            else:
                raise self._error('a text is not closed with "')
        self._at += 1

    def _class(self) -> Chars:
        self._at += 1
        inverse = self._peek() == "^"
        self._at += inverse
        ranges: list[tuple[int, int]] = []
        while self._peek() != "]":
            if len(ranges) == ELEMENTS:
                raise self._error("a class is too long")
            low = high = self._character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._character()
            if high < low:
                raise self._error("a range ends before it begins")
            ranges.append((low, high))
        self._at += 1
        if not ranges:
            raise self._error("a class is empty")
        self._count(len(ranges))
        return self._chars(complement(ranges) if inverse else ranges)

    def _chars(self, ranges: Iterable[tuple[int, int]]) -> Chars:
        """Return the characters without surrogates, which no text holds."""
        merged = complement(complement(ranges))
        if not merged:
            raise self._error("this matches no character")
        return Chars(merged)

    def _character(self) -> int:
        letter = self._peek()
        if letter != "\\":
            if not letter or letter in "\r\n":
                raise self._error("a class is not closed with ]")
            self._at += 1
            return ord(letter)
        kind = self._text[self._at + 1 : self._at + 2]
        if digits := _HEX.get(kind):
            code = self._text[self._at + 2 : self._at + 2 + digits]
            if len(code) < digits or not _HEXADECIMAL.fullmatch(code) or int(code, 16) > HIGHEST:
                raise self._error(f"\\{kind} takes {digits} hexadecimal digits, at most 10FFFF")
            self._at += 2 + digits
            return int(code, 16)
        if kind not in _ESCAPES:
            raise self._error(f'\\{kind} is no escape; there are \\n \\r \\t \\\\ \\" \\[ \\] \\- \\x \\u \\U')
        self._at += 2
        return ord(_ESCAPES[kind])

    def _repetition(self) -> tuple[int, int | None]:
        letter = self._peek()
        if letter != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[letter]
        found = _REPEAT.match(self._text, self._at)
        if found is None:
            raise self._error("a repetition is {3}, {3,} or {3,5}")
        self._at = found.end()
        least = int(found[1])
        most = least if not found[2] else int(found[3]) if found[3] else None
        if max(least, most or 0) > REPEATS:
            raise self._error(f"a repetition goes up to {REPEATS}")
        if most is not None and most < least:
            raise self._error("a repetition ends before it begins")
        return least, most

    def _repeated(self, item: list[Symbol], least: int, most: int | None) -> list[Symbol]:
        """Write a repetition out: what must be there, then rules for what may."""
        if most is None:
            self._count(len(item) * (least + 1))
            more = self._add([[*item], []])
            rule = self._rules[more]
            assert rule is not None
            rule[0].append(more)
            return item * least + [more]
        self._count(len(item) * least + (len(item) + 2) * (most - least))
        rest: list[Symbol] = []
        for _ in range(most - least):
            rest = [self._add([[*item, *rest], []])]
        return item * least + rest

    def _add(self, alternatives: list[list[Symbol]]) -> int:
        self._rules.append(alternatives)
        return len(self._rules) - 1

    def _number(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = len(self._rules)
            self.names[len(self._rules)] = name
            self._rules.append(None)
        return self._ids[name]

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._error("a rule begins with its name, of letters, digits and hyphens")
        self._at = found.end()
        return found[0]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, *, lines: bool) -> None:
        found = (_SPACE_OR_LINES if lines else _SPACE).match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > ELEMENTS:
            raise self._error(f"with repetitions written out it has more than {ELEMENTS} elements")

    def _error(self, what: str) -> InvalidRequest:
        line = len(re.findall(r"\r\n|\n|\r", self._text[: self._at])) + 1
        return InvalidRequest(f"Grammar, line {line}: {what}.")


@lru_cache(1024)
def _one(character: str) -> Chars:
    return Chars(((ord(character), ord(character)),))
