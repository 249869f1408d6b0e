"""The expected answer is the engine's own."""

from sibyl.bridge.abort import Abort
from sibyl.core.event import Output
from sibyl.core.task import Message, SamplingParams
from sibyl.engines.base import GenerationRequest
from sibyl.engines.scripted import ScriptedEngine
from tests.chaos.expected import whole_answer


def test_the_expected_answer_is_that_of_the_engine_at_its_own_pace() -> None:
    """Pauses and failures that a question asks for change nothing of the words."""
    question = "[tokens=20] [pace=2000] [prompt_s=0.01] why?"
    outputs: list[Output] = []
    request = GenerationRequest(
        messages=(Message(role="user", content=question),), sampling=SamplingParams(seed=5), abort=Abort()
    )
    ScriptedEngine().generate(request, outputs.append)

    assert whole_answer(question, 5) == "".join(output.text for output in outputs)
    assert whole_answer(question, 6) != whole_answer(question, 5)
    assert len(whole_answer("[tokens=20] [fail=3] why?", 5).split()) == 20
