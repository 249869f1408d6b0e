"""The written material: topics, phrases and small talk, read from the text files beside. Chooses nothing."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from grammar import expand, turn

HERE = Path(__file__).parent
TOPICS = ("work", "love", "study", "travel", "health", "money", "family", "friendship", "home", "self", "general")
HELD_SHARE = 12  # one verb phrase or noun in twelve is never trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """A verb phrase in the asker's words (`change my job`) and in the oracle's (`change your job`)."""

    base: str
    gerund: str
    your_base: str
    your_gerund: str
    your_object: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    name: str
    choices: tuple[Deed, ...]
    hopes: tuple[Deed, ...]
    nouns: tuple[str, ...]
    images: tuple[str, ...]
    advice: tuple[str, ...]
    couplets: tuple[str, ...]


def is_held(text: str) -> bool:
    """True for the phrases kept out of training. Depends on the text alone."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_SHARE == 0


def _sections(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            name = line[2:].strip()
        elif line.strip():
            found[name].append(line.strip())
    return found


def deed(written: str) -> Deed:
    """`ask/asking for [a raise]` as a Deed."""
    head, _, rest = written.partition(" ")
    base, gerund = head.split("/")
    object_ = rest[rest.index("[") + 1 : rest.index("]")] if "[" in rest else None
    plain = rest.replace("[", "").replace("]", "")
    if object_ is not None:
        for article in ("a ", "an "):
            if object_.startswith(article):
                object_ = "the " + object_[len(article) :]
    tail = f" {plain}" if plain else ""
    return Deed(
        base=base + tail,
        gerund=gerund + tail,
        your_base=base + turn(tail),
        your_gerund=gerund + turn(tail),
        your_object=None if object_ is None else turn(object_),
    )


@cache
def topics() -> dict[str, Topic]:
    loaded = {}
    for name in TOPICS:
        part = _sections(HERE / "topics" / f"{name}.txt")
        loaded[name] = Topic(
            name=name,
            choices=tuple(deed(text) for line in part["choices"] for text in expand(line)),
            hopes=tuple(deed(text) for line in part["hopes"] for text in expand(line)),
            nouns=tuple(text for line in part["nouns"] for text in expand(line)),
            images=tuple(part["images"]),
            advice=tuple(part["advice"]),
            couplets=tuple(part["couplets"]),
        )
    return loaded


@cache
def phrases() -> dict[str, list[str]]:
    return _sections(HERE / "phrases.txt")


@cache
def talk() -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    """Small talk: (kind, questions, answers)."""
    found: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    kind, questions, answers = "", (), []
    for line in [*(HERE / "talk.txt").read_text(encoding="utf-8").splitlines(), "# end"]:
        if line.startswith("# "):
            if questions:
                found.append((kind, questions, tuple(answers)))
            kind, questions, answers = line[2:].strip(), (), []
        elif line.startswith("> "):
            answers.append(line[2:])
        elif line.strip():
            questions += tuple(part for part in line.split("|") if part)
    return tuple(found)


MATES = ("friend", "best\u00a0friend", "neighbour", "roommate", "old\u00a0friend", "classmate", "rival")
PERSONS: dict[str, tuple[str, ...]] = {
    "family": tuple(
        f"my {kin}" for kin in
        "mother father sister brother son daughter aunt uncle grandmother grandfather cousin niece nephew stepfather "
        "mother-in-law little\u00a0sister big\u00a0brother".split(" ")
    ),
    "love": (
        *(f"my {dear}" for dear in "husband wife boyfriend girlfriend ex partner sweetheart crush".split()),
        "he", "she", "the man I love", "the woman I love", "my first love",
    ),
    "friendship": (
        *(f"my {mate}" for mate in MATES),
        *("<name>",) * 6,
    ),
    "work": tuple(
        f"my {post}" for post in "boss colleague manager client supervisor new\u00a0boss employer".split(" ")
    ),
    "study": ("my teacher", "my professor", "my tutor", "the examiner"),
    "home": ("my landlord", "my cat", "my dog", "the new tenant"),
}  # fmt: skip
PREDICATES: dict[str, tuple[str, ...]] = {
    "any": (
        "forgive me", "call me", "come back", "trust me", "trust me again", "understand me", "listen to me", "help me",
        "like me", "speak to me", "tell me the truth", "write to me", "remember me", "keep the promise", "be happy",
        "change", "believe me", "agree with me", "apologise", "support me", "thank me", "respect me", "answer me",
        "accept my decision", "be honest", "be angry with me",
    ),
    "love": ("love me", "marry me", "leave me", "propose to me", "love me again", "miss me", "think of me",
             "be faithful", "come back to me", "kiss me", "choose me"),
    "work": ("promote me", "give me a raise", "hire me", "fire me", "praise my work", "extend my contract"),
    "family": ("visit me", "get well", "move home", "be proud of me", "come home", "find happiness", "marry"),
    "study": ("let me pass", "give me a good grade", "accept my thesis"),
    "home": ("come home", "stay", "get used to the house"),
    "friendship": ("visit me", "stay my friend", "invite me", "pay me back", "keep my secret", "miss me"),
}  # fmt: skip
FEELINGS: dict[str, tuple[str, ...]] = {
    "self": ("sad", "lonely", "afraid", "restless", "lost", "angry", "jealous", "bored", "stuck", "unhappy", "ashamed",
             "insecure", "worried", "confused", "empty", "nervous", "shy", "impatient", "hopeless", "frightened"),
    "health": ("tired", "weak", "sick", "exhausted", "anxious", "stressed", "ill", "sleepy", "worn out"),
    "friendship": ("alone", "left out", "forgotten", "misunderstood"),
    "love": ("heartbroken", "unloved", "lovesick"),
}  # fmt: skip
WHENS = ("this year", "next year", "this month", "next month", "this spring", "this summer", "this autumn",
         "this winter", "next week", "this week", "tomorrow", "next spring", "next summer", "next winter",
         "in March", "in May", "in June", "in autumn", "in winter", "on Monday", "before Christmas")  # fmt: skip
LATE_WHENS = ("now", "soon", "again", "one day", "at last", "", "right now", "today", "tonight")
NAMES = tuple(
    "Anna Maria Peter Thomas Julia Clara David Sarah Michael John Laura Paul Emma Lucas Sofia Daniel Eva Martin Nina "
    "Oliver Alice Robert Helen James Ruth Simon Lena Victor Rosa Hugo Mary Omar Fatima Yuki Chen Priya Ivan Olga "
    "Carlos Ines Ahmed Layla Noah Mia Leo Grace George Kate Tom Jack Lily Ben Max Sam Ella Adam Diana Felix "
    "Marta".split()
)
PLACES = tuple(
    "Paris Japan Rome India Spain Peru Iceland Egypt Greece Norway Brazil Kenya Canada Mexico Lisbon Vienna Morocco "
    "Thailand Chile Korea Italy Berlin London Prague Istanbul Tokyo Venice China Scotland Kyoto Ireland Cairo Athens "
    "Nepal Portugal Sweden Cuba Texas Oslo Madrid Dublin Sydney Boston Chicago Lima Delhi Beijing Geneva".split()
)
_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t th tr v w y z".split()
_VOWELS = "a e i o u ai ea io ou".split()
_CODAS = ("", "", "", "l", "n", "r", "s", "t", "m", "nd", "x", "k", "rn")


def invented(rng: random.Random) -> str:
    """A name that exists nowhere, so that the model learns to copy a word rather than to know it."""
    size = rng.choice((2, 2, 3))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(size)) + rng.choice(_CODAS)
    return word.capitalize()
