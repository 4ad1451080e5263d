"""Links, pictures and lists: they lead where they say on a code host and on the site alike."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from tests.docs.pages import ROOT, Page, all_pages, read_page

PAGES = all_pages()
DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Page) -> None:
    for line, target in page.links():
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        assert path.exists(), f"{page.name}:{line}: there is no {target}"
        assert path.is_relative_to(ROOT), f"{page.name}:{line}: {target} leaves the repository"
        if page.path.is_relative_to(DOCS):
            assert path.is_relative_to(DOCS), f"{page.name}:{line}: {target} is not on the site; name it as code"
        if anchor and path.suffix == ".md":
            assert anchor in read_page(path).anchors(), f"{page.name}:{line}: {path.name} has no heading for #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_and_tables_have_an_empty_line_before_them(page: Page) -> None:
    """The site's Markdown takes a list without one for a part of the paragraph; code hosts do not."""
    before = ""
    for number, line in enumerate(page.prose.splitlines(), 1):
        begins = re.match(r"(- |\* |\d+\. |\|)", line)
        # A row under a row, an item under an item or under its own further lines.
        goes_on = before.startswith(("- ", "* ", "|", "  ")) or re.match(r"\d+\. ", before)
        assert not (begins and before.strip() and not goes_on), f"{page.name}:{number}: {line[:60]}"
        before = line


def test_every_picture_says_what_it_shows() -> None:
    pictures = sorted((DOCS / "images").glob("*.svg"))
    assert len(pictures) >= 5
    used = {(page.path.parent / target).resolve() for page in PAGES for _, target in page.links()}
    for picture in pictures:
        root = ET.fromstring(picture.read_text(encoding="utf-8"))
        words = {child.tag.rpartition("}")[2]: child.text for child in root}
        assert words["title"], picture.name
        assert words["desc"], picture.name
        assert picture in used, f"{picture.name} is on no page"


def test_every_page_can_be_found_from_the_index() -> None:
    index = read_page(DOCS / "README.md")
    linked = {(DOCS / target.partition("#")[0]).resolve() for _, target in index.links()}
    missing = {page.name for page in PAGES if page.path.is_relative_to(DOCS)} - {"docs/README.md"}
    missing -= {str(path.relative_to(ROOT)) for path in linked if path.is_relative_to(ROOT)}
    assert not missing
