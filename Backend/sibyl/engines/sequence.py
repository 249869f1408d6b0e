"""One generation as the scheduler sees it: tokens that are known, and how many of them the model has seen.

The next token is chosen when the model has seen all that are known. So a prompt, an answer that goes on after a
takeover, and one that was put aside and comes back are the same thing: tokens that are known and not yet seen.
"""

import math
from collections.abc import Sequence as Items


class Sequence:
    """A prompt and its answer so far. Compared by identity."""

    def __init__(self, prompt: Items[int], answer: Items[int] = (), *, priority: int = 5) -> None:
        """Begin with nothing seen.

        Args:
            answer: what an earlier attempt wrote.
            priority: larger ones are first to get a place and last to lose it.
        """
        self.token_ids = [*prompt, *answer]  #: all that are known
        self.prompt_tokens = len(prompt)
        self.priority = priority
        self.order = 0  #: of arrival, given by the scheduler
        self.place: int | None = None  #: where the model's state for it is; None while it waits
        self.seen = 0  #: tokens that this state holds
        self.reused = 0  #: of these, tokens that were not computed for it
        self.exact_until = -math.inf  #: until this time (monotonic seconds) the answer's tokens are computed singly

    @property
    def unseen(self) -> int:
        """Known tokens that the model has not seen; never 0, since a chosen token is known and not seen."""
        return len(self.token_ids) - self.seen

    @property
    def readable(self) -> int:
        """Tokens that may be computed in chunks now: not those of an answer that will be computed singly."""
        in_prompt = self.prompt_tokens - self.seen
        return in_prompt if in_prompt > 0 and self.exact_until > -math.inf else self.unseen

    @property
    def decoding(self) -> bool:
        """Whether the next token is chosen after one more is seen."""
        return self.unseen == 1

    @property
    def resting(self) -> bool:
        """Whether nothing may be computed for it now."""
        return False

    def next_ids(self, most: int) -> list[int]:
        """Return up to ``most`` tokens to compute next."""
        return self.token_ids[self.seen : self.seen + most]
