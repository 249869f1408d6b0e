"""Conversations for training and for evaluation, endless and from a seed. Knows the material, no tokenizer.

python corpus.py --seed 1 --count 20 [--held]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from grammar import capital, choose, fill, slots_of, tidy, turn
from material import (
    FEELINGS,
    LATE_WHENS,
    NAMES,
    PERSONS,
    PLACES,
    PREDICATES,
    TOPICS,
    WHENS,
    Deed,
    Topic,
    invented,
    is_held,
    phrases,
    talk,
    topics,
)  # fmt: skip
from poem_readings import READINGS

from sibyl.fortune import prompt
from sibyl.fortune.poems import Poem, all_poems

HELD_SEED = 1_000_003  # conversations for evaluation; training never draws from it
Turn = dict[str, str]
LEANS = ("yes", "yes", "wait", "wait", "no")
GRADE_LEAN = {"excellent": "yes", "good": "yes", "middling": "wait", "poor": "no"}
FORMS = ("should",) * 8 + ("will",) * 5 + ("when",) * 3 + ("how",) * 4 + ("why",) + ("which",) * 2 + (
    "about",) * 6 + ("person",) * 4 + ("feeling",) * 2  # fmt: skip
SYSTEMS = (
    "You are Sibyl, an oracle.", "You are a helpful assistant.", "You are a wise oracle. Answer briefly.",
    "Answer in a few sentences.", "You are a kind fortune teller.", "Be honest and short.", "You are an assistant.",
    "Speak like an oracle.", "You answer questions about life.", "Be gentle with the user.", "You are a poet.",
    "The user is sad today. Be kind.", "Answer in English.", "Give advice with an image from nature.",
)  # fmt: skip
DREADED = ("lose ", "fail ", "miss ", "catch a cold")
DREADED_PREDICATES = {"leave you", "fire you", "be angry with you"}
BOND = {"work": "your dealings with", "study": "your dealings with", "home": "your life with"}
REL = ("brother", "boss", "neighbour", "husband", "wife", "friend", "teacher", "father", "ex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question with what an answer needs to take it up."""

    question: str
    topic: Topic
    form: str
    slots: dict[str, str]


def _pick(pool: tuple, rng: random.Random, held: bool, text) -> object:
    """One of the pool, from the trained part or from the held part."""
    for _ in range(4000):
        item = rng.choice(pool)
        if is_held(text(item)) == held:
            return item
    return item


def _names(text: str, rng: random.Random) -> str:
    """Put real or invented names and places into `<name>` and `<place>`."""
    for slot, known in (("<name>", NAMES), ("<place>", PLACES)):
        if slot in text:
            text = text.replace(slot, rng.choice(known) if rng.random() < 0.5 else invented(rng), 1)
    return text


def _named(deed: Deed, rng: random.Random) -> Deed:
    if "<" not in deed.base:
        return deed
    state = rng.getrandbits(32)  # the same name in every form of the deed

    def same(text: str | None) -> str | None:
        return None if text is None else _names(text, random.Random(state))

    return Deed(
        base=same(deed.base) or "", gerund=same(deed.gerund) or "", your_base=same(deed.your_base) or "",
        your_gerund=same(deed.your_gerund) or "", your_object=same(deed.your_object),
    )  # fmt: skip


def _frame(question: str, rng: random.Random) -> str:
    """The question as people type it: with a greeting, a preface, in lower case, without its mark."""
    frame = rng.choice(phrases()["frame"]) if rng.random() < 0.5 else "<q>"
    lowered = question if question.startswith(("I ", "I'")) else question[:1].lower() + question[1:]
    filled = fill(frame, {
        "q": question, "q0": lowered, "age": str(rng.randint(16, 80)), "name": _names("<name>", rng),
        "feel": rng.choice(FEELINGS["self"]),
    })  # fmt: skip
    draw = rng.random()
    if draw < 0.10:
        filled = filled.lower()
    elif draw < 0.16:
        filled = filled.rstrip("?.!")
    elif draw < 0.22:
        filled = filled.lower().rstrip("?.!")
    return filled


