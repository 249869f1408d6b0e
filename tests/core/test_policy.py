"""Decisions as functions."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.core import errors, policy
from sibyl.core.errors import EngineError, RecogniserBusy, SibylError, UpstreamError
from sibyl.core.event import Output
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs

TOKENS = st.builds(TokenLogprob, token_id=st.none() | st.integers(0, 9), piece=st.binary(), logprob=st.floats(-9, 0))
OUTPUTS = st.lists(
    st.builds(
        Output,
        text=st.text(),
        token_ids=st.lists(st.integers(0, 2**31)).map(tuple),
        logprobs=st.lists(st.builds(TokenLogprobs, chosen=TOKENS), max_size=2).map(tuple),
    ),
    max_size=100,
)


@given(st.integers(0, 10**6), st.floats(0.001, 1), st.floats(1, 100))
def test_backoff_doubles_and_is_bounded(failures: int, first_s: float, most_s: float) -> None:
    """It never falls, never exceeds its bound, and a million failures do not overflow."""
    pause_s = policy.backoff_s(failures, first_s=first_s, most_s=most_s)

    assert first_s <= pause_s <= most_s
    assert pause_s <= policy.backoff_s(failures + 1, first_s=first_s, most_s=most_s)
    assert policy.backoff_s(failures + 1, first_s=first_s, most_s=most_s) <= 2 * pause_s


def test_backoff_begins_with_its_first_step() -> None:
    """One failure, and also none, waits the shortest time; then it doubles."""
    assert [policy.backoff_s(failures, first_s=1, most_s=10) for failures in range(6)] == [1, 1, 2, 4, 8, 10]


def test_only_what_passes_deserves_another_attempt() -> None:
    """A model that cannot answer will not answer better the second time; a network may, and who is busy now."""
    tree = [error for error in vars(errors).values() if inspect.isclass(error) and issubclass(error, SibylError)]

    assert [error for error in tree if policy.deserves_another_attempt(error(), 1)] == [UpstreamError, RecogniserBusy]
    assert not policy.deserves_another_attempt(ValueError(), 1)
    assert not policy.deserves_another_attempt(UpstreamError(), policy.UPSTREAM_ATTEMPTS)


def test_our_own_errors_are_shown() -> None:
    """Code and message of a Sibyl error go into the log, the message not without end."""
    failed = policy.failure(EngineError("x" * 10_000), kept=3)

    assert (failed.code, failed.message, failed.kept) == ("engine_error", "x" * policy.MESSAGE_CHARS, 3)


def test_foreign_errors_show_nothing() -> None:
    """Somebody else's exception may quote the prompt or a password."""
    failed = policy.failure(RuntimeError("the password is hunter2"), kept=0)

    assert failed.code == "internal_error"
    assert "hunter2" not in failed.message


@given(OUTPUTS)
def test_merging_keeps_text_tokens_and_logprobs(outputs: list[Output]) -> None:
    """Fewer entries, the same answer."""
    merged = policy.merge_outputs(outputs)

    assert "".join(output.text for output in merged) == "".join(output.text for output in outputs)
    assert [token for output in merged for token in output.token_ids] == [
        token for output in outputs for token in output.token_ids
    ]
    assert [token for output in merged for token in output.logprobs] == [
        token for output in outputs for token in output.logprobs
    ]
    assert len(merged) == -(-len(outputs) // policy.MERGED_OUTPUTS)


@pytest.mark.parametrize("outputs", [[], [Output(text="a", token_ids=(1,))]])
def test_merging_one_or_none_changes_nothing(outputs: list[Output]) -> None:
    """The usual case, a token at a time, is not touched."""
    assert policy.merge_outputs(outputs) == outputs
