"""How the next token is chosen: the defaults, the limits, and randomness that a takeover can continue.

Token number n of an answer is drawn from a random state that depends on (seed, n) alone. So whoever continues an
answer after n tokens draws what the first attempt would have drawn, without any state being kept.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sibyl.core.errors import InvalidRequest
from sibyl.core.task import SamplingParams

T = TypeVar("T", int, float)

DEFAULT_MAX_TOKENS = 512
DEFAULT_TEMPERATURE = 0.8  # this and the three below are llama.cpp's own defaults
DEFAULT_TOP_P = 0.95
DEFAULT_TOP_K = 40
DEFAULT_MIN_P = 0.05

NOTHING = SamplingParams()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters with every gap filled, and valid."""

    max_tokens: int
    temperature: float  #: 0 is greedy
    top_p: float
    top_k: int  #: 0 keeps all
    min_p: float
    seed: int
    stop: tuple[str, ...]
    logprobs: int | None  #: likeliest tokens to tell with each chosen one; None tells nothing

    @classmethod
    def of(cls, params: SamplingParams, recommended: SamplingParams = NOTHING) -> "Sampling":
        """Fill the gaps of ``params``, first with what the model's makers recommend, then with llama.cpp's defaults.

        Raises:
            InvalidRequest: a number is out of its range, or no seed was drawn and chance is wanted.
        """
        filled = cls(
            max_tokens=_or(params.max_tokens, DEFAULT_MAX_TOKENS),
            temperature=_or(params.temperature, _or(recommended.temperature, DEFAULT_TEMPERATURE)),
            top_p=_or(params.top_p, _or(recommended.top_p, DEFAULT_TOP_P)),
            top_k=_or(params.top_k, _or(recommended.top_k, DEFAULT_TOP_K)),
            min_p=_or(params.min_p, _or(recommended.min_p, DEFAULT_MIN_P)),
            seed=_or(params.seed, 0),
            stop=tuple(text for text in params.stop if text),
            logprobs=params.logprobs,
        )
        if filled.max_tokens < 1:
            raise InvalidRequest("max_tokens must be 1 or more.")
        if not (math.isfinite(filled.temperature) and filled.temperature >= 0):
            raise InvalidRequest("temperature must be 0 or more.")
        if not 0 < filled.top_p <= 1:
            raise InvalidRequest("top_p must be above 0 and at most 1.")
        if filled.top_k < 0:
            raise InvalidRequest("top_k must be 0 or more.")
        if not 0 <= filled.min_p <= 1:
            raise InvalidRequest("min_p must be between 0 and 1.")
        if filled.logprobs is not None and filled.logprobs < 0:
            raise InvalidRequest("logprobs must be 0 or more.")
        if params.seed is None and filled.temperature > 0:
            raise InvalidRequest("A seed is needed: without one nobody could continue this answer.")
        return filled


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def draw_seed(seed: int, position: int) -> int:
    """Return 32 bits of randomness for token number ``position`` of an answer, from 0, under ``seed``."""
    digest = hashlib.blake2b(b"%d:%d" % (seed, position), digest_size=4).digest()
    # 2**32 - 1 is llama.cpp's word for "draw a seed yourself"
    return min(int.from_bytes(digest, "big"), 2**32 - 2)


def recommended_sampling(metadata: Callable[[str], str]) -> SamplingParams:
    """Return what the makers of a GGUF recommend under ``general.sampling.*``; nonsense there counts as nothing.

    Args:
        metadata: gives the value of a key as text, empty when there is none.
    """

    def number(key: str, least: float, most: float) -> float | None:
        try:
            value = float(metadata(f"general.sampling.{key}"))
        except ValueError:
            return None
        return value if least <= value <= most else None

    top_k = number("top_k", 0, 2**31 - 1)
    return SamplingParams(
        temperature=number("temp", 0, 10),
        top_p=number("top_p", 1e-6, 1),
        top_k=None if top_k is None else int(top_k),
        min_p=number("min_p", 0, 1),
    )
