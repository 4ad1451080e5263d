"""The pages of the documentation as data: their fenced blocks, headings and links.

A block says by its info string what a test does with it; one that says nothing is classified by what stands in it, and
one that cannot be classified is an error. `CONTRIBUTING.md` has the list for writers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Language -> what may be done with a block of it. The first is what an info string without a word means.
KINDS: dict[str, tuple[str, ...]] = {
    "sh": ("check", "run", "up", "down", "watch", "script", "env", "synopsis"),
    "python": ("check", "run", "script"),
    "yaml": ("check",),
    "toml": ("settings",),
    "json": ("check",),
    "ini": ("check",),
    "csv": ("check",),
    "dockerfile": ("check",),
    "text": ("picture", "output"),
}
#: Words behind the kind that have a value, and flags.
ATTRIBUTES = {"file", "exit", "ended", "title"}
FLAGS = {"slow"}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<info>[^`]*)$")
_HEADING = re.compile(r"^(#{1,6}) +(.+?)(?: +\{#([\w-]+)\})?$")
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\(([^()\s]+)\)")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=\S*")


class BadPage(Exception):
    """A page that breaks a rule: the sentence names the page, the line and what would be right."""


@dataclass(frozen=True)
class Block:
    """One fenced block. `kind` is one of `KINDS[language]`; `line` is that of its fence, counted from 1."""

    page: Path
    line: int
    language: str
    kind: str
    text: str
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name}:{self.line}"

    @property
    def slow(self) -> bool:
        return "slow" in self.attributes


@dataclass(frozen=True)
class Page:
    path: Path
    blocks: tuple[Block, ...]
    prose: str  # what is left without the blocks, line by line

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else self.path.name

    @property
    def runs(self) -> bool:
        return any(block.kind in {"run", "up"} for block in self.blocks)

    @property
    def slow(self) -> bool:
        return any(block.slow for block in self.blocks)

    def links(self) -> Iterator[tuple[int, str]]:
        """Yield (line, target) of every link and picture."""
        for number, line in enumerate(self.prose.splitlines(), 1):
            bare = re.sub(r"`[^`]*`", "``", line)
            for target in (*_LINK.findall(bare), *_IMAGE.findall(bare)):
                yield number, target

    def anchors(self) -> set[str]:
        """The names that headings give to their places, by the rule that the site and code hosts share."""
        found: set[str] = set()
        for line in self.prose.splitlines():
            if heading := _HEADING.match(line):
                slug = heading[3] or slug_of(heading[2])
                number, name = 0, slug
                while name in found:
                    number += 1
                    name = f"{slug}_{number}"
                found.add(name)
        return found


def slug_of(heading: str) -> str:
    """What a heading's text becomes in an address."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"[^\w\s-]", "", text).strip().lower()
    return re.sub(r"[-\s]+", "-", text)


def all_pages() -> list[Page]:
    """README, CONTRIBUTING and everything below docs."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [read_page(path) for path in paths]


def read_page(path: Path) -> Page:
    """Parse a page. Raises BadPage for a block that is open or of an unknown kind."""
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    prose: list[str] = []
    opened: tuple[int, str, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence is None:
                prose.append(line)
                continue
            opened, body = (number, fence["indent"], fence["ticks"], fence["info"].strip()), []
        elif fence is not None and fence["ticks"] == opened[2] and not fence["info"].strip():
            blocks.append(_block(path, opened[0], opened[3], "\n".join(body) + "\n"))
            opened = None
        else:
            body.append(line.removeprefix(opened[1]))
        prose.append("")
    if opened is not None:
        raise BadPage(f"{path.name}:{opened[0]}: the block is never closed")
    return Page(path, tuple(blocks), "\n".join(prose))


def _block(path: Path, line: int, info: str, text: str) -> Block:
    words = shlex.split(info)
    language, kind, attributes = words[0] if words else "", "", {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals and name in ATTRIBUTES:
            attributes[name] = value
        elif word in FLAGS:
            attributes[word] = ""
        elif not kind and not equals:
            kind = word
        else:
            raise BadPage(f"{path.name}:{line}: {word!r} means nothing; known are {sorted(ATTRIBUTES | FLAGS)}")
    if not language:
        language, kind = _guess(path, line, text)
    if language not in KINDS:
        raise BadPage(f"{path.name}:{line}: blocks of {language!r} are not known; known are {sorted(KINDS)}")
    if not kind:
        kind = "script" if text.startswith("#!") else KINDS[language][0]
    if kind not in KINDS[language]:
        raise BadPage(f"{path.name}:{line}: {language!r} has no kind {kind!r}; it may be one of {KINDS[language]}")
    return Block(path, line, language, kind, text, attributes)


def _guess(path: Path, line: int, text: str) -> tuple[str, str]:
    """(language, kind) of a block without an info string, by what stands in it."""
    rows = [row.split(" #")[0].strip() for row in text.splitlines() if row.strip() and not row.startswith("#")]
    if rows and all(_ASSIGNMENT.fullmatch(row) for row in rows):
        return "sh", "env"
    if rows and all(row.startswith("penstock ") for row in rows) and re.search(r"[\[(]|[A-Z]\.\.\.", text):
        return "sh", "synopsis"
    if any(arrow in text for arrow in ("─", "-->", "├", "│")) or re.match(r"\w+/ ", text):
        return "text", "picture"
    if rows and rows[0].count(",") >= 3 and " " not in rows[0]:
        return "csv", "check"
    if rows and re.match(r"(\$ )?(penstock|python|make|pytest|helm|kubectl|curl|pip|cat|echo|\.) ", rows[0]):
        return "sh", "check"
    raise BadPage(f"{path.name}:{line}: say what this block is: ```sh run, ```yaml, ```text output, ...")
