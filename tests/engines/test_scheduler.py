"""Everybody gets to the end, nobody waits for what is there, and the room is never overdrawn. No model is needed."""

import math
import random
from collections.abc import Sequence as Items

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.engines.kv_pool import KvPool
from sibyl.engines.places import Copy, Trim, common_prefix
from sibyl.engines.row_costs import RowCosts
from sibyl.engines.scheduler import CHUNK_LEAST_TOKENS, Batch, Scheduler
from sibyl.engines.sequence import Sequence


class Asked(Sequence):
    """A sequence that may rest, and ends after so many tokens."""

    def __init__(self, prompt: Items[int], length: int, *, priority: int = 5) -> None:
        super().__init__(prompt, priority=priority)
        self.length = length
        self.rests = False

    @property
    def resting(self) -> bool:
        return self.rests


class Machine:
    """A model's memory, token by token: it refuses what llama.cpp would refuse."""

    def __init__(self, scheduler: Scheduler, places: int, place_tokens: int, pool_tokens: int | None = None) -> None:
        self.scheduler = scheduler
        self.memory: list[list[tuple[int, int]]] = [[] for _ in range(places)]  # (cell, token)
        self.place_tokens = place_tokens
        self.pool_tokens = pool_tokens
        self.cells = 0
        self.now = 0.0
        self.token_s = 0.001
        self.computed = 0

    def step(self) -> list[Batch]:
        """Run one step, and choose a token for each row of scores."""
        moves, batches = self.scheduler.plan(self.now)
        for move in moves:
            match move:
                case Copy(source, target, tokens):
                    assert source != target
                    assert tokens <= len(self.memory[source])
                    self.memory[target] = self.memory[source][:tokens]
                case Trim(place, tokens):
                    del self.memory[place][tokens:]
        for batch in batches:
            self.compute(batch)
        return batches

    def compute(self, batch: Batch) -> None:
        before = [list(self.memory[place.number]) for place in batch.padding]
        for place in batch.padding:
            assert place.holder is None
            self.grow(place.number, [0])
        for row in batch.rows:
            sequence = row.sequence
            assert sequence.place is not None
            held = [token for _, token in self.memory[sequence.place]]
            assert held == sequence.token_ids[: sequence.seen]  # what it thinks is there is there
            self.grow(sequence.place, sequence.next_ids(row.tokens))
            self.computed += row.tokens
        for place, cells in zip(batch.padding, before, strict=True):
            self.memory[place.number] = cells
        took_s = self.token_s * batch.tokens
        self.now += took_s
        self.scheduler.computed(batch, took_s)
        for row in batch.rows:
            sequence = row.sequence
            assert isinstance(sequence, Asked)
            if sequence.unseen == 0:
                sequence.token_ids.append(1000 + sequence.order)
                if len(sequence.token_ids) >= sequence.length:
                    self.scheduler.remove(sequence)

    def grow(self, place: int, tokens: Items[int]) -> None:
        for token in tokens:
            self.cells += 1
            self.memory[place].append((self.cells, token))
        assert len(self.memory[place]) <= self.place_tokens
        if self.pool_tokens is not None:
            assert len({cell for held in self.memory for cell, _ in held}) <= self.pool_tokens

    def finish(self, sequences: Items[Asked], most_steps: int = 5000) -> int:
        """Run until all of them are whole; return how many steps that took."""
        for step in range(most_steps):
            if all(len(sequence.token_ids) >= sequence.length for sequence in sequences):
                return step
            self.step()
        raise AssertionError("stuck")


def machine(
    places: int = 4, *, pool_tokens: int | None = None, costs: RowCosts | None = None, gap_s: float = math.inf,
    reuses: bool = True, place_tokens: int = 512,
) -> Machine:  # fmt: skip
    """Return a machine with an empty scheduler."""
    pool = None if pool_tokens is None else KvPool(places, pool_tokens)
    scheduler = Scheduler(
        places=places, place_tokens=place_tokens, batch_tokens=64, pool=pool, costs=costs, target_gap_s=gap_s,
        reuses=reuses,
    )  # fmt: skip
    return Machine(scheduler, places, place_tokens, pool_tokens)


