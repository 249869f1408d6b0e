"""What the comparison with llama-batched-bench reads: its table, another process' CPU time, the time when all write."""

import os
import time

import pytest

from tests.load.bare_engine import Generated, Together
from tests.load.peers.batched_bench import _cpu_s, _row

TABLE = """\
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    22 |     24 |   16 |    736 |    1.500 |   234.67 |    2.000 |   192.00 |    3.500 |   210.29 |
"""


def test_a_row_of_the_table_is_read_and_its_head_is_none() -> None:
    """Sequences, tokens, both times and the speed of generating, as the program prints them."""
    head, line, row = map(_row, TABLE.splitlines(keepends=True))

    assert (head, line) == (None, None)
    assert row is not None
    assert (row.sequences, row.tokens, row.prompts_s, row.generating_s, row.tokens_per_s) == (16, 24, 1.5, 2.0, 192.0)


def test_a_process_cpu_time_is_that_which_it_sees_itself() -> None:
    """By its id, as finely as by its own clock."""
    before = time.process_time()
    seen = _cpu_s(os.getpid())
    after = time.process_time()

    assert before <= seen <= after


def test_speed_and_cpu_are_those_of_the_time_when_all_are_writing() -> None:
    """From the last one's first token to the first one's last; what was before and after does not count."""
    early = Generated(
        began_s=0.0,
        times_s=[1.0, 2.0, 3.0, 4.0],
        cpu_s=[10.0, 10.5, 11.0, 11.5],
        counts=[1] * 4,
        prompt_tokens=1,
        tokens=4,
    )
    late = Generated(
        began_s=0.0, times_s=[2.5, 3.5, 4.5], cpu_s=[10.75, 11.25, 99.0], counts=[1] * 3, prompt_tokens=1, tokens=3
    )

    together = Together([early, late])

    assert together.decoding_tokens_per_s == pytest.approx(3 / 1.5)  # at 3.0, 3.5 and 4.0
    assert together.decoding_cpu_s_per_token == pytest.approx((11.5 - 10.75) / 3)
