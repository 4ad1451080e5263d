"""Every block of every page is of a known kind and is what it says: read by the parser that it is meant for."""

from __future__ import annotations

import re

import pytest

from tests.docs import cluster_lines, command_lines, documents
from tests.docs.pages import ROOT, Block, all_pages
from tests.testbed.errors import MissingPart

PAGES = all_pages()
BLOCKS = [block for page in PAGES for block in page.blocks]


def _cluster_commands(block: Block) -> list[list[str]]:
    if block.language != "sh" or block.kind in {"env", "script", "synopsis"}:
        return []
    return [words for words in command_lines.commands_of(block.text) if words[0] in {"helm", "kubectl"}]


CLUSTER = [(block, words) for block in BLOCKS for words in _cluster_commands(block)]


def _inline() -> list[tuple[str, list[str]]]:
    """`helm ...` and `kubectl ...` within sentences, whole commands alone."""
    found = []
    for page in PAGES:
        for number, line in enumerate(page.prose.splitlines(), 1):
            for code in re.findall(r"`((?:helm|kubectl|penstock|python -m) [^`]+)`", line):
                if not re.search(r"\.\.\.|…|[|<>*]| [A-Z_]+=|COMMAND|KIND|NAME\.\.\.", code):
                    found += [(f"{page.name}:{number}", words) for words in command_lines.commands_of(code)]
    return found


INLINE = _inline()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_is_what_it_says(block: Block) -> None:
    documents.check(block)


@pytest.mark.parametrize(
    ("place", "words"),
    [(place, words) for place, words in INLINE if words[0] not in {"helm", "kubectl"}],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_command_within_a_sentence_can_be_typed(place: str, words: list[str]) -> None:
    del place
    if words[0] == "penstock":
        # Within a sentence an argument may be left out; the command and its options must be there.
        command_lines.check_synopsis(words[1:])
    else:
        command_lines.check(words)


@pytest.mark.components
@pytest.mark.parametrize(
    ("place", "words"),
    [
        *((block.place, words) for block, words in CLUSTER),
        *((place, words) for place, words in INLINE if words[0] in {"helm", "kubectl"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_helm_and_kubectl_take_what_the_pages_say(place: str, words: list[str]) -> None:
    del place
    try:
        cluster_lines.check(words)
    except MissingPart as error:
        pytest.skip(str(error))


def test_there_is_something_to_check() -> None:
    assert len(BLOCKS) > 150
    assert len(CLUSTER) + len(INLINE) > 25
    assert {block.language for block in BLOCKS} >= {"sh", "yaml", "toml", "text", "python"}
    assert (ROOT / "docs" / "README.md") in {page.path for page in PAGES}
