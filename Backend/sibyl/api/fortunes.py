"""Draw a fortune: a poem, and its interpretation for a question."""

import secrets
from typing import Any

from fastapi import APIRouter, Response

from sibyl.api.context import ContextParam, OwnerParam
from sibyl.api.submission import REFUSALS, IdempotencyKey, accept
from sibyl.core.task import TaskSpec
from sibyl.fortune.poems import draw
from sibyl.fortune.prompt import messages
from sibyl.wire.tasks import SEED_MOST, FortuneBody, TaskBody, digest

router = APIRouter(tags=["ask"])


@router.post(
    "/api/fortunes", status_code=202, response_model=TaskBody, response_model_exclude_unset=True, responses=REFUSALS
)
async def draw_fortune(
    body: FortuneBody,
    response: Response,
    context: ContextParam,
    owner: OwnerParam,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Draw a poem for a question and accept its interpretation as a task; the poem is in the answer at once."""
    chance = secrets.randbelow(SEED_MOST + 1)
    poem = draw(chance if body.seed is None else body.seed)
    spec = TaskSpec(
        kind="fortune",
        messages=messages(poem, body.question),
        sampling=body.sampling.params(seed=chance if body.seed is None else body.seed),
        priority=body.priority,
        metadata=body.metadata,
        poem_number=poem.number,
    )
    request = digest("fortunes", body)
    return await accept(
        context, owner, spec, response, deadline_s=body.deadline_s, key=idempotency_key, request=request
    )
