"""What a batch of so many rows costs on this machine, and from that the cheapest way to compute some rows. Pure.

A kernel works on tiles, so time does not rise evenly with the rows: 16 may be cheaper than 15, and two batches of one
cheaper than one of two. Rows are then padded with ones that nobody needs, or split over several batches; but only
where that saves a tenth or more, since a measurement has its noise.
"""

from collections.abc import Mapping
from functools import lru_cache

WORTHWHILE = 0.9  # share of the plain cost above which the plain way stays


class RowCosts:
    """Costs in seconds by the number of rows."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """Take what was measured; nothing at all means that rows are always computed together."""
        self._seconds = dict(sorted(seconds.items()))
        self._split = lru_cache(maxsize=None)(self._cheapest)

    @property
    def seconds(self) -> dict[int, float]:
        """What was measured, by rows."""
        return dict(self._seconds)

    def of(self, rows: int) -> float | None:
        """Return the cost of one batch; None when it is not known."""
        return self._seconds.get(rows)

    def split(self, rows: int, spare: int) -> tuple[tuple[int, int], ...]:
        """Return the batches, each as (rows of ours, rows of padding), that compute ``rows`` at the least cost.

        Args:
            spare: most rows of padding that a batch may have.
        """
        return self._split(rows, spare)

    def _cheapest(self, rows: int, spare: int) -> tuple[tuple[int, int], ...]:
        plain = self._seconds.get(rows)
        if plain is None or rows == 0:
            return ((rows, 0),) if rows else ()
        best: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]
        for count in range(1, rows + 1):
            ways = [
                (best[count - size][0] + cost, (*best[count - size][1], (size, padding)))
                for size in range(1, count + 1)
                for padding in range(spare + 1)
                if (cost := self._seconds.get(size + padding)) is not None
            ]
            if not ways:
                return ((rows, 0),)
            best.append(min(ways))
        cost, batches = best[rows]
        return batches if cost < WORTHWHILE * plain else ((rows, 0),)
