"""A grammar beside a sampler: whether a chosen token may stand, and which may where it may not.

llama.cpp has such a thing too, and it is not used. Some grammars of 40 bytes double its work with each character, and a
call into C cannot be ended; it ends the process on a token that it does not expect; and it prints what it cannot read.
Here every cost is bounded, and what the automaton has seen before costs a look a byte.

Made on the caller's thread, where a grammar is refused; used by one thread at a time, the one that decodes.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from sibyl.core.errors import EngineError
from sibyl.core.task import SamplingParams
from sibyl.engines.automaton import DEAD, Automaton
from sibyl.engines.logprobs import best_places
from sibyl.wire.constraint import is_constrained, rules_of

GRAMMAR_LIMIT_S = 2.0  # of CPU, that the grammar of one answer may take
TOKEN_LIMIT_S = 0.002  # and so much more for each token
CANDIDATES = 1_024  # tokens to choose among where the sampler would take all
WIDE = 1_000  # tokens that may fit, a millisecond's worth of looking at each
MACHINES = 16  # grammars whose automaton is kept for the next answer
FITTING = 64  # states of one automaton whose fitting tokens are kept; 4 bytes a token


class Machine:
    """The automaton of one grammar, and the tokens of one vocabulary that fit its states."""

    def __init__(self, automaton: Automaton, pieces: "Pieces") -> None:
        self.automaton = automaton
        self._pieces = pieces
        self._fitting: OrderedDict[int, NDArray[np.int32]] = OrderedDict()

    def is_wide(self, state: int) -> bool:
        """Whether ``fitting`` would take long: many tokens begin well, and it was not asked before."""
        return state not in self._fitting and self._pieces.beginning_well(self.automaton, state) > WIDE

    def fitting(self, state: int, until: float) -> NDArray[np.int32]:
        """Return the ids of all tokens that may follow, without those that end an answer; see ``Pieces.fitting``."""
        known = self._fitting.get(state)
        if known is None:
            known = self._fitting[state] = self._pieces.fitting(self.automaton, state, until)
            if len(self._fitting) > FITTING:
                self._fitting.popitem(last=False)
        self._fitting.move_to_end(state)
        return known


class Pieces:
    """The texts of all tokens, in order, so that those with a common beginning are judged together."""

    def __init__(self, pieces: Sequence[bytes], end_ids: frozenset[int]) -> None:
        ids = [token_id for token_id, piece in enumerate(pieces) if piece and token_id not in end_ids]
        ids.sort(key=pieces.__getitem__)
        self._ids = np.array(ids, np.int32)
        self._texts = [pieces[token_id] for token_id in ids]
        self._spans: dict[int, range] = {}  # where the texts with a first byte stand
        for byte, tokens in sorted(Counter(text[0] for text in self._texts).items()):
            start = bisect_left(self._texts, bytes((byte,)))
            self._spans[byte] = range(start, start + tokens)

    def beginning_well(self, automaton: Automaton, state: int) -> int:
        """Return how many tokens have a first byte that may follow."""
        fits = automaton.following(state)
        return sum(len(span) for byte, span in self._spans.items() if fits[byte])

    def fitting(self, automaton: Automaton, state: int, until: float) -> NDArray[np.int32]:
        """Return the ids of the tokens whose bytes lead on from ``state``.

        Raises:
            EngineError: it is not done when the thread's CPU time is ``until``.
        """
        fits = automaton.following(state)
        found: list[int] = []
        for byte, span in self._spans.items():
            if fits[byte]:
                found += self._fitting_of(span, automaton, state, until)
        return self._ids[found]

    def _fitting_of(self, span: range, automaton: Automaton, state: int, until: float) -> Iterator[int]:
        texts = self._texts
        path: list[int] = [state]  # the states along the text of the token before this one
        before = b""
        place = span.start
        for looked in count(0):
            if place >= span.stop:
                return
            if looked & 0xFF == 0 and time.thread_time() > until:
                raise _too_long()
            text = texts[place]
            common = _common(before, text, len(path) - 1)
            del path[common + 1 :]
            for depth in range(common, len(text)):
                following = automaton.step(path[-1], text[depth])
                if following == DEAD:
                    before = text[:depth]
                    place = _behind(texts, text[: depth + 1], place)
                    break
                path.append(following)
            else:
                yield place
                before = text
                place += 1


def _common(one: bytes, other: bytes, most: int) -> int:
    length = min(len(one), len(other), most)
    if one[:length] == other[:length]:
        return length
    return next(place for place in range(length) if one[place] != other[place])


def _behind(texts: Sequence[bytes], beginning: bytes, place: int) -> int:
    """Return the place of the first text after ``place`` that does not begin so."""
    stem = beginning.rstrip(b"\xff")
    return bisect_left(texts, stem[:-1] + bytes((stem[-1] + 1,)), place + 1) if stem else len(texts)


class Grammar:
    """The grammar of one answer, and how far the answer has come in it."""

    def __init__(
        self,
        machine: Machine,
        pieces: Sequence[bytes],
        end_ids: frozenset[int],
        *,
        limit_s: float = GRAMMAR_LIMIT_S,
    ) -> None:
        self._machine = machine
        self._automaton = machine.automaton
        self._pieces = pieces
        self._end_ids = end_ids
        self._state = self._automaton.start
        self._limit_s = limit_s
        self._spent_s = 0.0
        self._looked = (-1, DEAD)  # the last token that was looked at, and the state that it leads to

    @property
    def may_end(self) -> bool:
        """Whether the answer may end here: an end token is allowed then, and no other time."""
        return self._automaton.may_end(self._state)

    @property
    def complete(self) -> bool:
        """Whether the answer must end here, since no text can follow."""
        return self._automaton.must_end(self._state)

    def allows(self, token_id: int) -> bool:
        """Return whether this token may come next.

        Raises:
            EngineError: the grammar has taken too much time, or leaves too many ways to read the answer.
        """
        if token_id in self._end_ids:
            return self.may_end
        if not (piece := self._pieces[token_id]):
            return False
        began = time.thread_time()
        reached = self._automaton.walk(self._state, piece)
        self._spend(began)
        self._looked = (token_id, reached)
        return reached != DEAD

    def accept(self, token_id: int) -> None:
        """Go on by one token, which is no end token.

        Raises:
            EngineError: it is not allowed, or as ``allows``.
        """
        if self._looked[0] != token_id:
            self.allows(token_id)
        looked, reached = self._looked
        if looked != token_id or reached == DEAD:
            raise EngineError("The answer does not keep to its grammar.")
        self._state, self._looked = reached, (-1, DEAD)
        self._limit_s += TOKEN_LIMIT_S

    def restore(self, token_ids: Iterable[int]) -> None:
        """Go on by the tokens that an earlier attempt wrote.

        Raises:
            EngineError: they do not keep to the grammar: another model or another version wrote them.
        """
        for token_id in token_ids:
            self.accept(token_id)

    def candidates(self, scores: NDArray[np.float32], count: int) -> NDArray[np.int32]:
        """Return the likeliest tokens that may come next, best first, ``count`` at most; 0 stands for CANDIDATES.

        Raises:
            EngineError: no token of the model fits, or as ``allows``.
        """
        began = time.thread_time()
        try:
            found = self._candidates(scores, count or CANDIDATES, began + self._limit_s - self._spent_s)
        finally:
            self._spend(began)
        if not len(found):
            raise EngineError("No token of this model fits the grammar here.")
        return found

    def _candidates(self, scores: NDArray[np.float32], count: int, until: float) -> NDArray[np.int32]:
        for size in (32, 512, 4096):
            # Where much may fit, enough of it is among the likeliest; where little does, all of it is soon found.
            if not self._machine.is_wide(self._state):
                break
            likeliest = best_places(scores, size + 2 * count)
            fitting = [token_id for token_id in likeliest.tolist() if self._fits(token_id)]
            if len(fitting) >= count:
                return np.array(fitting[:count], np.int32)
        ids = self._machine.fitting(self._state, until)
        if self.may_end and self._end_ids:
            ids = np.concatenate((ids, np.fromiter(self._end_ids, np.int32)))
        return ids[best_places(scores[ids], count)] if len(ids) else ids

    def _fits(self, token_id: int) -> bool:
        if token_id in self._end_ids:
            return self.may_end
        piece = self._pieces[token_id]
        return bool(piece) and self._automaton.walk(self._state, piece) != DEAD

    def _spend(self, began: float) -> None:
        self._spent_s += time.thread_time() - began
        if self._spent_s > self._limit_s:
            raise _too_long()


def _too_long() -> EngineError:
    return EngineError("The answer's grammar takes too long to keep. Ask with a simpler one.")


class Grammars:
    """Makes the grammars of answers by one model, and keeps the automata of the latest. Safe from any thread."""

    def __init__(self, pieces: Sequence[bytes], end_ids: frozenset[int], *, limit_s: float = GRAMMAR_LIMIT_S) -> None:
        """Use a vocabulary.

        Args:
            pieces: the bytes of each token; none for control tokens, which no grammar allows.
            end_ids: the tokens that end an answer.
            limit_s: CPU time that the grammar of one answer may take.
        """
        self._pieces = pieces
        self._end_ids = end_ids
        self._limit_s = limit_s
        self._sorted: Pieces | None = None
        self._machines: OrderedDict[tuple[str | None, str | None], Machine] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, sampling: SamplingParams) -> Grammar | None:
        """Return the grammar that the answer must keep, at its beginning; None when the answer is free.

        Raises:
            InvalidRequest: the grammar or the schema is none, or exceeds a limit.
            EngineError: the grammar can begin in too many ways.
        """
        key = (sampling.grammar, sampling.json_schema)
        if not is_constrained(sampling):
            return None
        with self._lock:
            machine = self._machines.get(key)
        if machine is None or machine.automaton.crowded:
            machine = self._machine(sampling)
        with self._lock:
            self._machines[key] = machine
            self._machines.move_to_end(key)
            if len(self._machines) > MACHINES:
                self._machines.popitem(last=False)
        return Grammar(machine, self._pieces, self._end_ids, limit_s=self._limit_s)

    def _machine(self, sampling: SamplingParams) -> Machine:
        rules = rules_of(sampling)
        assert rules is not None
        automaton = Automaton(rules)
        with self._lock:
            if self._sorted is None:
                self._sorted = Pieces(self._pieces, self._end_ids)
            return Machine(automaton, self._sorted)
