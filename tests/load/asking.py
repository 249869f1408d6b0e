"""Asks questions, as many as a benchmark needs."""

from collections.abc import Sequence
from typing import Any

import httpx


def ask(url: str, question: str, *, key: str | None = None, **body: Any) -> str:
    """Submit a question and return the task's id.

    Args:
        key: an Idempotency-Key; with it, asking again after a lost reply gives the same task.
    """
    headers = {} if key is None else {"Idempotency-Key": key}
    reply = httpx.post(
        f"{url}/api/questions",
        json={"question": question, **body},
        headers=headers,
        timeout=30,
        trust_env=False,
        verify=False,
    )
    return str(reply.raise_for_status().json()["task_id"])


def ask_all(url: str, questions: Sequence[str], **body: Any) -> list[str]:
    """Submit questions over one connection and return the tasks' ids."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False, verify=False) as client:
        replies = (client.post("/api/questions", json={"question": question, **body}) for question in questions)
        return [str(reply.raise_for_status().json()["task_id"]) for reply in replies]
