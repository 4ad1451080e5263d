"""Node expressions of requests, such as `zone in ["a", "b"] && !(gpu == "yes")`, as what Kubernetes can match.

The language is CLUES's without arithmetic, on any label key (`kubernetes.io/arch` too, which CLUES cannot read). An
expression becomes node affinity terms, so that the engine and the scheduler of the cluster mean the same by it. What
cannot be said that way is refused with its place, never silently "no match".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from penstock.errors import InvalidInput
from scaler.model import Requirement

#: Any of the terms, all of its requirements.
Terms = tuple[tuple[Requirement, ...], ...]

MOST_TERMS = 64
_DEEPEST = 40
_LONGEST = 2000
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"[^"]*"|'[^']*')|(?P<sign>&&|\|\||==|!=|<=|>=|[<>!()\[\],])|(?P<word>[A-Za-z0-9_./-]+))"""
)
_NUMBER = re.compile(r"([0-9]+)([kmgtp]b)?", re.IGNORECASE)
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "kb", "mb", "gb", "tb", "pb"))}
_NOT = {"+", "-", "*", "/", "subset"}


class _Token(NamedTuple):
    text: str
    at: int
    string: bool = False


def parse_expressions(texts: Sequence[str], *, where: str = "expressions") -> Terms:
    """All of the expressions together. No text = no condition = (). Raises InvalidInput, naming text and place."""
    terms: Terms = ((),)
    for number, text in enumerate(texts):
        place = f"{where}[{number}]" if len(texts) > 1 else where
        if len(text) > _LONGEST:
            raise InvalidInput(f"is longer than {_LONGEST} characters", where=place)
        terms = _both(terms, _Parser(text, place).whole(), place)
    return () if terms == ((),) else terms


class _Parser:
    """Recursive descent: or, and, not, comparison. Negation is pushed down to the comparisons as it is read."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def _split(self) -> list[_Token]:
        tokens, at = [], 0
        text = self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._wrong(f"{text[at:].lstrip()[:20]!r} cannot be read", at)
            if match["string"]:
                tokens.append(_Token(match["string"][1:-1], at, string=True))
            else:
                tokens.append(_Token(match["sign"] or match["word"], at))
            at = match.end()
        return tokens

    def _wrong(self, what: str, at: int) -> InvalidInput:
        return InvalidInput(f"{what} (character {at + 1})", where=self._where)

    def _peek(self) -> str:
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        return "" if token is None or token.string else token.text

    def _take(self) -> _Token:
        if self._next >= len(self._tokens):
            raise self._wrong("something is missing at the end", len(self._text))
        self._next += 1
        return self._tokens[self._next - 1]

    def _expect(self, sign: str) -> None:
        token = self._take()
        if token.string or token.text != sign:
            raise self._wrong(f"{sign!r} is expected, not {token.text!r}", token.at)

    def whole(self) -> Terms:
        if not self._tokens:
            raise InvalidInput("is empty", where=self._where)
        terms = self._either(negated=False)
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            hint = "; arithmetic and subset are not known here" if token.text in _NOT else ""
            raise self._wrong(f"'&&' or '||' is expected, not {token.text!r}{hint}", token.at)
        return terms

    def _either(self, *, negated: bool) -> Terms:
        found = self._all(negated=negated)
        while self._peek() == "||":
            self._take()
            more = self._all(negated=negated)
            found = _both(found, more, self._where) if negated else _any(found, more, self._where)
        return found

    def _all(self, *, negated: bool) -> Terms:
        found = self._one(negated=negated)
        while self._peek() == "&&":
            self._take()
            more = self._one(negated=negated)
            found = _any(found, more, self._where) if negated else _both(found, more, self._where)
        return found

    def _one(self, *, negated: bool) -> Terms:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InvalidInput(f"is nested deeper than {_DEEPEST}", where=self._where)
        if self._peek() == "!":
            self._take()
            found = self._one(negated=not negated)
        elif self._peek() == "(":
            self._take()
            found = self._either(negated=negated)
            self._expect(")")
        else:
            found = ((self._comparison(negated=negated),),)
        self._depth -= 1
        return found

    def _comparison(self, *, negated: bool) -> Requirement:
        token = self._take()
        if token.string or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", token.text):
            raise self._wrong(f"the key of a label is expected, not {token.text!r}", token.at)
        key, operator = token.text, self._peek()
        if operator not in {"==", "!=", "<", ">", "<=", ">=", "in"}:
            return Requirement(key, "DoesNotExist" if negated else "Exists")
        self._take()
        if operator == "in":
            return Requirement(key, "NotIn" if negated else "In", self._list())
        value = self._value()
        if operator in {"==", "!="}:
            alike = (operator == "==") != negated
            return Requirement(key, "In" if alike else "NotIn", (value.text,))
        return self._order(key, operator, value, negated=negated)

    def _order(self, key: str, operator: str, value: _Token, *, negated: bool) -> Requirement:
        match = _NUMBER.fullmatch(value.text)
        if match is None:
            raise self._wrong(f"a whole number is expected after {operator!r}, not {value.text!r}", value.at)
        number = int(match[1][:30]) * _UNITS[(match[2] or "").lower()]
        if negated:
            operator = {"<": ">=", ">=": "<", ">": "<=", "<=": ">"}[operator]
        # Kubernetes knows strictly more and strictly less of whole numbers.
        if operator in {">", ">="}:
            return Requirement(key, "Gt", (str(number - (operator == ">=")),))
        return Requirement(key, "Lt", (str(number + (operator == "<=")),))

    def _value(self) -> _Token:
        token = self._take()
        if not token.string and not re.fullmatch(r"[A-Za-z0-9_.-]+", token.text):
            raise self._wrong(f"a value is expected, not {token.text!r}", token.at)
        return token

    def _list(self) -> tuple[str, ...]:
        self._expect("[")
        values = [self._value().text]
        while self._peek() == ",":
            self._take()
            values.append(self._value().text)
        self._expect("]")
        return tuple(values)


def _any(one: Terms, other: Terms, where: str) -> Terms:
    return _few((*one, *(term for term in other if term not in one)), where)


def _both(one: Terms, other: Terms, where: str) -> Terms:
    if len(one) * len(other) > MOST_TERMS:
        raise _too_many(where)
    joined = ((*left, *(each for each in right if each not in left)) for left in one for right in other)
    return _few(tuple(dict.fromkeys(joined)), where)


def _few(terms: Terms, where: str) -> Terms:
    if len(terms) > MOST_TERMS:
        raise _too_many(where)
    return terms


def _too_many(where: str) -> InvalidInput:
    return InvalidInput(f"comes down to more than {MOST_TERMS} alternatives; ask for less at once", where=where)
