"""What clients ask of each engine, and what the whole answer is: the two engines whose answers are known beforehand.

The scripted engine takes its length, pace and failures from the question. llama.cpp runs a programmed model, and its
pace is that of the machine.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.chaos import programmed
from tests.chaos.expected import whole_answer
from tests.chaos.history import Ask, EngineName

_LENGTHS: Final = ((3, 20), (20, 80), (80, 200))  # tokens
_PACES: Final = ((20, 60), (60, 200), (300, 2000), (0, 0))  # tokens a second; the fast ones gather into outputs
LONGEST_S: Final = 5.0

_LLAMA_LENGTHS: Final = ((3, 40), (40, 200), (200, 800))
_SHARED: Final = "Long before the mill there was a river, and it had no name that anybody now remembers. " * 7
_SHARED_CHARS: Final = (0, 0, 60, 250, len(_SHARED))  # of a prompt that other questions in its dialect begin with too


def _draw_scripted(draw: random.Random, key: str) -> Ask:
    """Return a question of varied length and pace."""
    tokens = draw.randint(*draw.choices(_LENGTHS, (3, 5, 2))[0])
    pace = draw.randint(*draw.choices(_PACES, (4, 3, 2, 1))[0])
    if pace:
        tokens = min(tokens, max(3, round(pace * LONGEST_S)))
    words = [f"[tokens={tokens}]", f"[pace={pace}]"]
    if draw.random() < 0.1:
        words.append(f"[prompt_s={draw.uniform(0.1, 1.0):.2f}]")
    fails = draw.random() < 0.03
    if fails:
        words.append(f"[fail={draw.randrange(tokens)}]")
    return Ask(key=key, question=" ".join([*words, key]), seed=draw.getrandbits(32), fails=fails)


def _draw_llama(draw: random.Random, key: str) -> Ask:
    """Return a question of varied length, in one of a few dialects, now and then with a stop string."""
    dialect, place = draw.randrange(programmed.DIALECTS), draw.randrange(programmed.PLACES)
    tokens = draw.randint(*draw.choices(_LLAMA_LENGTHS, (3, 5, 2))[0])
    shared = _SHARED[: draw.choice(_SHARED_CHARS)]
    sampling: dict[str, Any] = {"max_tokens": tokens}
    if draw.random() < 0.5:
        sampling["temperature"] = draw.choice((0.0, 1.0))
    if draw.random() < 0.2:
        # Three words that follow each other; or two, which are held back until the third does not come.
        first = place + draw.randint(1, tokens)
        places = (first, first + 1, first + draw.choice((2, 3)))
        sampling["stop"] = ["".join(programmed.word(dialect, place) for place in places)]
    if draw.random() < 0.1:
        sampling["logprobs"] = 2
    question = f"{programmed.MARKS[dialect]}{shared}{key} {programmed.word(0, place)}"
    return Ask(key=key, question=question, seed=draw.getrandbits(32), sampling=sampling)


_DRAW: Final[Mapping[EngineName, Callable[[random.Random, str], Ask]]] = {
    "scripted": _draw_scripted,
    "llama": _draw_llama,
}


def draw_ask(engine: EngineName, draw: random.Random, key: str) -> Ask:
    """Return a question for this engine; its key is part of it."""
    return _DRAW[engine](draw, key)


def answer_to(engine: EngineName, ask: Ask) -> str:
    """Return the text of the whole answer."""
    if engine == "llama":
        return programmed.answer(ask.question, max_tokens=ask.sampling["max_tokens"], stop=ask.sampling.get("stop", ()))
    return whole_answer(ask.question, ask.seed)
