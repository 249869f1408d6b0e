"""Grammars are read as llama.cpp reads them, and what would harm a worker is refused in one sentence."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sibyl.core.errors import InvalidRequest
from sibyl.wire.gbnf import ELEMENTS, GRAMMAR_CHARS, NESTING, REPEATS, parse_gbnf
from tests.grammars import automaton_of, matches


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "yesno", "ye"]),
        ("root ::= [a-cx]+", ["a", "xcab"], ["", "d", "A"]),
        ("root ::= [^a-c]*", ["", "dé你🎉\n"], ["a", "db"]),
        ("root ::= [a-] [^\\]] [\\]\\[-]", ["-x]", "ab["], ["b1]", "a]]"]),
        ("root ::= . .", ["é🎉", "ab"], ["a", "abc"]),
        ('root ::= "a"{2} "b"{1,} "c"{0,2} "d"{2,3}', ["aabdd", "aabbbccddd"], ["abdd", "aabd", "aabcccdd"]),
        ('root ::= ("a" | "b" | )"."', ["a.", "b.", "."], ["ab."]),
        ('root ::= ("ab")+ ("c"?)', ["abab", "abc"], ["aab", "abcc"]),
        ('root ::= "a"* "b"', ["b", "aab"], ["a", ""]),
        ('root ::= (\n "a" # one\n | "b"\n) # two\n\n# three\nother ::= root', ["a", "b"], ["ab"]),
        ('root ::=\n  "a" |\n  "b"\r\nx-1 ::= "c"', ["a", "b"], ["c"]),
        ('root ::= one two\none ::= "1" | one-b\none-b ::= "b" one\ntwo ::= "2"', ["12", "bb12"], ["b2"]),
        ('root ::= "\\x41\\u00e9\\U0001F389\\n\\t\\\\\\""', ['Aé🎉\n\t\\"'], ["A"]),
        ("root ::= [\\u0400-\\u04FF]{2}", ["мы"], ["my", "м"]),
        ("root ::= [\\U00000000-\\U0010FFFF]", ["\x00", "\U0010ffff", "\ud7ff", "\ue000"], [""]),
        ('root ::= "(" root ")" | ""', ["", "(())"], ["(", "())"]),
        ('root ::= ""', [""], ["a"]),
        ('root ::= "a" "" "b"', ["ab"], ["a"]),
        ('root ::= "ab"{0} "c"', ["c"], ["abc"]),
    ],
    ids=repr,
)
def test_a_grammar_lets_through_its_texts_and_no_others(grammar: str, texts: list[str], others: list[str]) -> None:
    """Literals, classes, brackets, repetitions, references, escapes, comments, line ends."""
    automaton = automaton_of(grammar)

    assert [text for text in texts if not matches(automaton, text)] == []
    assert [text for text in others if matches(automaton, text)] == []


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ("", "no rule root"),
        ("# nothing", "no rule root"),
        ('start ::= "a"', "no rule root"),
        ("root ::= missing", 'no rule "missing"'),
        ('root ::= "a"\nroot ::= "b"', 'line 2: rule "root" is there twice'),
        ('root = "a"', "line 1: ::= must follow"),
        ('::= "a"', "begins with its name"),
        ('root ::= "a', 'not closed with "'),
        ('root ::= "a\n"', 'not closed with "'),
        ("root ::= [a", "not closed with ]"),
        ("root ::= []", "class is empty"),
        ("root ::= [z-a]", "ends before it begins"),
        ("root ::= [\\ud800-\\udfff]", "matches no character"),
        ("root ::= [^\\U00000000-\\U0010FFFF]", "matches no character"),
        ('root ::= ("a"', "not closed with )"),
        ('root ::= "a")', "means nothing"),
        ('root ::= "a" | "b"\n| "c"', "line 2"),
        ("root ::= *", "nothing to repeat"),
        ('root ::= ""*', "nothing to repeat"),
        ('root ::= "a"{2,1}', "ends before it begins"),
        ('root ::= "a"{x}', "a repetition is"),
        ('root ::= "a"{,3}', "a repetition is"),
        ('root ::= "a"{99999999999999999999}', "a repetition is"),
        ('root ::= "a"{1,100000}', str(REPEATS)),
        ('root ::= "\\q"', "no escape"),
        ('root ::= "\\', "no escape"),
        ('root ::= "\\x4"', "hexadecimal"),
        ('root ::= "\\U00110000"', "hexadecimal"),
        ("root ::= <[17]>", "tokens by name"),
        ("root ::= !<think>", "tokens by name"),
        ("root ::= a_b", "means nothing"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= a "x"\na ::= b\nb ::= "y" | root', "left recursion"),
        ('root ::= b root "y" | "x"\nb ::= c\nc ::= "" | "z"', "left recursion"),  # llama.cpp never returns
        ('root ::= ("a"?)*', "left recursion"),
        ("root ::= " + "(" * (NESTING + 1) + '"a"' + ")" * (NESTING + 1), f"more than {NESTING} deep"),
        ("root ::= " + "(" * 100_000, f"more than {NESTING} deep"),  # llama.cpp overflows its stack
        ("root ::= " + "[a-z]{5000} " * 7, f"more than {ELEMENTS} elements"),
        ('root ::= "' + "a" * 2**20 + '"', f"more than {ELEMENTS} elements"),
        ("\n".join(f"r{i} ::= r{i + 1}" for i in range(40_000)), f"more than {ELEMENTS} elements"),
        ("root ::= [" + "az" * ELEMENTS + "]", "too long"),
        ("root ::= \x00", "means nothing"),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_no_grammar_or_too_much_is_refused(grammar: str, said: str) -> None:
    """With the line and the limit, in no time."""
    began = time.process_time()

    with pytest.raises(InvalidRequest) as caught:
        parse_gbnf(grammar)

    assert said in caught.value.message
    assert time.process_time() - began < 2  # seconds, on any machine; see the figures for how much less


@given(st.text(alphabet='root:=abc"[]()|*+?{}0123,.-^\\xu\n #<!', max_size=60))
def test_any_text_is_a_grammar_or_one_clear_error(text: str) -> None:
    """Whatever somebody sends."""
    for grammar in (text, f"root ::= {text}"):
        try:
            automaton_of(grammar)
        except InvalidRequest as error:
            assert error.message.endswith((".", '"..."'))


def test_a_long_chain_of_rules_is_no_long_chain_of_calls() -> None:
    """As many rules as fit into a request, each of which needs the next one."""
    count = GRAMMAR_CHARS // 18
    chain = "\n".join(f"r{i} ::= r{i + 1}" for i in range(count))

    assert matches(automaton_of(f'root ::= r0\n{chain}\nr{count} ::= "a"'), "a")