def ask(rng: random.Random, *, held: bool = False, topic_name: str | None = None, form: str | None = None) -> Ask:
    """One question. With `held`, its template where there is one, and its verb phrase or noun, are untrained ones."""
    topic = topics()[topic_name or rng.choice((*TOPICS, "general"))]
    form = form or rng.choice(FORMS)
    if form == "person" and topic.name not in PERSONS:
        topic = topics()[topic_name or rng.choice(tuple(PERSONS))]
        form = form if topic.name in PERSONS else "should"
    if form == "feeling" and topic.name not in FEELINGS:
        topic = topics()[topic_name or rng.choice(tuple(FEELINGS))]
        form = form if topic.name in FEELINGS else "how"
    book = phrases()
    templates = book[f"held ask {form}"] if held and f"held ask {form}" in book else book[f"ask {form}"]
    template = rng.choice(templates)
    when = rng.choice(WHENS) if rng.random() < 0.35 else rng.choice(LATE_WHENS) if rng.random() < 0.25 else ""
    slots = {"when": f" {when}" if when else ""}
    answer: dict[str, str] = {}
    if when in WHENS and not when.startswith(("in ", "on ", "before ")):
        answer["when"] = when
    if form in {"should", "will", "when", "how", "why", "which"}:
        pool = topic.choices if form in {"should", "which"} or rng.random() < 0.15 else topic.hopes
        deed = _named(_pick(pool, rng, held, lambda item: item.base), rng)
        while form != "will" and deed.base.startswith(DREADED) and not deed.base.startswith("lose weight"):
            deed = _named(_pick(pool, rng, held, lambda item: item.base), rng)
        slots |= {"vp": deed.base, "ving": deed.gerund}
        answer |= {"vp": deed.your_base, "ving": deed.your_gerund, "matter": deed.your_gerund}
        if deed.your_object:
            answer["np"] = deed.your_object
            if rng.random() < 0.3:
                answer["matter"] = deed.your_object
        if form == "which":
            other = deed
            while other.base == deed.base:
                other = _named(_pick(topic.choices, rng, held, lambda item: item.base), rng)
            slots |= {"vp2": other.base, "ving2": other.gerund}
            answer |= {"vp2": other.your_base, "ving2": other.your_gerund}
            answer["leaning"] = answer["matter"] = rng.choice((deed, other)).your_gerund
            answer.pop("np", None)
    elif form == "about":
        noun = _names(str(_pick(topic.nouns, rng, held, str)), rng)
        slots["np"] = noun
        answer |= {"np": turn(noun), "matter": turn(noun)}
    elif form == "person":
        person = _names(rng.choice(PERSONS[topic.name]), rng).replace("\u00a0", " ")
        predicate = rng.choice(PREDICATES[rng.choice((topic.name, "any"))])
        slots |= {"person": person, "pred": predicate}
        answer |= {
            "person": turn(person),
            "pred": turn(predicate),
            "matter": f"{BOND.get(topic.name, 'your bond with')} {turn(person)}",
        }
        if person not in {"he", "she"}:
            answer["np"] = turn(person)
        else:
            answer["matter"] = f"your bond with {'him' if person == 'he' else 'her'}"
    else:
        adjective = rng.choice(FEELINGS[topic.name])
        slots |= {
            "adj": adjective,
            "feelwhen": rng.choice(("", "", " today", " every evening", " at night", " lately")),
        }
        answer |= {"adj": adjective, "matter": f"feeling {adjective}"}
    if "<when>" not in template:
        answer.pop("when", None)
    question = capital(tidy(fill(template, slots)))
    return Ask(question=_frame(question, rng), topic=topic, form=form, slots=answer)


def _fitting(pool: list[str] | tuple[str, ...], slots: dict[str, str], rng: random.Random) -> str:
    """One template of the pool whose slots are all there; those that take up the question are preferred a little."""
    fits = [line for line in pool if slots_of(line) <= slots.keys()]
    taking_up = [line for line in fits if slots_of(line)]
    return rng.choice(taking_up) if taking_up and rng.random() < 0.35 else rng.choice(fits)


def _say(template: str, slots: dict[str, str], rng: random.Random) -> str:
    return capital(tidy(fill(choose(template, rng), slots)))


def _slots(asked: Ask, rng: random.Random) -> dict[str, str]:
    book = phrases()
    return asked.slots | {
        "time": choose(rng.choice(book["time"]), rng), "soon": choose(rng.choice(book["soon"]), rng),
    }  # fmt: skip


def _dreaded(slots: dict[str, str], form: str) -> bool:
    """Whether the question asks about something that nobody wishes for."""
    if form == "person":
        return slots["pred"] in DREADED_PREDICATES
    return form == "will" and slots["vp"].startswith(DREADED) and not slots["vp"].startswith("lose weight")


