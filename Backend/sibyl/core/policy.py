"""Decisions as functions: no effects, nothing that waits."""

from collections.abc import Sequence

from sibyl.core.errors import RecogniserBusy, SibylError, UpstreamError
from sibyl.core.event import Failed, Output

MERGED_OUTPUTS = 32  # most outputs that are logged as one, so that a log entry stays small
UPSTREAM_ATTEMPTS = 20  # with pauses of up to 15 s, an upstream may be away for four minutes
MESSAGE_CHARS = 1000  # longest error message that is logged


def backoff_s(failures: int, *, first_s: float = 0.05, most_s: float = 2.0) -> float:
    """Return how long to wait after so many failures in a row: doubling from ``first_s``, never over ``most_s``."""
    return min(most_s, first_s * 2.0 ** min(max(failures - 1, 0), 30))


def deserves_another_attempt(error: Exception, attempt: int) -> bool:
    """Whether another attempt after this one may do better."""
    return isinstance(error, UpstreamError | RecogniserBusy) and attempt < UPSTREAM_ATTEMPTS


def failure(error: Exception, *, kept: int) -> Failed:
    """Return the terminal event for an attempt that ended in ``error`` after ``kept`` outputs.

    A foreign error shows no detail, since it may quote the prompt.
    """
    match error:
        case SibylError():
            return Failed(code=error.code, message=error.message[:MESSAGE_CHARS], kept=kept)
        case _:
            message = "The worker met an unexpected error; its log has the details."
            return Failed(code="internal_error", message=message, kept=kept)


def merge_outputs(outputs: Sequence[Output]) -> list[Output]:
    """Join neighbours, so that what gathered while the store was busy becomes few log entries. All in them stays."""
    merged: list[Output] = []
    for start in range(0, len(outputs), MERGED_OUTPUTS):
        part = outputs[start : start + MERGED_OUTPUTS]
        merged.append(
            Output(
                text="".join(output.text for output in part),
                token_ids=tuple(token_id for output in part for token_id in output.token_ids),
                logprobs=tuple(logprobs for output in part for logprobs in output.logprobs),
                segments=tuple(segment for output in part for segment in output.segments),
            )
        )
    return merged
