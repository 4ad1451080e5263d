"""The one shape that YAML text and JSON objects take before the schema reads them.

A node remembers where it stood, and keeps numbers as they were written: `cpu: 1.0` and an environment value of `007`
must reach the user's program with their digits unchanged. `At` is a node together with its path, so that every
refusal and every warning says line and field without the readers having to carry either.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.errors import InvalidInput

#: Deepest nesting that is read: three times what any real file has, and far from the interpreter's own limit.
MAX_DEPTH = 64
MAX_WARNINGS = 200
_LONGEST_STEP = 60
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


class Kind(enum.Enum):
    NULL = "nothing"
    BOOL = "a boolean"
    NUMBER = "a number"
    TEXT = "text"
    LIST = "a list"
    MAP = "a mapping"


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    kind: Kind
    text: str = ""  # of BOOL ("true", "false"), NUMBER (as written) and TEXT
    items: tuple[Node, ...] = ()
    entries: tuple[tuple[str, Node], ...] = ()  # in order, keys unique
    line: int = 0  # 1-based; 0 = there are no lines (JSON)
    #: Nodes in this subtree with aliases counted as often as they are used.
    size: int = 1

    @property
    def empty(self) -> bool:
        """Nothing was said: null, blank text, an empty list or mapping."""
        if self.kind is Kind.TEXT:
            return not self.text.strip()
        return self.kind is Kind.NULL or (self.kind in {Kind.LIST, Kind.MAP} and not (self.items or self.entries))


def check_text(text: str, where: str) -> str:
    """Refuse what cannot be stored or handed to a program: NUL and halves of surrogate pairs."""
    if _NOT_TEXT.search(text):
        raise InvalidInput("holds a NUL or a character that is not valid Unicode", where=where)
    return text


def member_path(path: str, key: str) -> str:
    """Return the path of a member, on one line and of readable length whatever the key is."""
    step = key if key.isprintable() and len(key) <= _LONGEST_STEP else repr(key[:_LONGEST_STEP])
    return f"{path}.{step}" if path else step


def from_object(value: Any, path: str = "", depth: int = 0) -> Node:
    """Turn a JSON value into nodes. Raises InvalidInput for anything that JSON does not have."""
    if depth > MAX_DEPTH:
        raise InvalidInput(f"is nested more than {MAX_DEPTH} levels deep", where=path)
    if isinstance(value, Mapping):
        entries: dict[str, Node] = {}
        for raw, inner in value.items():
            key = check_text(_key_text(raw, path), path or "a key")
            if key in entries:
                raise InvalidInput(f"the key {key[:_LONGEST_STEP]!r} occurs twice", where=path)
            entries[key] = from_object(inner, member_path(path, key), depth + 1)
        return Node(Kind.MAP, entries=tuple(entries.items()))
    if isinstance(value, list | tuple):
        return Node(Kind.LIST, items=tuple(from_object(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)))
    return _leaf(value, path)


def _leaf(value: Any, path: str) -> Node:
    if value is None:
        return Node(Kind.NULL)
    if isinstance(value, bool):
        return Node(Kind.BOOL, text="true" if value else "false")
    if isinstance(value, str):
        return Node(Kind.TEXT, text=check_text(value, path))
    if isinstance(value, int):
        return Node(Kind.NUMBER, text=_integer_text(value, path))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput("is not a finite number", where=path)
        return Node(Kind.NUMBER, text=repr(value))
    raise InvalidInput(f"is a {type(value).__name__}, which JSON does not have", where=path)


def _integer_text(value: int, path: str) -> str:
    try:
        return str(int(value))
    except ValueError as error:  # the interpreter refuses to write integers of thousands of digits
        raise InvalidInput("is a number with too many digits", where=path) from error


def _key_text(key: Any, path: str) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool | int | float):
        return _leaf(key, path).text
    raise InvalidInput("has a key that is not text", where=path)


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A node and where it stands. All `At`s of one parse share the list of warnings."""

    node: Node
    path: str
    warnings: list[str]

    @property
    def where(self) -> str:
        if not self.node.line:
            return self.path
        return f"{self.path} (line {self.node.line})" if self.path else f"line {self.node.line}"

    def refuse(self, message: str) -> InvalidInput:
        return InvalidInput(message, where=self.where)

    def warn(self, message: str) -> None:
        """Add a warning; past a number that nobody reads, one says so and the rest is left out."""
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(f"{self.where}: {message}" if self.where else message)
        elif len(self.warnings) == MAX_WARNINGS:
            self.warnings.append(f"there are more than {MAX_WARNINGS} warnings; the rest is left out")

    @property
    def heard(self) -> bool:
        """Whether another warning would still be kept: what is costly to phrase may be spared otherwise."""
        return len(self.warnings) < MAX_WARNINGS

    def members(self) -> Iterator[tuple[str, At]]:
        for key, node in self.node.entries:
            yield key, At(node, member_path(self.path, key), self.warnings)

    def elements(self) -> Iterator[At]:
        for index, node in enumerate(self.node.items):
            yield At(node, f"{self.path}[{index}]", self.warnings)

    def get(self, key: str) -> At:
        """Return the place of one member, key in any case; a null where there is none."""
        found = self.find(key)
        missing = found is self
        return At(Node(Kind.NULL, line=self.node.line), self.path, self.warnings) if missing else found

    def find(self, *keys: str) -> At:
        """Return the place of a member, keys in any case and list positions as digits; the nearest there is."""
        here = self
        for key in keys:
            if key.isdigit() and here.node.kind is Kind.LIST and int(key) < len(here.node.items):
                here = list(here.elements())[int(key)]
                continue
            match = next((at for name, at in here.members() if name.lower() == key.lower()), None)
            if match is None:
                return here
            here = match
        return here
