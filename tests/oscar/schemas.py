"""Checks values against the JSON Schemas that the document is made of, and refuses a keyword that it does not know.

Small on purpose: what is checked is that answers are what the document says, by an opinion that is not msgspec's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TALK = frozenset({"title", "description", "default", "examples"})
_KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


class Checker:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def problems(self, value: Any, schema: Mapping[str, Any], where: str = "$") -> list[str]:
        """What is wrong, [] = nothing."""
        if "$ref" in schema:
            return self.problems(value, self._named(schema["$ref"]), where)
        found: list[str] = []
        for word, wanted in schema.items():
            if word not in _TALK:
                found += getattr(self, f"_{word.lower()}")(value, wanted, schema, where)
        return found

    def _named(self, reference: str) -> Mapping[str, Any]:
        here: Any = self._document
        for step in reference.removeprefix("#/").split("/"):
            here = here[step]
        assert isinstance(here, dict)
        return here

    def _type(self, value: Any, wanted: str, _: Any, where: str) -> list[str]:
        right = isinstance(value, _KINDS[wanted])
        if isinstance(value, bool) and wanted != "boolean":
            right = False
        return [] if right else [f"{where} is {type(value).__name__}, not {wanted}"]

    def _properties(self, value: Any, wanted: Mapping[str, Any], _: Any, where: str) -> list[str]:
        if not isinstance(value, dict):
            return []
        return [
            problem
            for name, schema in wanted.items()
            if name in value
            for problem in self.problems(value[name], schema, f"{where}.{name}")
        ]

    def _required(self, value: Any, wanted: list[str], _: Any, where: str) -> list[str]:
        if not isinstance(value, dict):
            return []
        return [f"{where} lacks {name}" for name in wanted if name not in value]

    def _additionalproperties(self, value: Any, wanted: Any, schema: Mapping[str, Any], where: str) -> list[str]:
        if not isinstance(value, dict) or wanted is True:
            return []
        others = {name: one for name, one in value.items() if name not in schema.get("properties", {})}
        if wanted is False:
            return [f"{where} has {name}, which is not described" for name in others]
        return [problem for name, one in others.items() for problem in self.problems(one, wanted, f"{where}.{name}")]

    def _items(self, value: Any, wanted: Mapping[str, Any], _: Any, where: str) -> list[str]:
        if not isinstance(value, list):
            return []
        return [
            problem for index, one in enumerate(value) for problem in self.problems(one, wanted, f"{where}[{index}]")
        ]

    def _anyof(self, value: Any, wanted: list[Any], _: Any, where: str) -> list[str]:
        tried = [self.problems(value, schema, where) for schema in wanted]
        return [] if any(not problems for problems in tried) else [f"{where} fits none of {len(wanted)} schemas"]

    def _enum(self, value: Any, wanted: list[Any], _: Any, where: str) -> list[str]:
        return [] if value in wanted else [f"{where} is {value!r}, none of {wanted}"]

    def _minimum(self, value: Any, wanted: float, _: Any, where: str) -> list[str]:
        return [f"{where} is below {wanted}"] if isinstance(value, int | float) and value < wanted else []

    def _maximum(self, value: Any, wanted: float, _: Any, where: str) -> list[str]:
        return [f"{where} is above {wanted}"] if isinstance(value, int | float) and value > wanted else []
