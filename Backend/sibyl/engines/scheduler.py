"""What the model computes next. Pure: it knows no model, no clock and no thread.

A step is a few batches: first one token of every sequence that decodes, together or as the costs of rows advise; then a
chunk of the prompts that are still to be read: for each of them as much as fits into the gap that running answers may
have, or into twice the time that their own tokens take, if that is longer. Every batch is of one of these kinds, so a
prompt that is stopped or fails takes no answer with it.

A sequence gets a place when there is one, most important first, and if what is known of it fits: nothing is reserved
for what it may come to write. When the shared room is full, tokens left behind go first; then the sequence that is
least important and youngest is put aside and computed again later. From then on nobody gets in until somebody leaves;
otherwise two that fit only alone would put each other aside for ever.
"""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass

from sibyl.engines.kv_pool import KvPool
from sibyl.engines.places import SHARED_LEAST_TOKENS, Donor, Move, Place, Places
from sibyl.engines.row_costs import RowCosts
from sibyl.engines.sequence import Sequence

CHUNK_LEAST_TOKENS = 8  # of a prompt in each step, however long the step takes without
_FIRST_CHUNK_TOKENS = 16  # beside running answers, before the speed of a chunk is known
_CHUNK_STEP_TOKENS = 4  # kernels work on tiles
_PADDING_MOST = 8  # rows in a batch; a tile is seldom wider
_MARGIN_TOKENS = 16  # free for each sequence that has a place, before another one gets in


