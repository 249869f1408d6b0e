"""An explicit-state model checker: all states that a model can reach, breadth first, and the shortest way to a wrong.

It knows nothing of queues. A model is a row of parts; a rule reads some parts and says what some may become. The
values of each part are numbered, and a state is those numbers side by side in one integer. What a rule makes of the
values that it reads is worked out once and kept, so a step costs a look into a table and a few operations on integers.
Parts that are alike (workers, readers) are kept in order, so states that differ only in who is who are one.
"""

import gc
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

Values = tuple[Hashable, ...]
Move = tuple[str, Values]
"""What happened, in words, and the new values of the parts that the rule writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the state."""

    name: str
    initial: Hashable
    bits: int = 3  #: room for 2 ** bits different values
    budget: bool = False  #: a number that only counts down, by rules that cost it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What may happen. One that is not ``fair`` is a fault: it need never happen."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    moves: Callable[..., Iterable[Move]]  #: called with the values of what it reads
    costs: str = ""  #: the budget that it takes one of, while there is any
    fair: bool = True
    given: tuple[str, ...] = ()  #: parts that tell quickly whether it can do anything
    when: Callable[..., bool] = bool  #: called with the values of ``given``


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """What must hold: ``wrong`` is given the values of ``parts`` and returns what is wrong, or nothing."""

    name: str
    parts: tuple[str, ...]
    wrong: Callable[..., str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is checked."""

    parts: Sequence[Part]
    rules: Sequence[Rule]
    always: Sequence[Property]  #: holds in every state
    at_rest: Sequence[Property]  #: holds in each state in which nothing but faults can happen
    alike: Sequence[tuple[str, ...]] = ()  #: parts that may change places
    show: Callable[[Mapping[str, Hashable]], str] = str  #: a state in words, for traces


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A state that must not be, and the shortest way there."""

    name: str
    wrong: str
    trace: Sequence[str]
    states: Sequence[str]  #: after each step of the trace

    def __str__(self) -> str:
        steps = [
            f"  {number:2}. {step}\n      {state}"
            for number, (step, state) in enumerate(zip(self.trace, self.states, strict=True), 1)
        ]
        return "\n".join([f"{self.name}: {self.wrong}", *steps])


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a check found."""

    states: int
    moves: int  #: also those that lead to a known state
    depth: int  #: of the longest shortest way
    seconds: float
    exhausted: bool  #: whether every state that can be reached was looked at
    violation: Violation | None
    resting: int = 0  #: states in which nothing but faults can happen
    fair_runs_end: bool | None = None  #: no loop of moves that are no faults; None: not looked at

    def __str__(self) -> str:
        found = "VIOLATED" if self.violation else "holds" if self.exhausted else "holds so far"
        ends = {None: "", True: ", every fair run ends", False: ", A FAIR RUN GOES ROUND FOR EVER"}[self.fair_runs_end]
        return (
            f"{self.states:,} states, {self.moves:,} moves, depth {self.depth}, {self.seconds:.1f} s, "
            f"{self.states / max(self.seconds, 1e-9):,.0f} states/s: {found}{ends}"
        )


@dataclass(slots=True, kw_only=True)
class _Numbered:
    """A part's place in the state, and its values, each with a number."""

    part: Part
    shift: int
    values: list[Hashable] = field(default_factory=list)
    numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, value: Hashable) -> int:
        if self.part.budget:
            return cast(int, value)
        number = self.numbers.get(value)
        if number is None:
            number = self.numbers[value] = len(self.values)
            self.values.append(value)
            if number >> self.part.bits:
                raise OverflowError(f"the part {self.part.name} has too many values: give it more bits")
        return number

    @property
    def mask(self) -> int:
        return (1 << self.part.bits) - 1


