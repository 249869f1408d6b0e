"""Key names: what a stranger sends never becomes part of one unchecked."""

import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.core.errors import UnknownTask
from sibyl.core.task import Owner, TaskId
from sibyl.store import keys
from sibyl.store.keys import Shard

DIGITS = "0123456789abcdef" * 2


def tag(key: str) -> str:
    """The part that Redis Cluster hashes."""
    match = re.search(r"\{([^}]+)\}", key)
    assert match is not None
    return match[1]


@given(st.integers(0, 63), st.binary(min_size=16, max_size=16))
def test_a_task_id_names_its_shard(number: int, random: bytes) -> None:
    """Every id that we make is taken back."""
    assert keys.shard_of(keys.task_id(number, random.hex()), 64) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "0",
        f"0.{DIGITS[:-1]}",
        f"0.{DIGITS}0",
        f"0.{DIGITS.upper()}",
        f"1.{DIGITS}",
        f"00.{DIGITS}",
        f"-1.{DIGITS}",
        f"+0.{DIGITS}",
        f" 0.{DIGITS}",
        f"0.{DIGITS}\n",
        f"0.{DIGITS[:-1]}\n",
        f"٠.{DIGITS}",
        f"².{DIGITS}",
        f"0.{DIGITS[:-1]}١",
        f"{'9' * 5000}.{DIGITS}",
        f"0.{DIGITS}:x",
        "0.*",
        f"0.{{q1}}{DIGITS[4:]}",
        "sibyl:{q0}:waiting",
    ],
)
def test_what_is_no_id_is_an_unknown_task(text: str) -> None:
    """No other error, and not one that tells what was wrong."""
    with pytest.raises(UnknownTask):
        keys.shard_of(text, 1)


@given(st.text())
def test_any_text_is_an_id_or_an_unknown_task(text: str) -> None:
    """Nothing slips through, nothing else is raised."""
    try:
        assert keys.shard_of(text, 10) < 10
    except UnknownTask:
        return
    assert re.fullmatch(r"[0-9]\.[0-9a-f]{32}", text, re.ASCII)


@given(st.text(), st.text(), st.integers(1, 16))
def test_an_idempotency_key_always_finds_its_shard(owner: str, key: str, shards: int) -> None:
    """Every retry looks where the first one went."""
    number = keys.shard_of_idempotency_key(Owner(owner), key, shards)

    assert 0 <= number < shards
    assert number == keys.shard_of_idempotency_key(Owner(owner), key, shards)


@given(st.text())
def test_all_keys_of_a_shard_lie_in_one_slot(anything: str) -> None:
    """Also those that hold a client's text, which may hold braces."""
    shard = Shard(7)
    task_id = TaskId(f"7.{secrets.token_hex(16)}")
    all_keys = [
        *shard.whole(task_id),
        shard.workers,
        shard.mine(Owner(anything)),
        shard.idempotency(Owner(anything), anything),
        shard.tail(anything),
    ]

    assert {tag(key) for key in all_keys} == {"q7"}
    assert len(set(all_keys)) == len(all_keys)


def test_owners_do_not_share_idempotency_keys() -> None:
    """However their names and keys are put together."""
    shard = Shard(0)

    assert shard.idempotency(Owner("a"), "b:c") != shard.idempotency(Owner("a:b"), "c")
