"""Whether a prompt fits into the model's context, before it is accepted.

The API loads no model, so it reasons with what live workers announced: no token is shorter than a byte, and none is
longer than the longest piece of the vocabulary. Most prompts surely fit, some surely do not; for those between, a
worker is asked to count.
"""

from sibyl.api.context import Context
from sibyl.core.errors import PromptTooLong
from sibyl.core.task import Message

COUNT_S = 2.0  # without an answer in this time the task is accepted, and its worker decides
# A chat template adds tokens of its own. Generous: too many only means that a worker is asked more often.
TEMPLATE_TOKENS = 64
TEMPLATE_TOKENS_PER_MESSAGE = 32


async def require_fitting(context: Context, messages: tuple[Message, ...]) -> None:
    """Return if the prompt fits into the context of some live worker's model, or if that cannot be known.

    Raises:
        PromptTooLong: it does not; the message says by how much.
        StoreUnavailable: Redis is out of reach.
    """
    prompt_bytes = sum(len(message.content.encode()) for message in messages)
    most_tokens = prompt_bytes + TEMPLATE_TOKENS + TEMPLATE_TOKENS_PER_MESSAGE * len(messages)
    workers = await context.registry.alive()
    sizes = [worker.context_tokens for worker in workers if worker.context_tokens is not None]
    if not sizes or len(sizes) < len(workers) or most_tokens < max(sizes):
        return
    pieces = [worker.max_piece_bytes for worker in workers if worker.max_piece_bytes is not None]
    if len(pieces) == len(workers) and prompt_bytes > max(pieces) * max(sizes):
        raise PromptTooLong(f"The prompt is {prompt_bytes} bytes long; the model's context holds {max(sizes)} tokens.")
    tokens = await context.counting.ask(messages, wait_s=COUNT_S)
    if tokens is not None and tokens >= max(sizes):
        raise PromptTooLong(f"The prompt is {tokens} tokens long; the model's context holds {max(sizes)}.")
