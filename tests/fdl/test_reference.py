"""The reference page and the parser say the same: every key is there, none is invented, every example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.fdl import known_keys, parse_document
from penstock.fdl.schema import LOG_LEVELS, PROVIDERS, SERVICE

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "fdl.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
# Rows `| key | type | default | meaning | from |`; cells of the tables hold no bar.
CELLS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
ROWS = {cells[0].strip("`"): cells for cells in CELLS}


def test_rows_have_five_cells_and_no_key_twice() -> None:
    assert {len(cells) for cells in CELLS} == {5}
    assert len(ROWS) == len(CELLS)


def test_every_key_of_the_parser_is_explained() -> None:
    missing = {key for key in known_keys() if f"`{key}`" not in PAGE}
    assert missing == set()


def test_no_key_is_explained_that_the_parser_does_not_know() -> None:
    unknown = set(ROWS) - set(known_keys())
    assert unknown == {"storage_providers.local.ID"}  # has no fields, so the parser has no key below it


def test_defaults_are_the_parsers() -> None:
    checked = 0
    for name, key in SERVICE:
        if name in ROWS and isinstance(key.default, bool):
            assert f"`{str(key.default).lower()}`" in ROWS[name][2], name
            checked += 1
    assert checked >= 5


def test_words_and_provider_types_are_listed() -> None:
    for level in LOG_LEVELS:
        assert f"`{level}`" in ROWS["log_level"][1]
    for kind in PROVIDERS:
        assert f"`storage_providers.{kind}.ID" in PAGE


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_work(example: str) -> None:
    document = parse_document(example, read_script=lambda _: "true\n")
    assert document.functions
    expected = 1 if "Accepted with a warning" in example else 0
    assert len(document.warnings) == expected


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
