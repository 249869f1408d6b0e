"""How likely the tokens of an answer were."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token, and how likely the model found it: before temperature, limits or a grammar had their say."""

    token_id: int | None  #: None where the engine does not tell
    piece: bytes  #: its text, maybe a part of a character
    logprob: float  #: natural logarithm of its probability


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """A chosen token, and the likeliest ones at its place, best first, which may hold it too."""

    chosen: TokenLogprob
    likeliest: tuple[TokenLogprob, ...] = ()
