"""What a server's refusal or a lost link is to the framework: which error, and whether another attempt may help."""

from collections.abc import Mapping
from typing import Final

from livekit.agents import APIConnectionError, APIError, APIStatusError

from .wire import Message, number, words

# The server's error codes: the close code that goes with it, and whether another attempt may go better.
REFUSALS: Final[Mapping[str, tuple[int, bool]]] = {
    "unsupported": (1003, False),
    "bad_config": (1008, False),
    "too_many_errors": (1008, False),
    "config_timeout": (1008, True),  # our event loop was held up; so it is with the next one
    "idle_timeout": (1008, True),
    "frame_too_large": (1009, False),
    "model_unavailable": (1011, False),
    "auth": (1011, False),
    "internal": (1011, True),
    "drain_timeout": (1011, True),
    "server_shutdown": (1012, True),
    "overloaded": (1013, True),
}
_FINAL_CLOSES: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1010})  # the same frames would be refused again
_LOST_CLOSES: Final = frozenset({None, 1000, 1001, 1005, 1006, 1011, 1012})  # what a cut, or a restart, looks like


class LinkLost(Exception):
    """The connection is gone without an end of the session; what it had begun can be resumed."""

    def __init__(self, why: str, *, normal: bool = False) -> None:
        super().__init__(why)
        self.normal = normal  #: closed with 1000


def refusal(message: Message, session_id: str) -> APIStatusError:
    """Return the error for the server's ``error`` message, or for the reason of a ``session_ended``."""
    code = words(message, "code") or words(message, "reason") or "error"
    status, retryable = REFUSALS.get(code, (1011, True))
    body = {"code": code, "retry_after_s": number(message, "retry_after_s")}
    text = words(message, "message") or "The server ended the session."
    return APIStatusError(
        f"{code}: {text}", status_code=status, request_id=session_id or None, body=body, retryable=retryable
    )


def closed(code: int | None, why: str, session_id: str) -> APIError | LinkLost:
    """Return what a close without an ``error`` message means."""
    if code in _LOST_CLOSES:
        return LinkLost(f"closed with {code}{': ' if why else ''}{why}", normal=code == 1000)
    assert code is not None
    return APIStatusError(
        f"The server closed with {code}{': ' if why else ''}{why}",
        status_code=code,
        request_id=session_id or None,
        retryable=code not in _FINAL_CLOSES,
    )


def unreachable(why: str) -> APIConnectionError:
    """Return the error for a link that could not be made, or not again."""
    return APIConnectionError(why)


def retry_after_s(error: APIError) -> float:
    """Return the pause that the server asked for; 0: none."""
    body = error.body
    wish = body.get("retry_after_s") if isinstance(body, dict) else None
    return float(wish) if isinstance(wish, int | float) else 0.0