def answer(asked: Ask, rng: random.Random) -> str:
    """The oracle's answer: three to six sentences, now and then with two lines of verse."""
    book, slots, form = phrases(), _slots(asked, rng), asked.form
    lean = "bad" if _dreaded(slots, form) else rng.choice(LEANS)
    key = f"open {form}" if f"open {form}" in book else f"open {form} {lean}"
    opening = _fitting(book[key], slots, rng)
    outlooks = book[f"outlook {form}"] if f"outlook {form}" in book else book[f"outlook {lean}"]
    outlook = _fitting(outlooks, slots, rng)
    if form in {"will", "person"} and not slots_of(opening) and not slots_of(outlook):
        outlook = book["outlook wait"][0]
    if lean == "bad":
        lean = "wait"
    parts = [opening]
    if rng.random() < 0.75:
        parts.append(_fitting(asked.topic.images, slots, rng))
    advice = _fitting(asked.topic.advice, slots, rng)
    parts.append(advice)
    if "when" in slots and rng.random() < 0.7:
        parts.append(rng.choice(book["whenline"]))
    parts.append(outlook)
    if rng.random() < 0.2:
        parts.insert(3, rng.choice([line for line in asked.topic.advice if line != advice and not slots_of(line)]))
    if len(parts) < 6 and rng.random() < 0.55:
        parts.append(rng.choice(book[f"close {lean}"]))
    text = " ".join(_say(part, slots, rng) for part in parts[:6])
    if rng.random() < 0.18:
        text += "\n\n" + rng.choice(asked.topic.couplets).replace(" / ", "\n")
    return text


def reading(asked: Ask, poem: Poem, rng: random.Random) -> str:
    """An interpretation of the poem for the question: four to seven sentences."""
    book = phrases()
    meaning = READINGS[poem.number]
    lean = GRADE_LEAN[poem.grade]
    slots = _slots(asked, rng) | {
        "title": poem.title, "image": meaning.image, "counsel": rng.choice(meaning.counsels),
    }  # fmt: skip
    counsels = book["fortune counsel any"] + (book["fortune counsel vp"] * 2 if "vp" in slots else [])
    parts = [
        rng.choice(book[f"fortune open {poem.grade}"]),
        rng.choice(meaning.senses),
        rng.choice(book["fortune link"]),
        rng.choice(counsels),
    ]
    if rng.random() < 0.55:
        parts.append(_fitting(asked.topic.advice, slots, rng))
    if rng.random() < 0.6:
        parts.append(_fitting(book[f"outlook {lean}"], slots, rng))
    if rng.random() < 0.6:
        parts.append(rng.choice(book[f"fortune close {poem.grade}"]))
    return " ".join(_say(part, slots, rng) for part in parts)


def _turns(question: str, reply: str) -> list[Turn]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def question_turns(rng: random.Random, *, held: bool = False) -> list[Turn]:
    asked = ask(rng, held=held)
    return _turns(asked.question, answer(asked, rng))


def fortune_turns(rng: random.Random, *, held: bool = False) -> list[Turn]:
    asked = ask(rng, held=held)
    poem = rng.choice(all_poems())
    asking = [{"role": m.role, "content": m.content} for m in prompt.messages(poem, asked.question)]
    return [*asking, {"role": "assistant", "content": reading(asked, poem, rng)}]


def talk_turns(rng: random.Random, *, followup: bool = False) -> list[Turn]:
    kinds = [entry for entry in talk() if (entry[0] == "followup") == followup]
    _, questions, answers = rng.choice(kinds)
    general = topics()[rng.choice(TOPICS)]
    slots = {
        "place": _names("<place>", rng), "rel": rng.choice(REL), "time": choose(rng.choice(phrases()["time"]), rng),
        "couplet": rng.choice(general.couplets).replace(" / ", " "),
    }  # fmt: skip
    question = fill(rng.choice(questions), slots)
    if rng.random() < 0.25:
        question = question.lower().rstrip("?.!") or question
    return _turns(question, _say(rng.choice(answers), slots, rng))


def conversation(rng: random.Random, *, held: bool = False) -> list[Turn]:
    """One training conversation: mostly a question or a fortune, some small talk, some with history or system."""
    kind = rng.random()
    if kind < 0.62:
        turns = question_turns(rng, held=held)
    elif kind < 0.88:
        return fortune_turns(rng, held=held)
    else:
        turns = talk_turns(rng)
    while rng.random() < 0.12:
        turns += rng.choice((question_turns, question_turns, talk_turns))(rng)
    if len(turns) > 2 or rng.random() < 0.05:
        if rng.random() < 0.3:
            turns += talk_turns(rng, followup=True)
    if rng.random() < 0.12:
        turns.insert(0, {"role": "system", "content": rng.choice(SYSTEMS)})
    return turns


def conversations(seed: int, *, held: bool = False) -> Iterator[list[Turn]]:
    """Conversations without end. The same seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        yield conversation(rng, held=held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--held", action="store_true")
    given = parser.parse_args()
    source = conversations(given.seed, held=given.held)
    for _ in range(given.count):
        sys.stdout.write(json.dumps(next(source), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
