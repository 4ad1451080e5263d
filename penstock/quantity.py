"""Kubernetes quantities ("200m", "1.5", "256Mi"), read and written exactly.

One parser for the whole product, because two that disagree about "1E3" or "0.1" place pods wrongly. Arithmetic is
decimal with enough digits for every text that is accepted, so nothing is rounded except at the very end, upwards, as
the Kubernetes API does.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal, Inexact, InvalidOperation

from penstock.errors import InvalidInput

#: The API server stores quantities in 64 bits.
LARGEST = 2**63 - 1
_LONGEST_TEXT = 64
#: The API knows exponents up to that of E; more digits than these serve nobody and cost memory.
_LARGEST_EXPONENT = 30

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SHAPE = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|(n|u|m|k|[MGTPE]i?|Ki)?)")
# Inexact is trapped: a result that needs more digits than this would be a bug, not something to round.
_EXACT = Context(prec=160, traps=[Inexact, InvalidOperation])


def parse_quantity(text: str, *, where: str = "") -> Decimal:
    """Return the exact value of a quantity, sign included. Raises InvalidInput, naming `where`."""
    stripped = text.strip()
    match = _SHAPE.fullmatch(stripped) if len(stripped) <= _LONGEST_TEXT else None
    if match is None:
        shown = repr(stripped if len(stripped) <= _LONGEST_TEXT else stripped[:_LONGEST_TEXT] + "...")
        raise InvalidInput(f'{shown} is not a quantity; write it like "0.5", "500m", "256Mi" or "1Gi"', where=where)
    digits, exponent, suffix = match.groups(default="")
    number = Decimal(digits)
    if suffix in _BINARY:
        value = _EXACT.multiply(number, Decimal(_BINARY[suffix]))
    else:
        power = int(exponent[1:]) if exponent else _DECIMAL[suffix]
        if abs(power) > _LARGEST_EXPONENT:
            raise InvalidInput(f"{stripped!r} has an exponent beyond {_LARGEST_EXPONENT}", where=where)
        value = _EXACT.scaleb(number, power)
    if abs(value) > LARGEST:
        raise InvalidInput(f"{stripped!r} is larger than a quantity can be (2^63 - 1)", where=where)
    return value


def cpu_millis(text: str, *, where: str = "") -> int:
    """Return thousandths of a core, rounded up; never negative. Raises InvalidInput."""
    return _whole(_EXACT.scaleb(_not_negative(text, where), 3), text, where)


def memory_bytes(text: str, *, where: str = "") -> int:
    """Return bytes, rounded up; never negative. Raises InvalidInput."""
    return _whole(_not_negative(text, where), text, where)


def format_cpu(millis: int) -> str:
    """Write thousandths of a core as Kubernetes does: "2" for whole cores, else "1500m"."""
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def format_bytes(count: int) -> str:
    """Write bytes with the largest binary suffix that loses nothing: "256Mi", "1Gi", "1000"."""
    for suffix, unit in reversed(_BINARY.items()):
        if count and count % unit == 0:
            return f"{count // unit}{suffix}"
    return str(count)


def _not_negative(text: str, where: str) -> Decimal:
    value = parse_quantity(text, where=where)
    if value < 0:
        raise InvalidInput(f"{text.strip()!r} is negative; a quantity of a resource is 0 or more", where=where)
    return value


def _whole(value: Decimal, text: str, where: str) -> int:
    whole = int(value.to_integral_value(rounding=ROUND_CEILING, context=_EXACT_ROUNDING))
    if whole > LARGEST:
        raise InvalidInput(f"{text.strip()!r} is larger than a quantity can be (2^63 - 1)", where=where)
    return whole


# Rounding up to a whole unit is the one place where digits may go.
_EXACT_ROUNDING = Context(prec=160, traps=[InvalidOperation])
