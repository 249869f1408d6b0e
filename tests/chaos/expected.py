"""What a question's answer must be: that of the scripted engine, uninterrupted and in no hurry."""

from dataclasses import replace
from functools import lru_cache

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.scripted import ScriptedEngine, _Script


class _Unhurried(ScriptedEngine):
    """Recites the same words without pauses, and without the failures that a question asks for."""

    def _read(self, messages: tuple[Message, ...]) -> _Script:
        return replace(super()._read(messages), tokens_per_s=0.0, prompt_s=0.0, fail_at=None, crash_at=None)


@lru_cache(maxsize=1024)
def whole_answer(question: str, seed: int) -> str:
    """Return the text of the whole answer."""
    outputs: list[Output] = []
    request = GenerationRequest(
        messages=(Message(role="user", content=question),), sampling=SamplingParams(seed=seed), abort=Abort()
    )
    _Unhurried().generate(request, outputs.append)
    return "".join(output.text for output in outputs)
