"""A grammar beside a sampler: as llama.cpp would judge each token, but never at the cost of the process."""

import ctypes
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_cpp as native

from sibyl.core.errors import EngineError, InvalidRequest
from sibyl.core.task import SamplingParams
from sibyl.engines.grammar import Grammar, Grammars, Pieces
from sibyl.engines.llama_model import Model
from tests.grammars import automaton_of

END = 2
PIECES = [b"", b"", b""] + [bytes((byte,)) for byte in range(256)] + [b" a", b"ab", b'"a', "é你".encode(), b'":', b"12"]
FIRST_BYTE = 3
AMBIGUOUS = 'root ::= s\ns ::= "a" s "b" | "a" s "c" | "a"'  # after n letters a there are 2^n ways to go on


def grammar_of(text: str, *, limit_s: float = 10.0) -> Grammar:
    """Return the grammar of an answer over PIECES."""
    grammar = Grammars(PIECES, frozenset({END}), limit_s=limit_s).of(SamplingParams(grammar=text))
    assert grammar is not None
    return grammar


def token_ids(text: str) -> list[int]:
    """Return a text byte by byte."""
    return [FIRST_BYTE + byte for byte in text.encode()]


def scores(**best: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return scores by chance."""
    return np.random.default_rng(best.get("seed", 1)).normal(size=len(PIECES)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Model]:
    """A model of 1,024 tokens: all bytes, syllables, and control tokens."""
    model = Model(tiny_model)
    yield model
    model.close()


GRAMMARS = [
    'root ::= "yes" | "no"',
    "root ::= [a-m]+ [^a-m]*",
    "root ::= .*",
    'root ::= ("ba" | [a-z] [a-z]){3,7} "!"?',
    "root ::= [\\u0400-\\u04FFé你]* [\\U0001F300-\\U0001F5FF]",
    'root ::= object\nobject ::= "{" (string ":" value ("," string ":" value)*)? "}"\n'
    'value ::= object | string | [0-9]+\nstring ::= "\\"" [^"\\\\]* "\\""',
    'root ::= "(" root ")" | "" | [a-z] root',
]


@pytest.mark.parametrize("text", GRAMMARS)
def test_each_token_is_judged_as_llama_cpp_judges_it(text: str, model: Model) -> None:
    """Over the whole vocabulary, all along random walks. It is laxer with parts of characters, and refuses a zero."""
    vocabulary = model.vocabulary
    grammars = Grammars(vocabulary.pieces, vocabulary.end_ids)
    whole = [
        token_id
        for token_id, piece in enumerate(vocabulary.pieces)
        if piece.strip(b"\0") and piece.decode("utf-8", "ignore").encode() == piece
    ]
    chance = random.Random(5)
    for _ in range(6):
        grammar = grammars.of(SamplingParams(grammar=text))
        assert grammar is not None
        theirs = native.llama_sampler_init_grammar(native.llama_model_get_vocab(model.pointer), text.encode(), b"root")
        assert theirs
        for _ in range(12):
            allowed = {token_id for token_id in whole if grammar.allows(token_id)}
            assert allowed == {token_id for token_id in _allowed(theirs, vocabulary.size) if token_id in whole}
            assert grammar.may_end == bool(vocabulary.end_ids & _allowed(theirs, vocabulary.size))
            if not allowed:
                break
            token_id = chance.choice(sorted(allowed))
            native.llama_sampler_accept(theirs, token_id)
            grammar.accept(token_id)
        native.llama_sampler_free(theirs)


def _allowed(sampler: int, size: int) -> set[int]:
    """Return the tokens that llama.cpp's own grammar lets through."""
    data = (native.llama_token_data * size)(*(native.llama_token_data(token_id, 0.0, 0.0) for token_id in range(size)))
    array = native.llama_token_data_array(data=data, size=size, selected=-1, sorted=False)
    native.llama_sampler_apply(sampler, ctypes.byref(array))
    return {token_id for token_id in range(size) if data[token_id].logit == 0.0}


@pytest.mark.parametrize("text", GRAMMARS)
def test_the_tokens_that_fit_are_those_that_are_allowed_one_by_one(text: str) -> None:
    """The walk over the sorted vocabulary leaves out none and adds none."""
    automaton, pieces = automaton_of(text), Pieces(PIECES, frozenset({END}))
    chance = random.Random(3)
    for _ in range(20):
        state = automaton.start
        while (fitting := pieces.fitting(automaton, state, time.thread_time() + 10).tolist()) and chance.random() < 0.8:
            assert sorted(fitting) == [
                token_id for token_id, piece in enumerate(PIECES) if piece and automaton.walk(state, piece) >= 0
            ]
            state = automaton.walk(state, PIECES[chance.choice(fitting)])


def test_an_end_token_is_allowed_where_the_grammar_may_end_and_nowhere_else() -> None:
    """And once nothing can follow, the answer is complete without one."""
    grammar = grammar_of('root ::= "ab" "c"?')

    assert not grammar.allows(END)
    grammar.restore(token_ids("ab"))
    assert grammar.allows(END) and grammar.may_end and not grammar.complete
    grammar.restore(token_ids("c"))
    assert grammar.allows(END) and grammar.complete


def test_a_token_that_is_not_allowed_is_an_error_and_not_the_end_of_the_process() -> None:
    """Also an end token, a control token, and the tokens of an answer that another model began."""
    grammar = grammar_of('root ::= "ab"')

    for token_id in (END, 0, *token_ids("b")):
        assert not grammar.allows(token_id)
        with pytest.raises(EngineError, match="does not keep"):
            grammar.accept(token_id)
    with pytest.raises(EngineError, match="does not keep"):
        grammar.restore(token_ids("ax"))


def test_the_candidates_are_the_likeliest_that_fit() -> None:
    """Best first, as many as asked for or as there are; the end token among them where it fits."""
    row = scores()
    for text, written in (
        ("root ::= [a-z]*", "abc"),
        ('root ::= "x" | "y"', ""),
        ("root ::= [0-9]+ | .*", "1"),
        (GRAMMARS[5], '{"'),
    ):
        for count in (1, 3, 40, 0):
            grammar = grammar_of(text)
            grammar.restore(token_ids(written))
            fitting = [token_id for token_id in range(len(PIECES)) if grammar.allows(token_id)]
            expected = sorted(fitting, key=lambda token_id: -row[token_id])[: count or len(fitting)]

            assert grammar.candidates(row, count).tolist() == expected
            assert grammar.candidates(row, count).tolist() == expected  # as remembered, too


def test_a_grammar_that_no_token_fits_is_an_error() -> None:
    """A vocabulary need not have every byte."""
    grammar = Grammars([b"a", b"b"], frozenset()).of(SamplingParams(grammar='root ::= "é"'))
    assert grammar is not None

    with pytest.raises(EngineError, match="No token"):
        grammar.candidates(np.zeros(2, np.float32), 1)


def test_a_token_may_be_a_part_of_a_character() -> None:
    """Only such a part as leads to a character of the grammar."""
    grammar = grammar_of("root ::= [à-é] [你-佰]")

    assert [byte for byte in range(256) if grammar.allows(FIRST_BYTE + byte)] == [0xC3]
    grammar.restore([FIRST_BYTE + 0xC3])
    assert [byte for byte in range(256) if grammar.allows(FIRST_BYTE + byte)] == list(range(0xA0, 0xAA))
    grammar.restore([FIRST_BYTE + 0xA9])
    assert [byte for byte in range(256) if grammar.allows(FIRST_BYTE + byte)] == [0xE4]


def test_a_restored_grammar_goes_on_as_the_first_would() -> None:
    """What a killed worker wrote is read again."""
    written = [*token_ids('{"a":12,"b":{"c":'), PIECES.index(b'"a')]
    first, again = grammar_of(GRAMMARS[5]), grammar_of(GRAMMARS[5])
    for token_id in written:
        assert first.allows(token_id)
        first.accept(token_id)

    again.restore(written)

    assert [first.allows(token_id) for token_id in range(len(PIECES))] == [
        again.allows(token_id) for token_id in range(len(PIECES))
    ]


def test_grammars_of_one_text_share_what_they_learned_and_not_where_they_are() -> None:
    """Two answers at once."""
    grammars = Grammars(PIECES, frozenset({END}))
    one, other = (grammars.of(SamplingParams(grammar='root ::= "ab"')) for _ in range(2))
    assert one is not None and other is not None

    one.restore(token_ids("ab"))

    assert one.complete and not other.complete and other.allows(*token_ids("a"))


def test_an_answer_without_a_grammar_has_none() -> None:
    """And a schema is as good as a grammar; both at once, or a broken one, are refused before anything is computed."""
    grammars = Grammars(PIECES, frozenset({END}))
    schema = json.dumps({"type": "boolean"})
    assert grammars.of(SamplingParams()) is None
    of_schema = grammars.of(SamplingParams(json_schema=schema))
    assert of_schema is not None

    of_schema.restore(token_ids("true"))

    assert of_schema.complete
    for wrong in (
        SamplingParams(grammar="root ="),
        SamplingParams(json_schema="["),
        SamplingParams(grammar="x", json_schema=schema),
    ):
        with pytest.raises(InvalidRequest):
            grammars.of(wrong)


def test_an_ambiguous_grammar_fails_its_own_answer_soon() -> None:
    """Its ways to go on double with each letter; llama.cpp's work would, too, in a call that nobody can end."""
    grammar = grammar_of(AMBIGUOUS)
    began = time.thread_time()

    with pytest.raises(EngineError, match="too many ways"):
        for token_id in token_ids("a" * 64):
            grammar.accept(token_id)

    assert time.thread_time() - began < 2


def test_time_spent_is_limited() -> None:
    """In CPU time, so a busy machine makes no difference; each token adds to it."""
    grammar = grammar_of("root ::= [a-z]*", limit_s=0.0)

    with pytest.raises(EngineError, match="takes too long"):
        grammar.candidates(scores(), 1)
    with pytest.raises(EngineError, match="takes too long"):
        Pieces(PIECES, frozenset()).fitting(automaton_of("root ::= .*"), 0, until=0.0)


def test_memory_is_limited() -> None:
    """An answer that nests without end keeps a place for each level."""
    grammar = grammar_of('root ::= "[" root "]" "x" | "y"')

    with pytest.raises(EngineError, match="too many ways"):
        for _ in range(1_000_000):
            grammar.accept(FIRST_BYTE + ord("["))


CHILD = """
import sys, time
from sibyl.core.errors import EngineError, InvalidRequest
from sibyl.core.task import SamplingParams
from sibyl.engines.grammar import Grammars
pieces = [bytes((byte,)) for byte in range(256)]
try:
    grammar = Grammars(pieces, frozenset()).of(SamplingParams(grammar=sys.stdin.read()))
    for byte in b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":
        if not grammar.allows(byte):
            break
        grammar.accept(byte)
    print("kept")
except (EngineError, InvalidRequest) as error:
    print("refused")
"""
HOSTILE = {
    "brackets": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "chain": "\n".join(f"r{i} ::= r{i + 1}" for i in range(100_000)) + '\nr100000 ::= "a"\nroot ::= r0',
    "left recursion": 'root ::= root "a" | "a"',
    "hidden left recursion": 'root ::= b root "y" | "a"\nb ::= c\nc ::= "" | "z"',
    "doubling check": "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60)) + '\nr60 ::= "a"\nroot ::= r0',
    "doubling start": "\n".join(f'r{i} ::= r{i + 1} "x" | r{i + 1} "y"' for i in range(60))
    + '\nr60 ::= "a"\nroot ::= r0',
    "doubling text": AMBIGUOUS,
    "repeats": 'root ::= ((("a"{5000}){5000}){5000}){5000}',
    "optional repeats": 'root ::= (("a"?){5000}){5}',
    "optional rules": "root ::= " + "a? " * 5_000 + '\na ::= "a"',
    "wide": "root ::= " + " | ".join(f'"a{i}"' for i in range(3_000)),
    "one mebibyte": 'root ::= "' + "a" * 2**20 + '"',
    "nothing": "",
    "zero bytes": "root ::= \0",
    "every character": "root ::= [^" + "".join(chr(0x4E00 + 2 * i) for i in range(8_000)) + "]*",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_grammar_ends_the_process_or_keeps_it_busy(name: str) -> None:
    """In a child, with bounded CPU time and memory; it lives, and says which it was."""
    limits = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (10, 10)); "
    limits += "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"

    child = subprocess.run(
        [sys.executable, "-c", limits + CHILD], input=HOSTILE[name], capture_output=True, text=True, timeout=25
    )

    assert child.stdout in ("kept\n", "refused\n"), child.stderr[-2000:]