def asked(scheduler: Scheduler, prompt: Items[int], tokens: int = 8, *, priority: int = 5) -> Asked:
    """Add a sequence that ends after so many tokens of answer."""
    sequence = Asked(prompt, len(prompt) + tokens, priority=priority)
    scheduler.add(sequence)
    return sequence


def test_all_decode_together() -> None:
    """One token each in every step, once their prompts are read."""
    box = machine()
    for number in range(4):
        asked(box.scheduler, [number, number])
    box.step()

    (batch,) = box.step()

    assert [row.tokens for row in batch.rows] == [1, 1, 1, 1]
    assert not batch.reads


def test_a_prompt_beside_answers_is_read_in_chunks_that_fit_into_the_gap() -> None:
    """A thousand tokens would take a second; the answer never waits longer than a tenth, after the first guess."""
    box = machine(gap_s=0.05, place_tokens=2000)
    running = asked(box.scheduler, [1], 1000)
    box.step()
    box.step()
    late = asked(box.scheduler, list(range(1000)))
    gaps = []
    while late.seen < 1000:
        began = box.now
        box.step()
        gaps.append(box.now - began)

    assert max(gaps) <= 0.051
    assert len(running.token_ids) >= len(gaps)
    assert 20 <= len(gaps) <= 30  # and the prompt gets on as fast as it may


def test_a_prompt_gets_on_however_slow_the_answers_are() -> None:
    """Where one token of all takes longer than the gap, a chunk may take as long again, and is never nothing."""
    box = machine(gap_s=0.05)
    box.token_s = 0.2
    asked(box.scheduler, [1], 100)
    box.step()
    late = asked(box.scheduler, list(range(200)))
    box.step()
    first = late.seen  # a guess
    for _ in range(5):
        box.step()

    assert late.seen == first + 5 * CHUNK_LEAST_TOKENS  # twice as long is two tokens: too few


def test_a_prompt_alone_is_read_as_fast_as_possible() -> None:
    """In whole batches."""
    box = machine(gap_s=0.01)
    asked(box.scheduler, list(range(100)))

    assert [batch.tokens for batch in box.step() + box.step()] == [64, 36]


def test_a_newcomer_takes_over_what_an_answered_question_left() -> None:
    """The next turn of a chat computes only what is new."""
    box = machine()
    first = asked(box.scheduler, list(range(100)))
    box.finish([first])
    box.computed = 0
    second = asked(box.scheduler, [*first.token_ids, *range(200, 220)])
    box.finish([second])

    assert second.reused == 107  # the last token was chosen, and never computed
    assert box.computed == 21 + 7
    assert box.scheduler.counters.reused_tokens == 107


def test_a_newcomer_takes_over_from_a_sequence_that_still_runs() -> None:
    """And both go on."""
    box = machine()
    first = asked(box.scheduler, list(range(60)), 50)
    box.step()
    box.step()
    second = asked(box.scheduler, [*range(50), 900, 901])
    box.step()

    assert second.reused == 50
    box.finish([first, second])


def test_newcomers_wait_for_the_one_that_reads_what_they_share() -> None:
    """Sixteen with a common system prompt: it is computed once."""
    box = machine(16)
    common = list(range(400))
    all_ = [asked(box.scheduler, [*common, 1000 + number, 2000 + number], 4) for number in range(16)]

    box.finish(all_)

    assert box.computed == 400 + 16 * 2 + 16 * 3
    assert [sequence.reused for sequence in all_] == [0] + [400] * 15


def test_nobody_waits_for_one_that_was_stopped() -> None:
    """The next in line reads the common part then."""
    box = machine(4)
    common = list(range(300))
    first, *others = [asked(box.scheduler, [*common, 1000 + number]) for number in range(4)]
    box.step()
    box.scheduler.remove(first)

    box.finish(others)

    assert sum(sequence.reused >= 300 for sequence in others) == 2
    assert others[0].reused == 64  # what the first one had read by then


