"""The bookkeeping of the shared room agrees with one that names every token."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from sibyl.engines.kv_pool import KvPool

PLACES = 4
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, PLACES - 1), st.integers(0, 20)),
        st.tuples(st.just("trim"), st.integers(0, PLACES - 1), st.integers(0, 40)),
        st.tuples(st.just("copy"), st.integers(0, PLACES * PLACES - 1), st.integers(0, 40)),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_counts_every_token_once(steps: list[tuple[str, int, int]]) -> None:
    """However places were grown, cut and copied."""
    pool, names = KvPool(PLACES, 10_000), count()
    places: list[list[int]] = [[] for _ in range(PLACES)]
    for what, place, tokens in steps:
        match what:
            case "grow":
                pool.grow(place, tokens)
                places[place] += [next(names) for _ in range(tokens)]
            case "trim":
                pool.trim(place, tokens)
                del places[place][tokens:]
            case _:
                source, target = divmod(place, PLACES)
                if source != target:
                    pool.copy(source, target, tokens)
                    places[target] = places[source][:tokens]

        assert pool.free == 10_000 - len(set().union(*places))
        for number, held in enumerate(places):
            others = set().union(*(other for index, other in enumerate(places) if index != number))
            assert pool.held(number) == len(held)
            assert pool.alone(number) == len(set(held) - others)
