"""From messages to the tokens of a prompt, by the model's own chat template. Safe from any thread."""

from sibyl.core.errors import EngineError, PromptTooLong
from sibyl.core.task import Message
from sibyl.engines.chat_template import ChatTemplate, token_ids
from sibyl.engines.llama_model import Model


class Prompts:
    """One model's way to write a prompt."""

    def __init__(self, model: Model, *, context_tokens: int) -> None:
        """Prepare the template.

        Raises:
            ModelUnusable: the model's template is none.
        """
        vocabulary = self._vocabulary = model.vocabulary
        self._template = ChatTemplate(model.chat_template, vocabulary.control, bos=vocabulary.bos, eos=vocabulary.eos)
        self._context_tokens = context_tokens
        self.max_piece_bytes = vocabulary.max_piece_bytes  #: UTF-8 bytes of the longest token; None: any amount

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer in this template."""
        return tuple(self._template.stop)

    def tokens(self, messages: tuple[Message, ...]) -> list[int]:
        """Return the tokens of a prompt; they may be more than fit.

        Raises:
            PromptTooLong: no prompt of this size can fit, so it was not counted.
            InvalidRequest: the template refuses these messages.
        """
        if self.max_piece_bytes is not None:
            size = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
            if size > self._context_tokens * self.max_piece_bytes:
                raise PromptTooLong()
        vocabulary = self._vocabulary
        prompt = token_ids(self._template.pieces(messages), vocabulary.tokenize)
        if vocabulary.first_id is not None and prompt[:1] != [vocabulary.first_id]:
            prompt.insert(0, vocabulary.first_id)
        if not prompt:
            raise EngineError("The model's chat template made an empty prompt.")
        return prompt

    def fitting(self, messages: tuple[Message, ...]) -> list[int]:
        """Return the tokens of a prompt that leaves room for one token of answer.

        Raises:
            PromptTooLong: it does not; and as ``tokens``.
        """
        prompt = self.tokens(messages)
        if len(prompt) >= self._context_tokens:
            raise PromptTooLong(
                f"The prompt is {len(prompt)} tokens long, and the model's context holds {self._context_tokens} with "
                "the answer. Shorten the question or the history."
            )
        return prompt