def test_nobody_waits_for_one_that_rests() -> None:
    """Its reader may be slow for ever."""
    box = machine(4)
    common = list(range(300))
    first, second = (asked(box.scheduler, [*common, 1000 + number]) for number in range(2))
    box.step()
    first.rests = True

    box.finish([second])

    assert first.seen == 64


def test_what_is_worth_keeping_moves_out_of_the_way() -> None:
    """With own room, newcomers take the first place; the chat that was there is found again."""
    box = machine(4)
    chat = asked(box.scheduler, list(range(100)))
    box.finish([chat])
    other = asked(box.scheduler, [700, 701])
    box.step()
    again = asked(box.scheduler, [*range(100), 5])
    box.step()

    assert (other.place, again.reused) == (0, 100)


def test_places_of_low_numbers_are_used_first() -> None:
    """llama.cpp computes neighbours together."""
    box = machine(8)
    for number in range(40):
        one, two = (asked(box.scheduler, [number * 10 + part] * 40) for part in (1, 2))
        box.step()
        assert {one.place, two.place} == {0, 1}
        box.finish([one, two])


def test_more_important_ones_come_first() -> None:
    """To a place, and to the next chunk."""
    box = machine(1)
    low, high = asked(box.scheduler, [1, 2], priority=1), asked(box.scheduler, [3, 4], priority=9)
    box.step()

    assert (low.place, high.place) == (None, 0)


def test_a_full_room_puts_the_youngest_aside_and_all_finish() -> None:
    """Each could have the whole room alone; together they do not fit."""
    box = machine(4, pool_tokens=512)
    all_ = [asked(box.scheduler, [number] * 20, 300) for number in range(1, 5)]

    box.finish(all_)

    assert box.scheduler.counters.preemptions >= 1
    assert [len(sequence.token_ids) for sequence in all_] == [320] * 4


def test_tokens_left_behind_go_before_anybody_is_put_aside() -> None:
    """Nobody uses them."""
    box = machine(4, pool_tokens=512)
    for number in range(4):
        box.finish([asked(box.scheduler, [number * 7 + 1] * 100)])
    big = asked(box.scheduler, list(range(100, 500)))
    box.finish([big])

    assert box.scheduler.counters.evictions >= 3
    assert box.scheduler.counters.preemptions == 0


def test_shared_tokens_need_room_once() -> None:
    """Four with a common prompt fit where four others would not."""
    box = machine(4, pool_tokens=512)
    all_ = [asked(box.scheduler, [*range(300), 900 + number], 20) for number in range(4)]

    box.finish(all_)

    assert box.scheduler.counters.preemptions == 0
    assert sum(sequence.reused for sequence in all_) == 900


def test_a_model_that_cannot_share_computes_everything() -> None:
    """A running state has no parts."""
    box = machine(4, reuses=False)
    one = asked(box.scheduler, list(range(100)))
    box.finish([one])
    two = asked(box.scheduler, list(range(100)))
    box.finish([two])

    assert two.reused == 0


def test_rows_are_split_and_padded_as_their_costs_say() -> None:
    """Padding goes to idle places and leaves no trace."""
    costs = RowCosts({1: 1.0, 2: 9.0, 3: 9.0, 4: 2.0})
    box = machine(4, costs=costs)
    all_ = [asked(box.scheduler, [number]) for number in range(3)]
    box.step()

    (batch,) = box.step()

    assert (len(batch.rows), [place.number for place in batch.padding]) == (3, [3])
    box.finish(all_)


def test_one_that_reads_between_two_that_decode_comes_along() -> None:
    """Neighbours are computed in one go, and its token counts; in a shared room there are no neighbours."""
    for pool_tokens, together in ((None, 3), (2000, 2)):
        box = machine(4, pool_tokens=pool_tokens, gap_s=0.05, place_tokens=1000)
        one, middle, three = (asked(box.scheduler, [number], 300) for number in range(3))
        for _ in range(3):
            box.step()
        box.scheduler.remove(middle)
        late = asked(box.scheduler, list(range(500, 900)))

        decoding, chunk = box.step()

        assert late in [row.sequence for row in chunk.rows]
        assert (len(decoding.rows), late.place == 1) == (together, together == 3)
        box.finish([one, three, late])


