"""An answer as it grows: tokens in, outputs out, and the same again from what was stored of it.

Keeps the promise that a takeover needs: the token ids of all outputs so far, fed after the prompt, put the model
exactly where the last output ended. A token whose text is still held back (half a character, the beginning of a stop
string) travels with the next output. It knows neither the model nor how a token was chosen.
"""

from collections.abc import Callable, Sequence

from sibyl.core.event import Output
from sibyl.core.logprobs import TokenLogprobs
from sibyl.engines.text import TextStream


class Answer:
    """The tokens of one answer and the text that they became."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.token_ids: list[int] = []
        self._stop = tuple(stop)
        self._stream = TextStream(self._stop)
        self._unsent: list[int] = []
        self._unsent_logprobs: list[TokenLogprobs] = []
        self._flushed = False

    @property
    def ended(self) -> bool:
        """Whether nothing may follow: a stop string came, or the answer was flushed at its end."""
        return self._flushed or self._stream.stopped

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended it."""
        return self._stream.stopped

    def push(self, token_id: int, piece: bytes, logprobs: TokenLogprobs | None = None) -> Output | None:
        """Take the next token and return the output that it completes, if it completes one.

        With ``logprobs`` for each token, an output has as many of them as token ids.
        """
        self.token_ids.append(token_id)
        self._unsent.append(token_id)
        if logprobs is not None:
            self._unsent_logprobs.append(logprobs)
        return self._output(self._stream.feed(piece))

    def flush(self) -> Output | None:
        """End the answer and return the text that was held back, if there is any."""
        self._flushed = True
        return self._output(self._stream.flush())

    def _output(self, text: str) -> Output | None:
        if not text:
            return None
        output = Output(text=text, token_ids=tuple(self._unsent), logprobs=tuple(self._unsent_logprobs))
        self._unsent, self._unsent_logprobs = [], []
        return output

    def restore(
        self,
        stored: Sequence[Output],
        piece: Callable[[int], bytes | None],
        tokenize: Callable[[str], Sequence[int]],
    ) -> None:
        """Go to where ``stored`` ended, in a new answer.

        The stored tokens are pushed again, so that what they hold back is held back again. If the stored text goes on
        to where a flush would end it, the earlier attempt had already ended the answer, and ``ended`` becomes true.
        Tokens that do not give the stored text are another model's; then the text, which readers have seen and which
        therefore stays, is tokenized anew.

        Args:
            piece: the bytes of a token; None for an id that the model does not have.
            tokenize: the tokens of a text, which is never read as control tokens.
        """
        text = "".join(output.text for output in stored)
        again = ""
        for token_id in (token_id for output in stored for token_id in output.token_ids):
            new = piece(token_id)
            if new is None:
                break
            if output := self.push(token_id, new):
                again += output.text
        else:
            if text == again:
                return
            if output := self.flush():
                again += output.text
            if text == again:
                return
        self.token_ids = list(tokenize(text))
        self._stream = TextStream(self._stop)
        self._unsent = []
        self._flushed = False