@dataclass(frozen=True, slots=True)
class Row:
    """The next tokens of a sequence."""

    sequence: Sequence
    tokens: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What is computed in one go: single tokens of several sequences, or chunks of prompts."""

    rows: tuple[Row, ...]
    padding: tuple[Place, ...] = ()  #: idle places to which a token is added that is taken back afterwards
    reads: bool = False  #: chunks of prompts

    @property
    def tokens(self) -> int:
        """Tokens in it."""
        return sum(row.tokens for row in self.rows) + len(self.padding)


@dataclass(slots=True)
class Counters:
    """What the scheduler did since it began."""

    prompt_tokens: int = 0  #: of all sequences that got a place
    reused_tokens: int = 0  #: of these, tokens that another one had computed
    preemptions: int = 0
    evictions: int = 0


class Scheduler:
    """Decides for sequences that were added; what became of a batch is told by ``computed``."""

    def __init__(
        self,
        *,
        places: int,
        place_tokens: int,
        batch_tokens: int,
        pool: KvPool | None = None,
        costs: RowCosts | None = None,
        target_gap_s: float = math.inf,
        reuses: bool = True,
    ) -> None:
        """Begin with empty places.

        Args:
            place_tokens: most tokens of a place.
            batch_tokens: most tokens of a batch.
            pool: room that all places share; None when each has its own.
            costs: of batches of single tokens; None computes all together.
            target_gap_s: time between two tokens of an answer while one prompt is read beside it.
            reuses: whether tokens that were computed for one sequence can serve another.
        """
        self.places = Places(places, pool=pool, reuses=reuses)
        self.counters = Counters()
        self.costs = costs or RowCosts({})
        self._place_tokens = place_tokens
        self._batch_tokens = batch_tokens
        self._chunk_tokens = min(batch_tokens, _FIRST_CHUNK_TOKENS)  # beside running answers
        self._pool = pool
        self._target_gap_s = target_gap_s
        self._waiting: list[Sequence] = []
        self._arrivals = 0
        self._closed = False  # somebody was put aside, and nobody left since
        self._decode_s = 0.0  # the last batches of single tokens together

    @property
    def waiting(self) -> int:
        """Sequences without a place."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Have it computed from now on."""
        self._arrivals += 1
        sequence.order = self._arrivals
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence, *, clean: bool = True) -> None:
        """Compute it no more. What its place holds stays for others, unless that is not ``clean``."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        elif sequence.place is not None:
            self.places.leave(self.places[sequence.place], clean=clean)
            self._closed = False

    def plan(self, now: float) -> tuple[list[Move], list[Batch]]:
        """Return what to move in the model's memory and then what to compute, both in this order."""
        self._admit()
        active = [sequence for sequence in self.places.holders if not sequence.resting]
        decoding = [sequence for sequence in active if _one_by_one(sequence, now)]
        self._make_room(decoding)
        reading = sorted((sequence for sequence in active if not _one_by_one(sequence, now)), key=_importance)
        reading = [sequence for sequence in reading if sequence.place is not None]
        riders = self._between(decoding, reading)
        batches = self._decode_batches(decoding, riders)
        if chunk := self._chunk(reading, len(decoding), riders):
            batches.append(chunk)
        return self.places.take_moves(), batches

    def computed(self, batch: Batch, took_s: float) -> None:
        """Note that the model has seen a batch, and how long that took."""
        for row in batch.rows:
            row.sequence.seen += row.tokens
            if self._pool is not None and row.sequence.place is not None:
                self._pool.grow(row.sequence.place, row.tokens)
        if batch.reads:
            self._learn(batch.tokens, took_s)
        else:
            self._decode_s = took_s

    def lost(self, place: int, held: int) -> None:
        """Note that a place holds less than was planned: the model could not keep or copy it."""
        sequence = self.places[place].holder
        if sequence is not None:
            sequence.seen = min(sequence.seen, held)
        else:
            del self.places[place].left[held:]
        if self._pool is not None:
            self._pool.trim(place, held)

    def overflowed(self) -> None:
        """Make room: the model's memory was full although the bookkeeping had room."""
        if not self.places.evict():
            self._preempt()

    def _admit(self) -> None:
        for sequence in sorted(self._waiting, key=_importance):
            if not self.places.idle:
                return
            donor = self.places.donor(sequence)
            if donor is not None and _worth_waiting(donor):
                continue
            if not self._fits(sequence, donor):
                return
            self._waiting.remove(sequence)
            self.places.settle(sequence, donor)
            self.counters.prompt_tokens += len(sequence.token_ids)
            self.counters.reused_tokens += sequence.reused

    def _fits(self, sequence: Sequence, donor: Donor | None) -> bool:
        """Whether there is room for what is known of it, after evicting what nobody uses."""
        if self._pool is None:
            return True
        holders = self.places.holders
        if holders and self._closed:
            return False
        shared, spared = (donor.tokens, donor.place) if donor is not None else (0, None)
        need = len(sequence.token_ids) - shared + _MARGIN_TOKENS * (len(holders) + 1)
        evictable = sum(self._pool.alone(place.number) for place in self.places.idle if place is not spared)
        if holders and self._pool.free + evictable < need:
            return False
        while self._pool.free < need and self.places.evict(spared):
            self.counters.evictions += 1
        return True

    def _make_room(self, decoding: list[Sequence]) -> None:
        """See to it that each of them can have one more token; who is put aside is taken out."""
        while self._pool is not None and self._pool.free < len(decoding):
            if self.places.evict():
                self.counters.evictions += 1
            else:
                victim = self._preempt()
                if victim in decoding:
                    decoding.remove(victim)

    def _preempt(self) -> Sequence:
        victim = max(self.places.holders, key=_importance)
        assert victim.place is not None
        self.places.leave(self.places[victim.place], clean=False)
        self._waiting.append(victim)
        self._closed = True
        self.counters.preemptions += 1
        return victim

    def _between(self, decoding: Items[Sequence], reading: Items[Sequence]) -> list[Sequence]:
        """Return those that read in places between the ones that decode.

        Where places have room of their own, llama.cpp computes only neighbours in one go. So they come along with a
        token of their prompt, which costs less than their neighbours apart.
        """
        places = [sequence.place for sequence in decoding if sequence.place is not None]
        if self._pool is not None or not places:
            return []
        first, last = min(places), max(places)
        return [
            sequence
            for sequence in reading
            if sequence.readable > 1 and sequence.place is not None and first < sequence.place < last
        ]

    def _decode_batches(self, decoding: Items[Sequence], riders: Items[Sequence]) -> list[Batch]:
        sequences = sorted((*decoding, *riders), key=lambda sequence: sequence.place or 0)
        spare = [place for place in self.places.idle if len(place.left) < self._place_tokens][:_PADDING_MOST]
        if self._pool is not None and self._pool.free < 2 * len(decoding):
            spare = []
        batches, first = [], 0
        for size, padding in self.costs.split(len(sequences), len(spare)):
            rows = tuple(Row(sequence, 1) for sequence in sequences[first : first + size])
            batches.append(Batch(rows, tuple(spare[:padding])))
            first += size
        return batches

    def _chunk(self, reading: Items[Sequence], decoding: int, riders: Items[Sequence]) -> Batch | None:
        left = self._beside(len(reading)) if decoding else self._batch_tokens
        if self._pool is not None:
            left = min(left, self._pool.free - decoding)
            if reading and left <= 0:
                self.overflowed()
                return None
        rows = []
        for sequence in reading:
            tokens = min(left, sequence.readable - (sequence in riders))
            if tokens <= 0:
                break
            rows.append(Row(sequence, tokens))
            left -= tokens
        return Batch(tuple(rows), reads=True) if rows else None

    def _beside(self, reading: int) -> int:
        """Return how many tokens of prompts are read beside running answers: for each prompt as long as the gap allows.

        One that comes late delays the others by no more than the gap. A crowd that comes at once would wait for ever.
        """
        tokens = min(self._batch_tokens, self._chunk_tokens * reading)
        return tokens - tokens % _CHUNK_STEP_TOKENS or tokens

    def _learn(self, tokens: int, took_s: float) -> None:
        """Set the size of chunks beside running answers by the time that one took."""
        # Where single tokens alone take the whole gap, twice as long again: a prompt must get on as well, and in small
        # chunks each of its tokens costs more.
        time_s = max(self._target_gap_s - self._decode_s, 2 * self._decode_s)
        if math.isinf(time_s):
            self._chunk_tokens = self._batch_tokens
        elif tokens >= self._chunk_tokens or took_s > time_s:  # the small rest of a prompt says nothing of large ones
            fitting = int(tokens * time_s / max(took_s, 1e-6))
            most = min(self._batch_tokens, 2 * self._chunk_tokens)
            self._chunk_tokens = max(CHUNK_LEAST_TOKENS, min(most, fitting))


def _worth_waiting(donor: Donor) -> bool:
    """Whether somebody is just computing what a newcomer needs."""
    return donor.later_tokens >= SHARED_LEAST_TOKENS and donor.later_tokens - donor.tokens >= CHUNK_LEAST_TOKENS


def _importance(sequence: Sequence) -> tuple[int, int]:
    return (-sequence.priority, sequence.order)


def _one_by_one(sequence: Sequence, now: float) -> bool:
    """Whether its next token is computed alone: the last one, or one of an answer that is computed as it was."""
    return sequence.decoding or (now < sequence.exact_until and sequence.seen >= sequence.prompt_tokens)
