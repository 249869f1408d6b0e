"""Real llama.cpp with a grammar, a schema, or a look at its tokens: alone, beside others, taken over in the middle."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sibyl.core.errors import EngineError, InvalidRequest
from sibyl.core.event import Output
from sibyl.core.task import SamplingParams
from sibyl.engines.llama import LlamaEngine
from tests.engines.asking import answer, asking, ids_of, text_of
from tests.grammars import automaton_of, matches

VERSE = 'root ::= line{2}\nline ::= [A-Z] [a-z ,]{5,40} ".\\n"'
OMEN = {
    "type": "object",
    "properties": {
        "luck": {"enum": ["good", "bad", "mixed"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 100},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 2, "maxItems": 3},
    },
    "required": ["luck", "score", "words"],
}
CHANCE = SamplingParams(temperature=1.0, top_k=40, seed=3, max_tokens=300)
WAYS = [CHANCE, replace(CHANCE, top_k=0, top_p=0.9), replace(CHANCE, temperature=0.0)]


@pytest.mark.parametrize("sampling", WAYS, ids=["drawn", "drawn of all", "greedy"])
def test_a_model_that_babbles_keeps_to_a_grammar(tiny_engine: LlamaEngine, sampling: SamplingParams) -> None:
    """Every token; and where nothing can follow, the answer ends by itself."""
    for seed in range(3):
        outputs, result = answer(tiny_engine, asking("Verse?", sampling=replace(sampling, grammar=VERSE, seed=seed)))

        assert matches(automaton_of(VERSE), text_of(outputs))
        assert result.finish_reason == "stop"


@pytest.mark.parametrize("sampling", WAYS, ids=["drawn", "drawn of all", "greedy"])
def test_a_model_that_babbles_answers_in_json(tiny_engine: LlamaEngine, sampling: SamplingParams) -> None:
    """Valid under the schema."""
    bound = replace(sampling, json_schema=json.dumps(OMEN))

    outputs, result = answer(tiny_engine, asking("Omen?", sampling=bound))

    omen = json.loads(text_of(outputs))
    assert omen["luck"] in ("good", "bad", "mixed") and 1 <= omen["score"] <= 100 and len(omen["words"]) in (2, 3)
    assert result.finish_reason == "stop"


def test_a_model_ends_where_the_grammar_lets_it(chain_engine: LlamaEngine) -> None:
    """It says one sentence; the grammar allows a part of it, all of it, or more than it."""
    greedy = SamplingParams(temperature=0.0, max_tokens=40)

    def said(grammar: str) -> tuple[str, str]:
        outputs, result = answer(chain_engine, asking("?", sampling=replace(greedy, grammar=grammar)))
        return text_of(outputs), result.finish_reason

    assert said('root ::= "aé"') == ("aé", "stop")
    assert said("root ::= [^x]*") == ("aé你🎉!", "stop")
    assert said('root ::= "aé你🎉!" [0-9]{60}')[1] == "length"


@pytest.mark.parametrize("kept", [1, 4, 11])
def test_a_bound_answer_is_taken_over_in_the_middle(tiny_engine: LlamaEngine, kept: int) -> None:
    """The grammar reads what is stored, and the whole is what an uninterrupted attempt would have said."""
    bound = replace(CHANCE, json_schema=json.dumps(OMEN), logprobs=2)
    whole, _ = answer(tiny_engine, asking("Omen?", sampling=bound))

    rest, result = answer(tiny_engine, asking("Omen?", sampling=bound, stored=whole[:kept]))
    nothing, ended = answer(tiny_engine, asking("Omen?", sampling=bound, stored=whole))

    assert text_of(whole[:kept] + rest) == text_of(whole)
    assert (nothing, result.finish_reason, ended.finish_reason) == ([], "stop", "stop")


def test_an_answer_that_does_not_keep_to_its_grammar_is_not_gone_on_with(tiny_engine: LlamaEngine) -> None:
    """What another model or another version wrote."""
    stored = (Output(text="zzz", token_ids=(1, 2)),)

    with pytest.raises(EngineError, match="does not keep"):
        answer(tiny_engine, asking("?", sampling=replace(CHANCE, grammar='root ::= "a"'), stored=stored))


def test_what_breaks_one_bound_answer_spares_the_others(tiny_engine: LlamaEngine) -> None:
    """Free answers, bound ones, a broken grammar, and one that is read in too many ways, at once."""
    hopeless = 'root ::= s\ns ::= [a-z ] s "b" | [a-z ] s "c" | "z"'
    params = [
        CHANCE,
        replace(CHANCE, grammar=VERSE),
        replace(CHANCE, grammar="root ="),
        replace(CHANCE, grammar=hopeless),
    ]
    alone = [text_of(answer(tiny_engine, asking("?", sampling=each))[0]) for each in params[:2]]

    with ThreadPoolExecutor(8) as pool:
        first, second, third, fourth = [
            [pool.submit(answer, tiny_engine, asking("?", sampling=each)) for _ in range(2)] for each in params
        ]

    assert all(matches(automaton_of(VERSE), text_of(done.result()[0])) for done in second)
    assert len(alone[0]) > 0 and all(done.result()[1].usage.completion_tokens == 300 for done in first)
    assert all(isinstance(done.exception(), InvalidRequest) for done in third)
    assert all("too many ways" in str(done.exception()) for done in fourth)


def test_logprobs_come_with_every_token(tiny_engine: LlamaEngine, chain_engine: LlamaEngine) -> None:
    """Its id, its bytes and how likely it was, and the likeliest; greedy takes the first of them."""
    greedy = SamplingParams(temperature=0.0, max_tokens=12, logprobs=3)

    for engine in (tiny_engine, chain_engine):
        outputs, _ = answer(engine, asking("Why?", sampling=greedy))
        told = [place for output in outputs for place in output.logprobs]

        assert [place.chosen.token_id for place in told] == ids_of(outputs)
        assert all(place.likeliest[0] == place.chosen and len(place.likeliest) == 3 for place in told)
        assert all(0 >= one.logprob >= two.logprob for place in told for one, two in [place.likeliest[:2]])
        assert b"".join(place.chosen.piece for place in told).decode() == text_of(outputs)


def test_logprobs_of_a_forced_token_are_the_models_own(chain_engine: LlamaEngine) -> None:
    """It would have said something else."""
    sampling = SamplingParams(temperature=0.0, max_tokens=12, logprobs=1, grammar='root ::= "q"')

    [output], _ = answer(chain_engine, asking("Why?", sampling=sampling))

    [place] = output.logprobs
    assert place.chosen.piece == b"q" and place.likeliest[0].piece == b"a"
    assert place.chosen.logprob < place.likeliest[0].logprob
