"""Negative controls: Sibyl with one fence removed, to show that the checker would notice.

A break changes one place in a copy of the sources; the processes of the campaign run the copy. It names the faults
against which that fence stands, so that a short campaign is enough.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sibyl
from tests.chaos.history import EngineName


class BreakDoesNotFit(Exception):
    """The sources have changed: the text that a break replaces is not there, or not once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One fence, and what is left without it."""

    says: str
    file: str
    old: str  #: a regular expression; what it finds, once, is replaced
    new: str
    faults: tuple[str, ...]
    engine: EngineName = "scripted"  #: the one with which it shows soonest


BREAKS: Final[Mapping[str, Break]] = {
    "append-fence": Break(
        says="append.lua asks neither for the epoch nor for the nonce: who lost the lease writes on behind the others",
        file="store/lua/append.lua",
        old=r"  if held\[1\] ~= 'running' or held\[2\] ~= .* then\n.*\n  end\n  local stored = tonumber\(held\[4\]\)\n",
        new="""  if not held[1] then
    return 'fenced gone'
  end
  local stored = tonumber(held[4])
  if held[3] ~= nonce then
    epoch, first = held[2], stored + 1
  end
""",
        faults=("freeze-worker", "partition-worker"),
    ),
    "claim-mark": Break(
        says="claim.lua does not write what it keeps, nor after which entry: who reads cannot tell what was taken back",
        file="store/lua/claim.lua",
        old=r",\s*FIELD\.KEPT, task\[3\], FIELD\.PREVIOUS, (last_entry\(keys\.log\)|last)\)",
        new=")",
        faults=("kill-worker", "power-loss"),
    ),
    "rewind": Break(
        says="append.lua knows no gap: what Redis lost is not sent again",
        file="store/lua/append.lua",
        old=r"  if first > stored \+ 1 then\n.*\n  end\n",
        new="",
        faults=("power-loss",),
    ),
    "counter-epoch": Break(
        says="the epoch is a counter: after a power loss it is given out a second time",
        file="store/lua/prelude.lua",
        old=r"return math\.max\(tonumber\(epoch\) \+ 1, .*\)(?=\nend)",
        new="return tonumber(epoch) + 1",
        faults=("power-loss", "kill-worker"),
    ),
    "prefix": Break(
        says="every prompt is taken to begin with what another one left: it is answered from the cells of that one",
        file="engines/places.py",
        old=r"if ours\[:high\] == theirs\[:high\]:",
        new="if high:",
        faults=("kill-worker",),
        engine="llama",
    ),
}


def broken_tree(name: str, directory: Path) -> Path:
    """Return a folder for PYTHONPATH that holds Sibyl with this break.

    Raises:
        BreakDoesNotFit: the sources have changed; this file has to follow.
    """
    source = Path(sibyl.__file__).parent
    # Neither the model nor the page is needed by workers and APIs of a campaign.
    ignored = shutil.ignore_patterns("__pycache__", "*.gguf", "page")
    shutil.copytree(source, directory / "sibyl", ignore=ignored, symlinks=True)
    broken = BREAKS[name]
    path = directory / "sibyl" / broken.file
    text = path.read_text(encoding="utf-8")
    changed, found = re.subn(broken.old, lambda _: broken.new, text)
    if found != 1:
        raise BreakDoesNotFit(f"What {name} replaces stands {found} times in {broken.file}; see tests/chaos/broken.py.")
    path.write_text(changed, encoding="utf-8")
    return directory
