"""How one value of the FDL is read: leniently, and always to the same Python type.

Each reader takes a place (`At`) and returns a plain value, or raises InvalidInput that names field and line. Leniency
lives here alone, so that a file, the API's JSON and every section of both behave alike: numbers and booleans become
text where text is wanted, text becomes a number or boolean where that is wanted, one value becomes a list of one, and
nothing at all (null, "", {}, []) is the default. Unknown keys are warned about and dropped.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from penstock.fdl.tree import At, Kind, Node
from penstock.quantity import memory_bytes, parse_quantity

Reader = Callable[[At], Any]

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_LONGEST_NUMBER = 40
#: Inputs, outputs or replicas of one service: far beyond use, and checks compare them with each other.
MAX_RECORDS = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One known key: how it is read, and what it is when absent."""

    read: Reader
    default: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys, matched in any case. Reads to a dict that has every known key."""

    keys: Mapping[str, Key]
    #: Other names in use, in lower case, and the key each stands for.
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, at: At) -> dict[str, Any]:
        mapping(at)
        values = {name: _copied(key.default) for name, key in self.keys.items()}
        names = {name.lower(): name for name in self.keys}
        seen: dict[str, str] = {}
        for written, member in at.members():
            name = names.get(written.lower())
            if name is None and written.lower() in self.aliases:
                name = self.aliases[written.lower()]
                member.warn(f"`{written}` is read as `{name}`")
            if name is None:
                member.warn(
                    f"unknown key {key_name(written)}, ignored{_suggestion(written, names) if at.heard else ''}"
                )
                continue
            if name in seen:
                raise member.refuse(f"{key_name(written)} and `{seen[name]}` are the same key; keep one of them")
            seen[name] = written
            if not member.node.empty:
                value = self.keys[name].read(member)
                values[name] = _copied(self.keys[name].default) if value is None else value
        return values

    def __iter__(self) -> Iterator[tuple[str, Key]]:
        return iter(self.keys.items())


@dataclasses.dataclass(frozen=True, slots=True)
class ListOf:
    """A list of records. A single mapping stands for a list of one."""

    element: Record

    def __call__(self, at: At) -> list[dict[str, Any]]:
        return [self.element(place) for place in record_places(at)]


def record_places(at: At) -> list[At]:
    """Return the places of the records that `ListOf` reads, one for each; empty ones have none."""
    if at.node.empty:
        return []
    if at.node.kind is Kind.MAP:
        return [at]
    if at.node.kind is not Kind.LIST:
        raise at.refuse(f"must be a list of mappings, not {at.node.kind.value}")
    if len(at.node.items) > MAX_RECORDS:
        raise at.refuse(f"has more than {MAX_RECORDS} entries")
    return [item for item in at.elements() if not item.node.empty]


def _copied(default: Any) -> Any:
    return default.copy() if isinstance(default, dict | list) else default


def _suggestion(written: str, names: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(written.lower()[:60], names, n=1, cutoff=0.75)
    return f"; did you mean `{names[close[0]]}`?" if close else ""


def key_name(written: str) -> str:
    """Write a key for a message, whatever it holds."""
    return f"`{written}`" if written.isprintable() and len(written) <= 60 else repr(written[:60])


def mapping(at: At) -> At:
    if at.node.kind is not Kind.MAP:
        raise at.refuse(f"must be a mapping, not {at.node.kind.value}")
    return at


def scalar(at: At, wanted: str) -> At:
    """Return the place of a single value; a list of one stands for its item, with a warning."""
    if at.node.kind is Kind.LIST and len(at.node.items) == 1:
        inner = next(at.elements())
        if inner.node.kind not in {Kind.LIST, Kind.MAP}:
            at.warn(f"a list of one stands for its item; write it without the list ({wanted} is wanted)")
            return inner
    if at.node.kind in {Kind.LIST, Kind.MAP}:
        raise at.refuse(f"must be {wanted}, not {at.node.kind.value}")
    return at


def text(at: At) -> str:
    return scalar(at, "text").node.text


def trimmed(at: At) -> str:
    return text(at).strip()


def boolean(at: At) -> bool | None:
    value = scalar(at, "true or false").node
    word = value.text.strip().lower()
    if value.kind is Kind.NULL or not word:
        return None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise at.refuse(f"must be true or false, not {shown(value)}")


def integer(low: int, high: int, *, zero_is_default: bool = False) -> Reader:
    """Read a whole number between `low` and `high`; with `zero_is_default` 0 says nothing, as clients send it."""

    def read(at: At) -> int | None:
        value = scalar(at, "a whole number").node
        word = value.text.strip()
        if value.kind is Kind.NULL or not word:
            return None
        if value.kind is Kind.BOOL or not _INTEGER.fullmatch(word):
            raise at.refuse(f"must be a whole number, not {shown(value)}")
        parsed = int(word.partition(".")[0])
        if parsed == 0 and zero_is_default:
            return None
        if not low <= parsed <= high:
            raise at.refuse(f"must be between {low} and {high}, not {parsed}")
        return parsed

    return read


def number(low: float, high: float, *, above_low: bool = False) -> Reader:
    """Read a number; a whole one comes back as int so that it is written as it was given."""

    def read(at: At) -> float | None:
        value = scalar(at, "a number").node
        word = value.text.strip()
        if value.kind is Kind.NULL or not word:
            return None
        if value.kind is Kind.BOOL or len(word) > _LONGEST_NUMBER or not _NUMBER.fullmatch(word):
            raise at.refuse(f"must be a number, not {shown(value)}")
        return _in_range(at, float(word), low, high, above_low=above_low)

    return read


def duration(low: float, high: float, *, above_low: bool = False) -> Reader:
    """Read seconds: a number, or text such as `90s`, `10m`, `1h30m`."""

    def read(at: At) -> float | None:
        value = scalar(at, "a duration").node
        word = value.text.strip().lower()
        if value.kind is Kind.NULL or not word:
            return None
        fits = value.kind is not Kind.BOOL and len(word) <= _LONGEST_NUMBER
        if fits and _NUMBER.fullmatch(word):
            return _in_range(at, float(word), low, high, above_low=above_low)
        if not fits or not _DURATION.fullmatch(word):
            raise at.refuse(f"must be seconds or a duration such as 90s, 10m or 1h30m, not {shown(value)}")
        parts = _DURATION_PART.findall(word)
        seconds = sum((Decimal(count) * _SECONDS[unit] for count, unit in parts), Decimal(0))
        return _in_range(at, float(seconds), low, high, above_low=above_low)

    return read


def _in_range(at: At, value: float, low: float, high: float, *, above_low: bool) -> float:
    if not low <= value <= high or (above_low and value == low):
        begin = f"above {low} and at most" if above_low else f"between {low} and"
        raise at.refuse(f"must be {begin} {high}, not {int(value) if value.is_integer() else value}")
    return int(value) if value.is_integer() else value


def choice(*allowed: str) -> Reader:
    """Read one of `allowed`, any case, to its spelling there."""

    def read(at: At) -> str | None:
        value = scalar(at, "one word").node
        word = value.text.strip()
        if not word:
            return None
        match = next((option for option in allowed if option.lower() == word.lower()), None)
        if match is None:
            raise at.refuse(f"must be {alternatives(allowed)}, not {shown(value)}")
        return match

    return read


def quantity(*, positive: bool = True) -> Reader:
    """Read a Kubernetes quantity to its text. Raises InvalidInput for one that is not, or not above zero."""

    def read(at: At) -> str | None:
        word = scalar(at, "a quantity").node.text.strip()
        if not word:
            return None
        value = parse_quantity(word, where=at.where)
        if value < 0 or (positive and value == 0):
            raise at.refuse(f"must be above zero, not {word}")
        return word

    return read


def byte_count(at: At) -> int | None:
    word = scalar(at, "a number of bytes").node.text.strip()
    return memory_bytes(word, where=at.where) if word else None


def text_list(at: At) -> list[str]:
    """Read a list of texts, trimmed and without blank ones; a single value stands for a list of one."""
    items = at.elements() if at.node.kind is Kind.LIST else iter([at])
    words = (text(item).strip() for item in items)
    return [word for word in words if word]


def filters(at: At) -> list[str]:
    """Read name filters. Blanks are part of a name; an empty filter accepts every name, so the whole list does."""
    items = at.elements() if at.node.kind is Kind.LIST else iter([at])
    words = [text(item) for item in items if item.node.kind is not Kind.NULL]
    if "" in words:
        at.warn('an empty filter "" accepts every name, so this list filters nothing')
        return []
    return words


def ports(at: At) -> list[int]:
    """Read one port or a list of them; zeros are kept here, since in `nodePort` one means "any"."""
    items = at.elements() if at.node.kind is Kind.LIST else iter([at])
    read = integer(0, 65535)
    return [value for value in (read(item) for item in items) if value is not None]


def text_map(at: At) -> dict[str, str]:
    """Read a free mapping: keys keep their case, values become text, null is empty text."""
    mapping(at)
    return {key: text(member) for key, member in at.members()}


def environment_map(at: At) -> dict[str, str]:
    """Read environment variables: as `text_map`, and a list or mapping becomes its JSON text."""
    values: dict[str, str] = {}
    for key, member in mapping(at).members():
        if not key or "=" in key:
            raise member.refuse(f"{key[:60]!r} cannot be the name of an environment variable")
        node = member.node
        one = len(node.items) == 1 and node.items[0].kind not in {Kind.LIST, Kind.MAP}
        if node.kind in {Kind.LIST, Kind.MAP} and not one:
            member.warn(f"{node.kind.value} becomes its JSON text; quote it to choose the text yourself")
            values[key] = json.dumps(plain(node), ensure_ascii=False)
        else:
            values[key] = text(member)
    return values


def plain(node: Node) -> Any:
    """Return a node as JSON has it: numbers as numbers where JSON can write them."""
    if node.kind is Kind.MAP:
        return {key: plain(inner) for key, inner in node.entries}
    if node.kind is Kind.LIST:
        return [plain(inner) for inner in node.items]
    if node.kind is Kind.NULL:
        return None
    if node.kind is Kind.BOOL:
        return node.text == "true"
    if node.kind is Kind.NUMBER and len(node.text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(node.text):
        number_value = int(node.text) if node.text.lstrip("+-").isdigit() else float(node.text)
        return number_value if math.isfinite(number_value) else node.text
    return node.text


def alternatives(options: tuple[str, ...] | list[str]) -> str:
    """Write `a, b or c`."""
    return f"{', '.join(options[:-1])} or {options[-1]}" if len(options) > 1 else options[0]


def shown(node: Node) -> str:
    """Write a value for a message, cut to a length that a terminal shows."""
    return repr(node.text if len(node.text) <= 60 else node.text[:57] + "...")
