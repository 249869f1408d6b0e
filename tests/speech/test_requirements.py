"""Every row of the table of requirements for speech has a test that names it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROWS = {
    "000": range(1, 10),  # callbacks of a vendor's SDK, events, processor, clean-up, doors, checks
    "001": range(1, 3),  # one loop; the SDK's own functions
    "002": range(1, 12),  # end of input, closing, config, finals, limits
    "003": range(1, 9),  # order at the end, keepalive, errors, reconnection, parity
    "004": range(1, 2),  # callbacks of a worker's thread
}
TESTS = Path(__file__).parents[1]


@cache
def named() -> set[str]:
    """Return the rows that docstrings of tests name."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.update(re.findall(r"\b00[0-4]-\d+\b", ast.get_docstring(node) or ""))
    return found


@pytest.mark.parametrize("row", [f"{seed}-{number}" for seed, numbers in ROWS.items() for number in numbers])
def test_each_row_has_a_test(row: str) -> None:
    """Whose docstring ends with the row's number."""
    assert row in named()
