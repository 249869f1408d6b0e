"""From a JSON schema to a grammar in GBNF: what the grammar writes is valid under the schema. Pure, in bounded time.

Sound rather than complete: not every valid text can be written. Named properties come in the order of the schema, with
none beside them; white space is a space, or a line end with an indent; ``oneOf`` is read as ``anyOf``. A keyword that
cannot be kept is refused by name and place. Only annotations, which say nothing about validity, are passed over.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from sibyl.core.errors import InvalidRequest
from sibyl.wire.gbnf import REPEATS
from sibyl.wire.json_grammar import BUILT_IN, MOST, literal, number_between, whole_between

SCHEMA_BYTES = 16_384
SCHEMA_DEPTH = 32

Schema = Mapping[str, Any]

_ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "title", "description", "default", "examples"}
    | {"deprecated", "readOnly", "writeOnly", "format", "contentMediaType", "contentEncoding"}
)
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "number": frozenset(_BOUNDS),
    "integer": frozenset(_BOUNDS),
    "boolean": frozenset(),
    "null": frozenset(),
}
_KINDS: Mapping[str, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, int | float) and value % 1 == 0,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})  # the others say nothing about validity


def canonical_schema(schema: Schema) -> str:
    """Return the schema as text. The order of its properties stays: it is the order in which they are written.

    Raises:
        InvalidRequest: it is larger than SCHEMA_BYTES, nested deeper than SCHEMA_DEPTH, or no JSON in Unicode.
    """
    if _deeper(schema, SCHEMA_DEPTH):
        raise InvalidRequest(f"The JSON schema is nested more than {SCHEMA_DEPTH} deep.")
    try:
        text = _json(schema)
        size = len(text.encode())
    except ValueError:  # of which UnicodeEncodeError is one
        raise InvalidRequest("The JSON schema holds what JSON cannot: half a character, or no number.") from None
    if size > SCHEMA_BYTES:
        raise InvalidRequest(f"The JSON schema has {size} bytes; {SCHEMA_BYTES} are allowed.")
    return text


def schema_to_gbnf(schema: Schema) -> str:
    """Return a grammar that writes JSON which is valid under ``schema``.

    Raises:
        InvalidRequest: the schema says what cannot be kept, or means nothing, or ``canonical_schema`` refuses it.
    """
    canonical_schema(schema)
    return _Writer(schema).write()


def _deeper(value: object, levels: int) -> bool:
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [inner for outer in layer for inner in _inside(outer)]
    return bool(layer)


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


class _Writer:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}
        self._pending: list[tuple[str, object, str]] = []

    def write(self) -> str:
        """Return all rules, the root first."""
        rules = self._rules
        rules["root"] = ""
        rules["root"] = self._value(self._schema, "")
        while self._pending:  # a chain of references must not become a chain of calls
            name, schema, place = self._pending.pop()
            rules[name] = self._value(schema, place)
        return "\n".join(f"{name} ::= {rule}" for name, rule in (*rules.items(), *BUILT_IN.items()))

    def _rule(self, text: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = text
        return name

    def _value(self, schema: object, place: str) -> str:
        """Return what stands for one value: a name, or an expression in brackets."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise _refusal(place, "a schema must be an object")
        for keyword, write in (("$ref", self._reference), ("const", self._constants), ("enum", self._constants)):
            if keyword in schema:
                return write(schema, place)
        unions = [name for name in ("anyOf", "oneOf", "allOf") if name in schema]
        if unions:
            return self._union(schema, unions[0], place)
        types = self._types(schema, place)
        _require_known(schema, place, frozenset({"type"}).union(*(_KEYWORDS[kind] for kind in types)))
        if not types:
            return "value"
        written = [self._typed(kind, schema, place) for kind in types]
        return written[0] if len(written) == 1 else f"({' | '.join(written)})"

    def _types(self, schema: Schema, place: str) -> Sequence[str]:
        given = schema.get("type")
        if given is None:  # then its keywords say which type is meant; a value of that type is valid
            return [kind for kind, words in _KEYWORDS.items() if kind != "integer" and words & schema.keys()]
        types = given if isinstance(given, list) else [given]
        if not types or not all(isinstance(kind, str) and kind in _KEYWORDS for kind in types):
            raise _refusal(place, f"type must be among {', '.join(_KEYWORDS)}")
        return list(dict.fromkeys(types))

    def _typed(self, kind: str, schema: Schema, place: str) -> str:
        match kind:
            case "object":
                return self._object(schema, place)
            case "array":
                return self._array(schema, place)
            case "string":
                return self._string(schema, place)
            case "integer" | "number":
                return self._number(kind, schema, place)
            case _:
                return kind

    def _reference(self, schema: Schema, place: str) -> str:
        _require_known(schema, place, frozenset({"$ref"}))
        pointer = schema["$ref"]
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise _refusal(place, "$ref must point into this schema, such as #/$defs/name")
        if pointer not in self._references:
            target: object = self._schema
            for part in pointer.split("/")[1:]:
                name = unquote(part).replace("~1", "/").replace("~0", "~")
                if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                    target = target[int(name)]
                elif isinstance(target, dict) and name in target:
                    target = target[name]
                else:
                    raise _refusal(place, "$ref points to nothing")
            self._references[pointer] = rule = self._rule("")
            self._pending.append((rule, target, pointer.removeprefix("#/")))
        return self._references[pointer]

    def _constants(self, schema: Schema, place: str) -> str:
        """Write ``const`` or ``enum``; a type beside it leaves out values of other types."""
        _require_known(schema, place, frozenset({"const", "enum", "type"}))
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list):
            raise _refusal(place, "enum must be a list")
        if "type" in schema:
            kinds = [_KINDS[kind] for kind in self._types(schema, place)]
            values = [value for value in values if any(kind(value) for kind in kinds)]
        if "const" in schema:
            values = [value for value in values if value == schema["const"]]
        if not values:
            raise _refusal(place, "no value is left to choose")
        texts = dict.fromkeys(map(_json, values))
        return f"({' | '.join(map(literal, texts))})"

    def _union(self, schema: Schema, keyword: str, place: str) -> str:
        _require_known(schema, place, frozenset({keyword}))
        parts = schema[keyword]
        if not isinstance(parts, list) or not parts:
            raise _refusal(place, f"{keyword} must be a list of schemas")
        if keyword == "allOf" and len(parts) > 1:
            raise _refusal(place, "allOf of several schemas is not supported; write them as one")
        written = [self._value(part, _join(place, f"{keyword}/{index}")) for index, part in enumerate(parts)]
        return f"({' | '.join(dict.fromkeys(written))})"

    def _object(self, schema: Schema, place: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        others = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            raise _refusal(place, "properties must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refusal(place, "required must be a list of names")
        if not properties and not required:
            if others is False:
                return '("{" space "}")'
            member = f'string ":" space {self._value(others, _join(place, "additionalProperties"))}'
            return self._rule(f'"{{" space ({member} ("," space {member})* space)? "}}"')
        members = dict(properties)
        for name in required:
            if members.setdefault(name, others) is False:
                raise _refusal(place, "a required property is not allowed")
        return self._rule(f'"{{" space {self._members(members, frozenset(required), place)} "}}"')

    def _members(self, members: Mapping[str, object], required: frozenset[str], place: str) -> str:
        """Return what writes these properties in their order, and the space after the last one."""
        first, later = "", "space"  # what may follow when none was written yet, and when one was
        for name, schema in reversed(list(members.items())):
            value = self._value(schema, _join(place, f"properties/{name}"))
            member = self._rule(f'{literal(_json(name))} ":" space {value} {later}')
            if name in required:
                first, later = member, self._rule(f'"," space {member}')
            else:
                first = self._rule(f"{member} | {first}" if first else f"{member}?")
                later = self._rule(f'"," space {member} | {later}')
        return first

    def _array(self, schema: Schema, place: str) -> str:
        fixed, items = schema.get("prefixItems", []), schema.get("items", True)
        least, most = self._count(schema, "minItems", place) or 0, self._count(schema, "maxItems", place)
        if not isinstance(fixed, list):
            raise _refusal(place, "prefixItems must be a list of schemas")
        if items is False or (fixed and "items" not in schema and least <= len(fixed)):
            most = min(len(fixed), len(fixed) if most is None else most)
        if most is not None and (most < least or most < len(fixed)):
            raise _refusal(place, "there is no such number of items")
        parts = [self._value(part, _join(place, f"prefixItems/{index}")) for index, part in enumerate(fixed)]
        least, most = max(0, least - len(parts)), None if most is None else most - len(parts)
        fixed_items = ' "," space '.join(parts)
        if most == 0:
            return self._rule(f'"[" space {fixed_items} {"space" if parts else ""} "]"')
        item = self._value(items, _join(place, "items"))
        if parts:
            more = f'("," space {item}){_times(least, most)}'
            return self._rule(f'"[" space {fixed_items} {more} space "]"')
        more = f'{item} ("," space {item}){_times(max(0, least - 1), None if most is None else most - 1)} space'
        return self._rule(f'"[" space {more} "]"' if least else f'"[" space ({more})? "]"')

    def _string(self, schema: Schema, place: str) -> str:
        least, most = self._count(schema, "minLength", place), self._count(schema, "maxLength", place)
        if least is None and most is None:
            given = schema.get("format")
            return given if isinstance(given, str) and given in _FORMATS else "string"
        if most is not None and most < (least or 0):
            raise _refusal(place, "maxLength is less than minLength")
        return self._rule(f'"\\"" char{_times(least or 0, most)} "\\""')

    def _count(self, schema: Schema, keyword: str, place: str) -> int | None:
        value = schema.get(keyword)
        if value is None:
            return None
        if not _KINDS["integer"](value) or not 0 <= value <= REPEATS:
            raise _refusal(place, f"{keyword} must be a whole number up to {REPEATS}")
        return int(value)

    def _number(self, kind: str, schema: Schema, place: str) -> str:
        if not schema.keys() & set(_BOUNDS):
            return kind
        low, high = self._bound(schema, "minimum", -MOST, place), self._bound(schema, "maximum", MOST, place)
        above = self._bound(schema, "exclusiveMinimum", -MOST - 1, place)
        below = self._bound(schema, "exclusiveMaximum", MOST + 1, place)
        if kind == "integer":
            least, most = max(math.ceil(low), math.floor(above) + 1), min(math.floor(high), math.ceil(below) - 1)
            written = whole_between(max(least, -MOST), min(most, MOST))
        else:
            if not all(bound == int(bound) for bound in (low, high, above, below)):
                raise _refusal(place, "a bound of a number that is no whole number is not supported")
            bottom, top = max(int(low), int(above), -MOST), min(int(high), int(below), MOST)
            written = number_between(bottom, top, above=above >= bottom, below=below <= top)
        if not written:
            raise _refusal(place, "no number is left between the bounds")
        return f"({written})"

    def _bound(self, schema: Schema, keyword: str, default: float, place: str) -> float:
        value = schema.get(keyword, default)
        if not _KINDS["number"](value):
            raise _refusal(place, f"{keyword} must be a number")
        return float(value) if isinstance(value, float) else int(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _require_known(schema: Schema, place: str, known: frozenset[str]) -> None:
    for keyword in schema.keys() - known - _ANNOTATIONS:
        if not keyword.startswith("x-"):
            raise _refusal(place, f"keyword {keyword[:60]!r} is not supported here")


def _join(place: str, part: str) -> str:
    return f"{place}/{part}" if place else part


def _refusal(place: str, what: str) -> InvalidRequest:
    where = f", at {place[-200:]}" if place else ""
    return InvalidRequest(f"JSON schema{where}: {what}.")
