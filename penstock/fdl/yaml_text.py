"""YAML text into nodes with line numbers, by libyaml.

libyaml and not PyYAML's own scanner: shipped FDL files have a TAB after a scalar, which the latter refuses. The nodes
are built from parser *events* in one loop without recursion, so that hostile nesting and aliases cost a sentence, not
the process: depth and the size after expanding aliases are bounded, aliases cannot form cycles.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from penstock.errors import InvalidInput, Unsupported
from penstock.fdl.tree import MAX_DEPTH, Kind, Node, check_text

MAX_CHARACTERS = 4 * 1024 * 1024
#: Nodes of one document with aliases expanded; a thousand functions have some 40,000.
MAX_NODES = 200_000

_CORE = "tag:yaml.org,2002:"
_NUMBERS = {_CORE + "int", _CORE + "float"}
_COLLECTIONS = {_CORE + "map", _CORE + "seq"}
_TEXTUAL = {_CORE + "str", _CORE + "timestamp", _CORE + "value", _CORE + "merge"}


def read_yaml(text: str | bytes) -> Node:
    """Return the one document in `text`. Raises InvalidInput that names the line."""
    source = _decoded(text)
    loader_class = getattr(yaml, "CSafeLoader", None)
    if loader_class is None:
        raise Unsupported("PyYAML was installed without libyaml, which reading FDL needs; install a wheel of PyYAML")
    try:
        loader = loader_class(source)
        try:
            return _Builder(loader).document()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise InvalidInput(_explain(error), where=_line_of(error)) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"is not YAML: {str(error).splitlines()[0]}") from error


def _decoded(text: str | bytes) -> str:
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(f"the document is larger than {MAX_CHARACTERS // 2**20} MiB")
    if isinstance(text, str):
        source = text
    else:
        try:
            source = text.decode("utf-8")
        except UnicodeDecodeError as error:
            line = text[: error.start].count(b"\n") + 1
            raise InvalidInput("is not UTF-8 text", where=f"line {line}") from error
    return check_text(source.removeprefix("\ufeff"), "")


def _line_of(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}" if mark else ""


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or "cannot be parsed")
    if "cannot start any token" in problem:
        return "is not valid YAML: a TAB in the indentation (use blanks), or text that begins with @ or ` (quote it)"
    text = f"is not valid YAML: {problem}"
    if error.context:
        text += f" ({error.context}"
        text += f" that began on line {error.context_mark.line + 1})" if error.context_mark else ")"
    if "block" in str(error.context) or "mapping values" in problem:
        text += "; check the indentation of this line and the ones above it"
    return text


@dataclasses.dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    kind: Kind
    line: int
    anchor: str | None
    items: list[Node] = dataclasses.field(default_factory=list)
    entries: dict[str, Node] = dataclasses.field(default_factory=dict)
    merged: list[Node] = dataclasses.field(default_factory=list)
    #: The key whose value comes next, its line, and whether it was a plain `<<`.
    key: tuple[str, int, bool] | None = None
    size: int = 1


class _Builder:
    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._root: Node | None = None

    def document(self) -> Node:
        while self._loader.check_event():
            event = self._loader.get_event()
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                if self._root is not None:
                    raise InvalidInput(
                        "a second YAML document begins; an FDL file holds one, so put all functions into one "
                        "`functions` section",
                        where=f"line {line}",
                    )
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event, line)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event.anchor, line)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
        return self._root if self._root is not None else Node(Kind.NULL, line=1)

    def _begin(self, event: Any, line: int) -> None:
        _known_tag(event.tag, line)
        if len(self._stack) >= MAX_DEPTH:
            raise InvalidInput(f"is nested more than {MAX_DEPTH} levels deep", where=f"line {line}")
        parent = self._stack[-1] if self._stack else None
        if parent is not None and parent.kind is Kind.MAP and parent.key is None:
            raise InvalidInput("a list or mapping cannot be a key", where=f"line {line}")
        kind = Kind.MAP if isinstance(event, yaml.MappingStartEvent) else Kind.LIST
        self._stack.append(_Open(kind, line, event.anchor))

    def _end(self) -> None:
        done = self._stack.pop()
        for source in done.merged:  # YAML 1.1 `<<`: own keys win, then the earlier of several sources
            for key, node in source.entries:
                done.entries.setdefault(key, node)
        node = Node(
            done.kind, items=tuple(done.items), entries=tuple(done.entries.items()), line=done.line, size=done.size
        )
        self._add(node, done.anchor)

    def _scalar(self, event: Any, line: int) -> None:
        value = check_text(event.value, f"line {line}")
        parent = self._stack[-1] if self._stack else None
        if parent is not None and parent.kind is Kind.MAP and parent.key is None:
            merge = value == "<<" and event.implicit[0]
            if value in parent.entries and not merge:
                raise InvalidInput(f"the key {value[:60]!r} occurs twice in the same mapping", where=f"line {line}")
            if event.anchor:
                self._anchors[event.anchor] = Node(Kind.TEXT, text=value, line=line)
            parent.key = (value, line, merge)
            return
        # The mark of a value that is not there is that of whatever follows it: the key's line is what people look for.
        if not value and parent is not None and parent.key is not None:
            line = parent.key[1]
        tag = event.tag or self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        self._add(_leaf(tag, value, line), event.anchor)

    def _alias(self, anchor: str | None, line: int) -> None:
        node = self._anchors.get(anchor or "")
        if node is None:
            raise InvalidInput(f"the alias *{anchor} refers to nothing that ended above it", where=f"line {line}")
        parent = self._stack[-1] if self._stack else None
        if parent is not None and parent.kind is Kind.MAP and parent.key is None:
            raise InvalidInput("an alias cannot be a key here", where=f"line {line}")
        self._add(node, None)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = node
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.size += node.size
        if parent.size > MAX_NODES:
            raise InvalidInput(f"holds more than {MAX_NODES} values, aliases expanded")
        if parent.kind is Kind.LIST:
            parent.items.append(node)
            return
        assert parent.key is not None, "a value follows its key"
        key, line, merge = parent.key
        parent.key = None
        if merge:
            parent.merged.extend(_merge_sources(node, line))
        else:
            parent.entries[key] = node


def _merge_sources(node: Node, line: int) -> tuple[Node, ...]:
    sources = node.items if node.kind is Kind.LIST else (node,)
    if any(source.kind is not Kind.MAP for source in sources):
        raise InvalidInput("`<<` takes a mapping or a list of mappings", where=f"line {line}")
    return sources


def _known_tag(tag: str | None, line: int) -> None:
    if tag not in {None, "!"} and tag not in _COLLECTIONS:
        raise InvalidInput(f"the YAML tag {tag!r} is not supported; remove it", where=f"line {line}")


def _leaf(tag: str, value: str, line: int) -> Node:
    if tag == _CORE + "null":
        return Node(Kind.NULL, line=line)
    if tag == _CORE + "bool":
        # Only true and false are unmistakable: `on`, `no` and the like stay the words they are where text is wanted.
        if value.lower() in {"true", "false"}:
            return Node(Kind.BOOL, text=value.lower(), line=line)
        return Node(Kind.TEXT, text=value, line=line)
    if tag in _NUMBERS:
        return Node(Kind.NUMBER, text=value, line=line)
    if tag in _TEXTUAL or tag == "!":
        return Node(Kind.TEXT, text=value, line=line)
    raise InvalidInput(f"the YAML tag {tag!r} is not supported; remove it", where=f"line {line}")
