"""Whatever the grammar of a schema writes is valid under the schema; what cannot be kept is refused."""

import json
from datetime import datetime, time
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sibyl.core.errors import InvalidRequest
from sibyl.wire.gbnf import REPEATS
from sibyl.wire.json_schema import SCHEMA_BYTES, SCHEMA_DEPTH, canonical_schema, schema_to_gbnf
from tests.grammars import automaton_of, matches, write_text

Schema = dict[str, Any]

NAMES = st.sampled_from(["a", "b", 'quo"te', "back\\slash", "é你", "", "with space", "c"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
BOUNDS = st.integers(-1200, 1200)
COUNTS = st.integers(0, 3)


def _given(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    """Some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def _typed(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return _given(**fields).map(lambda given: {"type": kind} | given)


def _ordered(low: str, high: str) -> Any:
    """Leave out schemas that nothing can be valid under."""
    return lambda schema: schema.get(low, 0) <= schema.get(high, 9)


LEAVES: st.SearchStrategy[Schema] = st.one_of(
    st.sampled_from([{}, {"type": "null"}, {"type": "boolean"}, {"type": ["string", "null"]}, {"type": "number"}]),
    _typed("string", minLength=COUNTS, maxLength=COUNTS).filter(_ordered("minLength", "maxLength")),
    _typed("string", format=st.sampled_from(["date", "time", "date-time", "uuid", "email"])),
    _typed("integer", minimum=BOUNDS),
    _typed("integer", maximum=BOUNDS),
    _typed("number", exclusiveMinimum=BOUNDS),
    st.tuples(st.sampled_from(["integer", "number"]), BOUNDS, st.integers(2, 300)).map(
        lambda drawn: {"type": drawn[0], "exclusiveMinimum": drawn[1], "exclusiveMaximum": drawn[1] + drawn[2]}
    ),
    st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
)


def _nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    properties = st.dictionaries(NAMES, inner, max_size=3)
    return st.one_of(
        properties.flatmap(
            lambda named: _typed(
                "object",
                properties=st.just(named),
                required=st.lists(st.sampled_from(sorted(named)), unique=True) if named else st.just([]),
                additionalProperties=st.booleans() | inner,
            )
        ),
        _typed("array", items=inner, minItems=COUNTS, maxItems=COUNTS).filter(_ordered("minItems", "maxItems")),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"prefixItems": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        inner.map(lambda part: {"allOf": [part], "description": "alone"}),
    )


SCHEMAS = st.recursive(LEAVES, _nested, max_leaves=6)
CHECK = jsonschema.Draft202012Validator
FORMATS = jsonschema.FormatChecker(("date", "uuid"))
FORMATS.checks("time", ValueError)(lambda value: bool(time.fromisoformat(str(value)).tzinfo))
FORMATS.checks("date-time", ValueError)(lambda value: bool(datetime.fromisoformat(str(value)).tzinfo))


@given(SCHEMAS, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
@example({"type": "object", "properties": {"a": {"const": "\u2028\x7f\n"}}, "required": ["b"]}, 1)
@example({"type": "number", "minimum": -1, "exclusiveMaximum": 0}, 3)
def test_what_the_grammar_writes_is_valid(schema: Schema, seed: int) -> None:
    """Any schema of the supported keywords, any text of its grammar."""
    automaton = automaton_of(schema_to_gbnf(schema))

    for offset in range(3):
        text = write_text(automaton, seed + offset)
        if text is not None:
            CHECK(schema, format_checker=FORMATS).validate(json.loads(text))


LINKED: Schema = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    },
    "$ref": "#/$defs/node",
}
PERSON: Schema = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (
            PERSON,
            ['{"name":"é \\n","age":150}', '{ "name": "" }', '{\n  "name": "x"\n}'],
            ['{"age":1}', '{"name":"x","age":151}'],
        ),
        (LINKED, ["{}", '{"next":{"next":null}}'], ['{"next":1}', "null"]),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            ["[1,2]", "[ -3, 0, 9 ]"],
            ["[1]", "[]", "[01,2]"],
        ),
        ({"type": "array", "items": {}, "maxItems": 1}, ["[]", "[null]"], ["[1,2]"]),
        ({"prefixItems": [{"const": 1}], "items": {"const": 2}}, ["[1]", "[1,2,2]"], ["[]", "[2]"]),
        ({"type": "string", "maxLength": 1}, ['""', '"é"', '"\\u00e9"', '"\\n"'], ['"ab"', '"\n"', '"\\ud83d"', "''"]),
        ({"enum": ["a", 1, None, {"x": []}]}, ['"a"', "1", "null", '{"x":[]}'], ["2", '"b"']),
        ({"type": "number"}, ["0", "-1.5e-7", "12E5"], ["01", ".5", "1.", "NaN", "+1"]),
        ({"enum": [1, "a", True], "type": "string"}, ['"a"'], ["1", "true"]),
        ({"type": "string", "format": "date"}, ['"2024-12-31"'], ['"2024-02-30"', '"2024-1-1"']),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ["{}", '{"x":null}'], ['{"x":1}']),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"x":1}']),
        ({}, ['{"a":[1,{"b":"c"}]}', "0", "null"], ["nul", '{"a"}', "{1:2}"]),
    ],
    ids=str,
)
def test_a_schema_lets_through_what_it_means(schema: Schema, valid: list[str], invalid: list[str]) -> None:
    """Known texts on both sides."""
    automaton = automaton_of(schema_to_gbnf(schema))

    assert [text for text in valid if not matches(automaton, text)] == []
    assert [text for text in invalid if matches(automaton, text)] == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": {"pattern": "x"}}}, "at properties/a: keyword 'pattern'"),
        ({"type": "object", "minProperties": 1}, "minProperties"),
        ({"type": "string", "minimum": 1}, "minimum"),
        ({"type": "text"}, "type must be"),
        ({"type": []}, "type must be"),
        ({"enum": []}, "no value is left"),
        ({"enum": [1], "type": "string"}, "no value is left"),
        ({"enum": 1}, "enum must be"),
        ({"anyOf": {}}, "anyOf must be"),
        ({"anyOf": [{}], "type": "string"}, "not supported"),
        ({"allOf": [{}, {}]}, "allOf"),
        ({"not": {}}, "'not'"),
        ({"$ref": "other.json"}, "must point into"),
        ({"$ref": "#/$defs/x"}, "points to nothing"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}, "type": "null"}, "'type'"),
        ({"type": "array", "items": [{}]}, "must be an object"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "number of items"),
        ({"type": "array", "minItems": -1}, "whole number"),
        ({"type": "string", "maxLength": REPEATS + 1}, str(REPEATS)),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "less than"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "no number is left"),
        ({"type": "integer", "minimum": 1e18}, "no number is left"),
        ({"type": "number", "minimum": 0.5}, "whole number"),
        ({"type": "integer", "minimum": True}, "must be a number"),
        ({"properties": []}, "must be an object"),
        ({"required": "a"}, "list of names"),
        ({"required": ["a"], "additionalProperties": False}, "not allowed"),
        ({"properties": {"a": False}, "required": ["a"]}, "not allowed"),
        ({"const": "\ud800"}, "half a character"),
        ({"const": float("inf")}, "no number"),
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused(schema: Schema, said: str) -> None:
    """With the keyword and its place, and never passed over."""
    with pytest.raises(InvalidRequest, match="schema") as caught:
        schema_to_gbnf(schema)

    assert said in caught.value.message


def test_a_large_or_deep_schema_is_refused() -> None:
    """Before anything else looks at it; the limit is in the message."""
    deep: Schema = {}
    for _ in range(SCHEMA_DEPTH):
        deep = {"items": deep}

    with pytest.raises(InvalidRequest, match=f"{SCHEMA_DEPTH} deep"):
        canonical_schema({"items": deep})
    with pytest.raises(InvalidRequest, match=f"{SCHEMA_BYTES} are allowed"):
        canonical_schema({"enum": ["é" * SCHEMA_BYTES]})


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    """In which they are written."""
    assert canonical_schema({"b": {"z": 1, "a": "é"}, "a": True}) == '{"b":{"z":1,"a":"é"},"a":true}'


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["type", "items", "properties", "anyOf", "enum", "$ref", "required", "minItems", "x"]),
            inner | st.lists(inner, max_size=3),
            max_size=4,
        ),
    )
)
def test_any_json_gives_a_grammar_or_one_clear_error(schema: Any) -> None:
    """Whatever stands where a schema should."""
    try:
        automaton_of(schema_to_gbnf({"items": schema}))
    except InvalidRequest as error:
        assert error.message.startswith(("JSON schema", "Grammar", "Rule", "A repetition"))
