"""How conditions on nodes are written for people: the way back from affinity to an expression. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scaler.model import Requirement


def expression_of(terms: Sequence[Sequence[Requirement]]) -> str:
    """An expression that `scaler.interface.expressions` reads back to the same terms; "" = no condition."""
    written = [" && ".join(_requirement(one) for one in term) for term in terms]
    if len(written) == 1:
        return written[0]
    return " || ".join(f"({text})" if " && " in text else text for text in written)


def _requirement(one: Requirement) -> str:
    values = ", ".join(_value(value) for value in one.values)
    match one.operator:
        case "Exists":
            return one.key
        case "DoesNotExist":
            return f"!{one.key}"
        case "Gt" | "Lt":
            return f"{one.key} {'>' if one.operator == 'Gt' else '<'} {one.values[0]}"
        case "In" if len(one.values) == 1:
            return f"{one.key} == {values}"
        case "NotIn" if len(one.values) == 1:
            return f"{one.key} != {values}"
        case "In":
            return f"{one.key} in [{values}]"
        case _:
            return f"!({one.key} in [{values}])"


def _value(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'
