"""Ask a question."""

import asyncio
import secrets
from typing import Any

from fastapi import APIRouter, Response

from sibyl.api.context import ContextParam, OwnerParam
from sibyl.api.submission import REFUSALS, IdempotencyKey, accept
from sibyl.wire.constraint import is_constrained, rules_of
from sibyl.wire.tasks import SEED_MOST, QuestionBody, TaskBody, digest

router = APIRouter(tags=["ask"])


@router.post(
    "/api/questions", status_code=202, response_model=TaskBody, response_model_exclude_unset=True, responses=REFUSALS
)
async def ask(
    body: QuestionBody,
    response: Response,
    context: ContextParam,
    owner: OwnerParam,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Accept a question. From the 202 on it is kept: follow `events_url` for the answer, now or later."""
    # Drawn here and stored: an attempt that goes on elsewhere draws the same tokens.
    spec = body.spec(seed=secrets.randbelow(SEED_MOST + 1))
    if is_constrained(spec.sampling):
        await asyncio.to_thread(rules_of, spec.sampling)  # a grammar that no engine could keep is refused here
    request = digest("questions", body)
    return await accept(
        context, owner, spec, response, deadline_s=body.deadline_s, key=idempotency_key, request=request
    )
