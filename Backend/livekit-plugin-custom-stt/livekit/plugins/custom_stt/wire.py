"""The server's messages as they come: JSON objects of which no field can be relied on."""

import json
import math
from collections.abc import Mapping
from typing import Any

Message = Mapping[str, Any]


def read(text: str) -> Message | None:
    """Return the message in a text frame; None: there is none."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("type"), str) else None


def number(message: Message, name: str) -> float | None:
    """Return a finite number; None: there is none."""
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def share(message: Message, name: str) -> float | None:
    """Return a number, kept within 0 and 1; None: there is none."""
    value = number(message, name)
    return None if value is None else min(1.0, max(0.0, value))


def words(message: Message, name: str) -> str:
    """Return a text; empty where there is none."""
    value = message.get(name)
    return value if isinstance(value, str) else ""


def part(message: Message, name: str) -> Message:
    """Return an object; empty where there is none."""
    value = message.get(name)
    return value if isinstance(value, dict) else {}


def parts(message: Message, name: str) -> list[Message]:
    """Return a list's objects."""
    value = message.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
