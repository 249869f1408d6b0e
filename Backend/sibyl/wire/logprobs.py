"""Logprobs as clients see them, in the shape that OpenAI gave them, with the token's id where it is known."""

from collections.abc import Sequence
from typing import Any

from sibyl.core.logprobs import TokenLogprob, TokenLogprobs


def shown_logprobs(logprobs: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    """Return one object for each token."""
    return [_shown(token.chosen) | {"top_logprobs": [_shown(other) for other in token.likeliest]} for token in logprobs]


def _shown(token: TokenLogprob) -> dict[str, Any]:
    number = {} if token.token_id is None else {"id": token.token_id}
    text = token.piece.decode("utf-8", "replace")
    return {"token": text, **number, "logprob": token.logprob, "bytes": list(token.piece)}
