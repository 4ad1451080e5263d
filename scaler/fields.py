"""A mapping of a configuration being read, field by field: every mistake is one sentence with the field's path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from penstock.errors import InvalidInput

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Fields:
    """A mapping being read: what is left over at the end is a mistake, with the nearest right name."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise InvalidInput("must be a mapping of names to values", where=where or "the file")
        # YAML reads a bare "off" as false; here it is the name of a power.
        self._left: dict[str, Any] = {"off" if key is False else str(key): entry for key, entry in value.items()}
        self._where = where
        self._asked: list[str] = []

    def __contains__(self, name: str) -> bool:
        return self._left.get(name) is not None

    def path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def take(self, name: str, default: Any) -> Any:
        self._asked.append(name)
        return self._left.pop(name, default)

    def need(self, name: str, what: str) -> Any:
        value = self.take(name, None)
        if value is None:
            raise InvalidInput(f"is missing; give {what}", where=self.path(name))
        return value

    def sequence(self, name: str) -> list[Any]:
        value = self.take(name, [])
        if not isinstance(value, list):
            raise InvalidInput("must be a list", where=self.path(name))
        return value

    def whole(self, name: str, default: int) -> int:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidInput(f"{value!r} is not a whole number of 0 or more", where=self.path(name))
        return value

    def number(self, name: str, default: float) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise InvalidInput(f"{value!r} is not a number of 0 or more", where=self.path(name))
        return float(value)

    def time(self, name: str, default_ms: int) -> int:
        value = self.take(name, None)
        return default_ms if value is None else parse_time(value, where=self.path(name))

    def done(self) -> None:
        for name in self._left:
            near = difflib.get_close_matches(name, self._asked, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(self._asked)}"
            raise InvalidInput(f"is not a field here; {hint}", where=self.path(name))


def parse_time(value: object, *, where: str) -> int:
    """Milliseconds from seconds or from text with a unit. Raises InvalidInput."""
    right = 'give 0 or more seconds, or a text like "90s", "5m" or "2h"'
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value < 10**12:
            raise InvalidInput(f"{value!r} is negative or too large; {right}", where=where)
        return round(value * 1000)
    match = (
        re.fullmatch(r"\s*(-?[0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d)\s*", value)
        if isinstance(value, str)
        else None
    )
    if match is None:
        raise InvalidInput(f"{value!r} is not a time; {right}", where=where)
    if match[1].startswith("-"):
        raise InvalidInput(f"{value!r} is negative; {right}", where=where)
    return round(float(match[1]) * _UNITS[match[2]])
