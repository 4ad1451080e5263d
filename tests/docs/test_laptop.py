"""Every page that works on a laptop is done for real, block by block, as its reader would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.laptop import Laptop
from tests.docs.pages import Page, all_pages

PAGES = [page for page in all_pages() if page.runs]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.slow else []) for page in PAGES],
)
def test_a_page_works_as_it_is_written(page: Page, tmp_path: Path) -> None:
    with Laptop(tmp_path) as laptop:
        assert laptop.play(page) == sum(block.kind in {"run", "down", "watch"} for block in page.blocks)


def test_the_pages_that_people_begin_with_are_among_them() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "docs/quick-start.md", "docs/how-to/redeploy-from-ci.md"} <= names
