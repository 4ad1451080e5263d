"""The page's tables of promises name exactly the tests that carry their numbers, so that none is promised untested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/concepts/elasticity.md").read_text(encoding="utf-8")
SOURCES = [*sorted((TESTS / "scaler").rglob("test_*.py")), TESTS / "contracts" / "test_node_provider.py"]
#: C14 (consolidation) and C15 (forecast) are not built.
CLAUSES = {f"C{number}" for number in range(1, 22)} - {"C14", "C15"}
#: What CLUES was seen to do wrong, and must never be done here.
SEEN = {f"W{number}" for number in (1, 5, 11, 13, 14, 16, 17, 18, 19, 22, 24)}
NUMBERS: list[str] = sorted(CLAUSES | SEEN, key=lambda number: (number[:1], int(number[1:])))
_TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


def carried() -> dict[str, list[str]]:
    """By number, "file: test" of each test with the number in its name."""
    found: dict[str, list[str]] = {}
    for file in SOURCES:
        for name in _TEST.findall(file.read_text(encoding="utf-8")):
            for number in {word.upper() for word in name.split("_") if re.fullmatch(r"[cw]\d+", word)}:
                found.setdefault(number, []).append(f"{file.relative_to(TESTS)}: {name}")
    return found


def rows(letter: str) -> dict[str, list[str]]:
    """Cells of the table's rows, by number."""
    lines: list[str] = [line for line in PAGE.splitlines() if re.match(rf"\| {letter}\d+ ", line)]
    found: dict[str, list[str]] = {}
    for line in lines:
        number, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        found[number.strip()] = rest
    assert len(found) == len(lines), "a number stands twice"
    return found


def test_every_clause_and_every_failing_that_was_seen_has_a_row() -> None:
    assert set(rows("C")) == CLAUSES
    assert set(rows("W")) == SEEN


@pytest.mark.parametrize("number", NUMBERS)
def test_the_row_names_the_files_whose_tests_carry_the_number(number: str) -> None:
    tests = carried().get(number, [])
    assert tests, f"no test carries {number}"
    named = set(re.findall(r"`([^`]+)`", rows(number[0])[number][-1]))
    assert named == {test.partition(":")[0] for test in tests}