def test_where_more_wait_for_their_first_token_the_next_ones_wait_longer() -> None:
    """Six prompts beside one answer: the chunks are as large as the speed of reading deserves."""
    box = machine(7, gap_s=0.05, place_tokens=2000)
    asked(box.scheduler, [1], 300)
    box.step()
    for number in range(6):
        asked(box.scheduler, [number * 1000 + index for index in range(500)])
    sizes = [max(batch.tokens for batch in box.step()) for _ in range(6)]

    assert sizes[-1] == 64


def test_an_answer_that_goes_on_is_computed_as_it_was_while_there_is_time() -> None:
    """Its prompt in chunks, then token by token, then what is left in chunks again."""
    box = machine()
    resumed = Asked(list(range(100)), 0)
    resumed.token_ids += range(500, 600)
    resumed.length = 210
    resumed.exact_until = math.inf
    box.scheduler.add(resumed)
    sizes = []
    while resumed.unseen > 1:
        sizes += [batch.tokens for batch in box.step()]
        if resumed.seen == 130:
            resumed.exact_until = box.now

    assert sizes == [64, 36, *[1] * 30, 64, 5 + 1]


@pytest.mark.parametrize("what", ["lost", "overflowed"])
def test_what_the_model_could_not_keep_is_computed_again(what: str) -> None:
    """The bookkeeping believes the model."""
    box = machine(2, pool_tokens=512)
    one, two = asked(box.scheduler, [1] * 50, 40), asked(box.scheduler, [2] * 50, 40)
    box.step()
    box.step()
    if what == "lost":
        assert one.place is not None
        del box.memory[one.place][10:]
        box.scheduler.lost(one.place, 10)
    else:
        box.scheduler.overflowed()

    box.finish([one, two])


def test_common_beginnings_are_measured_exactly() -> None:
    """Against the plain way."""
    dice = random.Random(1)
    for _ in range(500):
        ours = [dice.randrange(2) for _ in range(dice.randrange(20))]
        theirs = ours[: dice.randrange(20)] + [dice.randrange(2) for _ in range(dice.randrange(9))]
        most = dice.randrange(25)
        plain = 0
        while plain < min(len(ours), len(theirs), most) and ours[plain] == theirs[plain]:
            plain += 1
        assert common_prefix(ours, theirs, min(most, len(ours))) == plain


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "step", "step", "stop", "rest", "lose", "overflow"]),
        st.integers(0, 2**16),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([None, 128, 400]), st.booleans(), st.sampled_from([0.01, math.inf]))
def test_whatever_happens_everybody_ends(
    steps: list[tuple[str, int]], pool_tokens: int | None, shaped: bool, gap_s: float
) -> None:
    """Sequences that come, share, rest, are stopped and lose what they had; the memory is checked token by token."""
    costs = RowCosts({1: 1.0, 2: 3.0, 3: 3.1, 4: 1.5}) if shaped else None
    box = machine(4, pool_tokens=pool_tokens, costs=costs, gap_s=gap_s, place_tokens=128)
    living: list[Asked] = []
    for what, number in steps:
        some = living[number % len(living)] if living else None
        match what:
            case "ask":
                prompt = [*range(number % 70), *([number % 3] * (number % 13 + 1))]
                living.append(asked(box.scheduler, prompt, number % 30 + 1, priority=number % 3))
            case "stop" if some is not None:
                box.scheduler.remove(some)
                living.remove(some)
            case "rest" if some is not None:
                some.rests = not some.rests
            case "lose" if some is not None and some.place is not None:
                held = number % (some.seen + 1)
                del box.memory[some.place][held:]
                box.scheduler.lost(some.place, held)
            case "overflow" if box.scheduler.places.holders:
                box.scheduler.overflowed()
            case _:
                box.step()
    for sequence in living:
        sequence.rests = False
    box.finish(living)

    assert box.scheduler.waiting == 0
    assert not box.scheduler.places.holders
