"""How many tokens fit into the room that all places share, where a copied token is there once. Pure bookkeeping."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Run:
    """Tokens that are held by the same places."""

    tokens: int
    holders: int


class KvPool:
    """What each place holds of one pool."""

    def __init__(self, places: int, capacity: int) -> None:
        """Begin empty, with room for ``capacity`` tokens."""
        self._capacity = capacity
        self._runs: list[list[_Run]] = [[] for _ in range(places)]
        self._used = 0

    @property
    def free(self) -> int:
        """Tokens that still fit."""
        return self._capacity - self._used

    def held(self, place: int) -> int:
        """Return how many tokens a place holds."""
        return sum(run.tokens for run in self._runs[place])

    def alone(self, place: int) -> int:
        """Return how many tokens would be free if the place were emptied."""
        return sum(run.tokens for run in self._runs[place] if run.holders == 1)

    def grow(self, place: int, tokens: int) -> None:
        """Add new tokens to a place."""
        runs = self._runs[place]
        if runs and runs[-1].holders == 1:
            runs[-1].tokens += tokens
        elif tokens:
            runs.append(_Run(tokens, 1))
        self._used += tokens

    def trim(self, place: int, tokens: int) -> None:
        """Keep only the first ``tokens`` of a place."""
        keep = self._cut(place, tokens)
        for run in self._runs[place][keep:]:
            run.holders -= 1
            self._used -= 0 if run.holders else run.tokens
        del self._runs[place][keep:]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Have ``target`` hold the first ``tokens`` of ``source``, and nothing else."""
        self.trim(target, 0)
        shared = self._runs[source][: self._cut(source, tokens)]
        for run in shared:
            run.holders += 1
        self._runs[target] = shared

    def _cut(self, place: int, tokens: int) -> int:
        """Return how many runs make up the first ``tokens``, after cutting one in two if need be."""
        count = 0
        for run in self._runs[place]:
            if tokens <= 0:
                break
            count += 1
            if run.tokens > tokens:
                rest = _Run(run.tokens - tokens, run.holders)
                run.tokens = tokens
                for runs in self._runs:
                    if run in runs:
                        runs.insert(runs.index(run) + 1, rest)
            tokens -= run.tokens
        return count
