"""Small text grammar: `{a|b}` is a choice, `<name>` a slot, `[...]` marks the object. Knows no topic and no model."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping

_CHOICE = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<([A-Za-z]+\d?)>")
_ARTICLE = re.compile(r"\b([Aa]) (?=(\w+))")
_VOWEL_AFTER = re.compile(r"(?!uni|use|eu|one\b|once)[aeiou]|hour|honest", re.IGNORECASE)
_TURNS = {
    "i am": "you are", "i was": "you were", "i'm": "you are", "am i": "are you", "i": "you", "me": "you", "my": "your",
    "myself": "yourself", "mine": "yours", "our": "your", "we": "you", "us": "you",
}  # fmt: skip
_TURN = re.compile(r"\b(I am|I was|I'm|am I|I|me|my|myself|mine|our|we|us)\b")


def choose(template: str, rng: random.Random) -> str:
    """The template with every choice taken, innermost first."""
    while match := _CHOICE.search(template):
        template = template[: match.start()] + rng.choice(match[1].split("|")) + template[match.end() :]
    return template


def expand(template: str) -> Iterator[str]:
    """Every text that `choose` could give, in order."""
    parts = re.split(r"\{([^{}]*)\}", template)
    pools = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    for combination in itertools.product(*pools):
        yield tidy("".join(combination))


def slots_of(template: str) -> set[str]:
    """Names of the slots, as written in lower case."""
    return {name.lower() for name in _SLOT.findall(template)}


def fill(template: str, slots: Mapping[str, str]) -> str:
    """The template with its slots filled; `<Name>` is put with a capital. KeyError for a missing one."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        text = slots[name.lower()]
        return capital(text) if name[0].isupper() else text

    return _SLOT.sub(value, template)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def turn(text: str) -> str:
    """What the asker says of themselves, as the oracle says it: `my job` becomes `your job`."""
    return _TURN.sub(lambda match: _TURNS[match[0].lower()], text)


def tidy(text: str) -> str:
    """One space between words, `an` before a vowel, no space before a comma, full stop or question mark."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.?!;:])", r"\1", text)

    def article(match: re.Match[str]) -> str:
        return match[1] + ("n " if _VOWEL_AFTER.match(match[2]) else " ")

    return _ARTICLE.sub(article, text)
