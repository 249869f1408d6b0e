"""The poems and the draw. Promises that a seed draws the same poem for ever; knows nothing of questions or models."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files


class Grade(StrEnum):
    """How fortunate a poem is."""

    EXCELLENT = "excellent"
    GOOD = "good"
    MIDDLING = "middling"
    POOR = "poor"


class Theme(StrEnum):
    """What a poem may speak of; a closed set."""

    LOVE = "love"
    WORK = "work"
    STUDY = "study"
    TRAVEL = "travel"
    HEALTH = "health"
    MONEY = "money"
    FAMILY = "family"
    FRIENDSHIP = "friendship"
    HOME = "home"
    SELF = "self"
    COURAGE = "courage"
    PATIENCE = "patience"
    DECISION = "decision"
    CHANGE = "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Poem:
    """One fortune."""

    number: int  #: 1 for the first; the name by which a poem is known for ever
    title: str
    grade: Grade
    themes: tuple[Theme, ...]
    lines: tuple[str, str, str, str]

    @property
    def text(self) -> str:
        """The four lines, joined by newlines, without the title."""
        return "\n".join(self.lines)


@cache
def all_poems() -> tuple[Poem, ...]:
    """Every poem, by number. Read once from the package and kept."""
    records = json.loads(files(__package__).joinpath("poems.json").read_text(encoding="utf-8"))
    return tuple(
        Poem(
            number=record["number"],
            title=record["title"],
            grade=Grade(record["grade"]),
            themes=tuple(Theme(theme) for theme in record["themes"]),
            lines=tuple(record["lines"]),
        )
        for record in records
    )


@cache
def _by_number() -> Mapping[int, Poem]:
    return {poem.number: poem for poem in all_poems()}


def poem_by_number(number: int) -> Poem:
    """The poem of this number. Raises KeyError when there is none."""
    return _by_number()[number]


def draw(seed: int) -> Poem:
    """The poem that this seed draws: uniform over all poems, for any integer, negative or huge.

    Stable for ever: the place is the SHA-256 of the seed's two's complement bytes (big-endian, as few bytes as hold
    the sign), modulo the number of poems. It depends on no random generator, hash seed, platform or Python version.
    It does depend on how many poems there are, so the set is closed: poems may be reworded, never added or removed.
    """
    # Not str(seed): Python refuses to print integers of more than 4,300 digits.
    seed_bytes = seed.to_bytes(seed.bit_length() // 8 + 1, "big", signed=True)
    digest = hashlib.sha256(seed_bytes).digest()
    poems = all_poems()
    return poems[int.from_bytes(digest, "big") % len(poems)]