class Checker:
    """Explores a model. One instance explores once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._columns: dict[str, _Numbered] = {}
        shift = 0
        for part in model.parts:
            self._columns[part.name] = _Numbered(part=part, shift=shift)
            shift += part.bits
        self._swaps = list(self._swaps_of(model.alike))
        budgets = {part.name: part.initial for part in model.parts if part.budget}
        self._tables = [_Table(self, rule) for rule in model.rules if not rule.costs or budgets[rule.costs] != 0]

    def run(self, *, most_states: int | None = None, loops: bool = False) -> Verdict:
        """Look at every state, or at ``most_states``; stop at the first that is wrong.

        Args:
            loops: look also for loops of fair moves, which takes as long again.
        """
        began = time.perf_counter()
        enabled = gc.isenabled()
        gc.disable()  # millions of integers and no cycles: collecting would only cost time
        try:
            verdict = self._explore(most_states)
            if loops and verdict.exhausted and verdict.violation is None:
                verdict.fair_runs_end = self._fair_runs_end()
        finally:
            if enabled:
                gc.enable()
        verdict.seconds = time.perf_counter() - began
        return verdict

    def _explore(self, most_states: int | None) -> Verdict:
        initial = self._ordered(sum(self._number(part.name, part.initial) for part in self._model.parts))
        self._before = before = {initial: -1}  # each state, and the one that it was first reached from
        always = [_Checked(self, held) for held in self._model.always]
        at_rest = [_Checked(self, held) for held in self._model.at_rest]
        properties = [(check.mask, check.right, check) for check in always]
        fair = [table.row for table in self._tables if table.rule.fair]
        faults = [table.row for table in self._tables if not table.rule.fair]
        moves = depth = resting = 0
        verdict = Verdict(states=0, moves=0, depth=0, seconds=0.0, exhausted=False, violation=None)
        frontier = [initial]
        wrong = next(filter(None, (check.wrong(initial) for check in always)), None)
        while frontier and wrong is None:
            reached: list[int] = []
            for state in frontier:
                rests = True
                for rows in (fair, faults):
                    for budget, cost, given, possible, reads, known, keep, swaps, table in rows:
                        if budget and not state & budget:
                            continue
                        can = possible.get(state & given)
                        if can is None:
                            can = table.can(state & given)
                        if not can:
                            continue
                        written = known.get(state & reads)
                        if written is None:
                            written = table.written(state & reads)
                        if not written:
                            continue
                        kept = (state & keep) - cost
                        for values in written:
                            after = kept | values
                            if after == state:
                                continue
                            for low, high, width, swap in swaps:
                                larger = ((after >> low) & width) - ((after >> high) & width)
                                if larger > 0:
                                    after += larger * swap
                            moves += 1
                            if after not in before:
                                before[after] = state
                                reached.append(after)
                            rests = False
                    if rows is fair and rests:
                        resting += 1
                        wrong = next(filter(None, (check.wrong(state) for check in at_rest)), None)
                if wrong is not None:
                    break
            if wrong is None:
                for after in reached:
                    for mask, right, check in properties:
                        if after & mask not in right:
                            wrong = wrong or check.wrong(after)
                    if wrong is not None:
                        break
            depth += bool(reached)
            frontier = reached
            if most_states is not None and len(before) >= most_states:
                break
        verdict.states, verdict.moves, verdict.depth, verdict.resting = len(before), moves, depth, resting
        verdict.exhausted = not frontier and wrong is None
        if wrong is not None:
            name, words, state = wrong
            verdict.violation = self._violation(name, words, state)
        return verdict

    def _fair_runs_end(self) -> bool:
        """Whether no fair moves lead from a state back to it: depth first, by three colours."""
        under_way, finished = 1, 2
        colours: dict[int, int] = {}
        for root in self._before:
            if root in colours:
                continue
            colours[root] = under_way
            path = [(root, self._fair_after(root))]
            while path:
                state, successors = path[-1]
                after = next(successors, None)
                if after is None:
                    colours[state] = finished
                    path.pop()
                    continue
                colour = colours.get(after)
                if colour == under_way:
                    return False
                if colour is None:
                    colours[after] = under_way
                    path.append((after, self._fair_after(after)))
        return True

    def _fair_after(self, state: int) -> Iterator[int]:
        for table in self._tables:
            if table.rule.fair:
                for after in table.after(state):
                    yield self._ordered(after)

    # ---- traces

    def _violation(self, name: str, wrong: str, state: int) -> Violation:
        path = [state]
        while (earlier := self._before[path[-1]]) != -1:
            path.append(earlier)
        path.reverse()
        trace: list[str] = []
        states: list[str] = []
        here = path[0]  # the same states, but who is who stays as it was
        for wanted in path[1:]:
            words, here = next((words, after) for words, after in self._steps(here) if self._ordered(after) == wanted)
            trace.append(words)
            states.append(self._model.show(self.values(here)))
        return Violation(name=name, wrong=wrong, trace=trace, states=states)

    def _steps(self, state: int) -> Iterator[tuple[str, int]]:
        for table in self._tables:
            for words, after in table.moves(state):
                if after != state:
                    yield words, after

    def values(self, state: int) -> dict[str, Hashable]:
        """Return the value of each part."""
        return {name: self._value(name, state) for name in self._columns}

    # ---- states as integers

    def _number(self, name: str, value: Hashable) -> int:
        column = self._columns[name]
        return column.number(value) << column.shift

    def _value(self, name: str, state: int) -> Hashable:
        column = self._columns[name]
        number = (state >> column.shift) & column.mask
        return number if column.part.budget else column.values[number]

    def _mask(self, parts: Sequence[str]) -> int:
        return sum(self._columns[name].mask << self._columns[name].shift for name in parts)

    def _swaps_of(self, alike: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, int, int, int]]:
        """Comparisons that sort neighbours as often as it takes: shift, shift, width, difference of a swap."""
        for names in alike:
            columns = [self._columns[name] for name in names]
            # Numbered together, else the same value would be another in another place.
            for column in columns[1:]:
                column.values, column.numbers = columns[0].values, columns[0].numbers
            for end in range(len(columns) - 1, 0, -1):
                for low, high in pairwise(columns[: end + 1]):
                    yield low.shift, high.shift, low.mask, (1 << high.shift) - (1 << low.shift)

    def _ordered(self, state: int) -> int:
        for low, high, width, swap in self._swaps:
            larger = ((state >> low) & width) - ((state >> high) & width)
            if larger > 0:
                state += larger * swap
        return state


_Swaps = tuple[tuple[int, int, int, int], ...]
_Row = tuple[int, int, int, dict[int, bool], int, dict[int, tuple[int, ...]], int, _Swaps, "_Table"]


class _Table:
    """A rule, and what it makes of the values that it reads, as far as it was asked."""

    def __init__(self, checker: Checker, rule: Rule) -> None:
        self.rule = rule
        self._checker = checker
        self._given = checker._mask(rule.given)
        self._reads = checker._mask(rule.reads)
        self._budget = checker._mask([rule.costs] if rule.costs else [])
        self._cost = self._budget & -self._budget  # one of it
        self._keep = checker._mask([part.name for part in checker._model.parts if part.name not in rule.writes])
        self._possible: dict[int, bool] = {} if rule.given else {0: True}
        self._known: dict[int, tuple[int, ...]] = {}

    @property
    def row(self) -> "_Row":
        """What the inner loop needs, unpacked."""
        written = self._checker._mask(self.rule.writes)
        swaps = tuple(swap for swap in self._checker._swaps if written & (swap[2] << swap[0] | swap[2] << swap[1]))
        # All comparisons of parts that are alike, if the rule writes one of them: a sort needs each.
        swaps = tuple(self._checker._swaps) if swaps else ()
        return (
            *(self._budget, self._cost, self._given, self._possible),
            *(self._reads, self._known, self._keep, swaps, self),
        )

    def can(self, key: int) -> bool:
        """Whether the rule can do anything."""
        values = [self._checker._value(name, key) for name in self.rule.given]
        can = self._possible[key] = bool(self.rule.when(*values))
        return can

    def written(self, key: int) -> tuple[int, ...]:
        """What the rule may write."""
        values = [self._checker._value(name, key) for name in self.rule.reads]
        found = {self._number(after): None for _, after in self.rule.moves(*values)}
        known = self._known[key] = tuple(found)
        return known

    def moves(self, state: int) -> Iterator[tuple[str, int]]:
        """The moves from a state, in words, and where they lead."""
        if self._may(state):
            values = [self._checker._value(name, state) for name in self.rule.reads]
            for words, after in self.rule.moves(*values):
                yield words, (state & self._keep | self._number(after)) - self._cost

    def after(self, state: int) -> Iterator[int]:
        """Where the moves from a state lead, itself left out."""
        if self._may(state):
            known = self._known.get(state & self._reads)
            for values in self.written(state & self._reads) if known is None else known:
                after = (state & self._keep | values) - self._cost
                if after != state:
                    yield after

    def _may(self, state: int) -> bool:
        if self._budget and not state & self._budget:
            return False
        key = state & self._given
        return self._possible[key] if key in self._possible else self.can(key)

    def _number(self, values: Values) -> int:
        return sum(self._checker._number(name, value) for name, value in zip(self.rule.writes, values, strict=True))


class _Checked:
    """A property, and the values that are known to be right."""

    def __init__(self, checker: Checker, held: Property) -> None:
        self._checker = checker
        self._property = held
        self.mask = checker._mask(held.parts)
        self.right: set[int] = set()

    def wrong(self, state: int) -> tuple[str, str, int] | None:
        key = state & self.mask
        if key in self.right:
            return None
        words = self._property.wrong(*(self._checker._value(name, state) for name in self._property.parts))
        if words:
            return self._property.name, words, state
        self.right.add(key)
        return None
