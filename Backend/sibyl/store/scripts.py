"""The Lua scripts under lua/: one per change of state, each atomic, each safe to repeat when its reply was lost.

The prelude is put before each: it holds the helpers, the field names of wire/record.py and the table of
core/state.py, so that nothing is decided in two languages.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from importlib import resources

from sibyl.core.state import TRANSITIONS
from sibyl.wire.record import FIELDS


def _prelude() -> str:
    fields = ", ".join(f"{name} = '{field}'" for name, field in FIELDS.items())
    may = ", ".join(
        f"{state} = {{ {', '.join(f'{after} = true' for after in sorted(afters))} }}"
        for state, afters in TRANSITIONS.items()
    )
    return f"local FIELD = {{ {fields} }}\nlocal MAY = {{ {may} }}\n" + _read("prelude")


def _read(name: str) -> str:
    return resources.files("sibyl.store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Source:
    """A script's text and the digest that Redis knows it by."""

    text: str
    sha1: str


def _source(name: str) -> Source:
    text = _prelude() + _read(name)
    return Source(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Script(Enum):
    """Every script. The header of each file names its keys, arguments and replies."""

    SUBMIT = "submit"
    DUE = "due"
    CLAIM = "claim"
    APPEND = "append"
    SETTLE = "settle"
    RELEASE = "release"
    CANCEL = "cancel"
    ERASE = "erase"
    REAP = "reap"
    ANNOUNCE = "announce"

    def __init__(self, name: str) -> None:
        self.source = _source(name)
