"""The parts of JSON in GBNF: rules that every grammar for JSON may refer to, literals, and numbers between bounds."""

from collections.abc import Mapping

DIGITS = 15  # of a whole number; more do not survive a reader that keeps numbers as doubles
MOST = 10**DIGITS - 1

_LITERAL_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\x7f": "\\x7F", "\u2028": "\\u2028", "\u2029": "\\u2029"})

_DAYS_28 = '"0" [1-9] | "1" [0-9] | "2" [0-8]'
_DATE = (
    '[1-9] [0-9]{3} "-" ('
    f'("0" [13578] | "1" [02]) "-" ({_DAYS_28} | "29" | "30" | "31")'
    f' | ("0" [469] | "11") "-" ({_DAYS_28} | "29" | "30") | "02-" ({_DAYS_28}))'
)
_HOURS = '([01] [0-9] | "2" [0-3])'
_TIME = f'{_HOURS} ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [+-] {_HOURS} ":" [0-5] [0-9])'

BUILT_IN: Mapping[str, str] = {
    "space": '| " " | "\\n" [ \\t]{0,20}',
    # Half a surrogate pair is no character, so \u stands for whole ones alone.
    "char": '[^"\\\\\\x00-\\x1F\\x7F] | "\\\\" ["\\\\/bfnrt] | "\\\\u" ([0-9a-cA-CefEF] hex | [dD] [0-7]) hex hex',
    "hex": "[0-9a-fA-F]",
    "string": '"\\"" char* "\\""',
    "whole": f'"0" | [1-9] [0-9]{{0,{DIGITS - 1}}}',
    "integer": '"-"? whole',
    "number": f'"-"? whole ("." [0-9]{{1,{DIGITS}}})? ([eE] [+-]? [0-9]{{1,2}})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "object": '"{" space (string ":" space value ("," space string ":" space value)* space)? "}"',
    "array": '"[" space (value ("," space value)* space)? "]"',
    "value": "object | array | string | number | boolean | null",
    "date": f'"\\"" {_DATE} "\\""',
    "time": f'"\\"" {_TIME} "\\""',
    "date-time": f'"\\"" {_DATE} "T" {_TIME} "\\""',
    "uuid": '"\\"" hex{8} ("-" hex{4}){3} "-" hex{12} "\\""',
}


def literal(text: str) -> str:
    """Return the expression that writes ``text``, which holds no line end, as JSON's texts do not."""
    return f'"{text.translate(_LITERAL_ESCAPES)}"'


def whole_between(low: int, high: int) -> str:
    """Return the expression for the whole numbers from ``low`` to ``high``; "" if there is none."""
    parts = [f'"-" ({digits})'] if (digits := _digits(max(1, -high), -low)) else []
    if digits := _digits(max(0, low), high):
        parts.append(digits)
    return " | ".join(parts)


def number_between(low: int, high: int, *, above: bool, below: bool) -> str:
    """Return the expression for the numbers from ``low`` to ``high``, without ``low`` if they must be ``above`` it,
    and without ``high`` if ``below``; "" if there is none."""
    parts = []
    if low < 0:
        negative = _magnitudes(max(0, -high), -low, above=below and high <= 0, below=above)
        parts += [f'"-" ({negative})'] if negative else []
    if high >= 0:
        positive = _magnitudes(max(0, low), high, above=above and low >= 0, below=below)
        parts += [positive] if positive else []
    return " | ".join(parts)


def _magnitudes(low: int, high: int, *, above: bool, below: bool) -> str:
    parts = []
    least = low
    if above and low < high:
        parts.append(f'"{low}." [0-9]{{0,{DIGITS - 1}}} [1-9]')
        least += 1
    if digits := _digits(least, high - 1):
        parts.append(f'({digits}) ("." [0-9]{{1,{DIGITS}}})?')
    if not below and (low < high or (low == high and not above)):
        parts.append(f'"{high}" ("." "0"{{1,{DIGITS}}})?')
    return " | ".join(parts)


def _digits(low: int, high: int) -> str:
    """Return the expression for the numbers from ``low`` to ``high``, neither negative; "" if there is none."""
    parts = []
    while low <= high:
        length = len(str(low))
        if low == 10 ** (length - 1) and high >= 10**length - 1:  # all of this length, and of how many more?
            most = len(str(high + 1)) - 1
            parts.append(f"[1-9] [0-9]{{{length - 1},{most - 1}}}")
            low = 10**most
        else:
            last = min(high, 10**length - 1)
            parts.append(_same_length(str(low), str(last)))
            low = last + 1
    return " | ".join(parts)


def _same_length(low: str, high: str) -> str:
    """Return the expression for the numbers between two of the same length."""
    if low == high:
        return f'"{low}"'
    first, last, rest = int(low[0]), int(high[0]), len(low) - 1
    if first == last:
        return f'"{first}" ({_same_length(low[1:], high[1:])})'
    parts = []
    if rest and low[1:] != "0" * rest:
        parts.append(f'"{first}" ({_same_length(low[1:], "9" * rest)})')
        first += 1
    end = []
    if rest and high[1:] != "9" * rest:
        end.append(f'"{last}" ({_same_length("0" * rest, high[1:])})')
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f" [0-9]{{{rest}}}" if rest else ""))
    return " | ".join(parts + end)
