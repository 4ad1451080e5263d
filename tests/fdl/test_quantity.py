from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.quantity import LARGEST, cpu_millis, format_bytes, format_cpu, memory_bytes, parse_quantity

FACTORS = {
    **{suffix: Fraction(10) ** power for suffix, power in zip("num", (-9, -6, -3), strict=True)},
    **{suffix: Fraction(10) ** power for suffix, power in zip("kMGTPE", range(3, 19, 3), strict=True)},
    **{f"{suffix}i": Fraction(2) ** power for suffix, power in zip("KMGTPE", range(10, 61, 10), strict=True)},
    "": Fraction(1),
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.2", "0.2"),
        (" 256Mi ", "268435456"),
        ("1E", "1000000000000000000"),
        ("1E3", "1000"),
        ("1e-3", "0.001"),
        ("5.", "5"),
        (".5", "0.5"),
        ("-1m", "-0.001"),
        ("+2Ki", "2048"),
        ("1n", "0.000000001"),
        ("9223372036854775807", "9223372036854775807"),
    ],
)
def test_known_values(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["", "Mi", "1 Gi", "1MB", "1K", "1mi", "0x10", "1_000", "1,5", "nan", "inf", "1e", "\u0661"]
)
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        memory_bytes(text, where="memory")
    assert caught.value.message == f'memory: {text!r} is not a quantity; write it like "0.5", "500m", "256Mi" or "1Gi"'
    assert caught.value.where == "memory"


@pytest.mark.parametrize("text", ["8Ei", "9223372036854775808", "10E", "-8.1Ei", "1e30"])
def test_what_64_bits_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="larger than a quantity can be"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["1e31", "1e-31", "1E999"])
def test_exponents_are_bounded_before_they_cost_memory(text: str) -> None:
    with pytest.raises(InvalidInput, match="exponent beyond 30"):
        parse_quantity(text)


def test_a_text_of_many_digits_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_quantity("1" * 10_000)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("read", [cpu_millis, memory_bytes])
def test_resources_are_not_negative(read: object) -> None:
    with pytest.raises(InvalidInput, match="'-1' is negative"):
        read("-1")  # type: ignore[operator]  # both functions of the table are callable


def test_a_cpu_count_beyond_64_bits_of_millis_is_refused() -> None:
    with pytest.raises(InvalidInput, match="larger than"):
        cpu_millis("9E")


def test_rounding_is_upwards_as_in_the_api() -> None:
    assert cpu_millis("0.0001") == 1
    assert cpu_millis("1500u") == 2
    assert memory_bytes("100m") == 1
    assert memory_bytes("1.5Ki") == 1536
    assert cpu_millis("0") == 0


@given(
    digits=st.from_regex(r"[0-9]{1,6}(\.[0-9]{0,9})?", fullmatch=True),
    suffix=st.sampled_from(sorted(FACTORS)),
)
def test_values_are_exact(digits: str, suffix: str) -> None:
    exact = Fraction(digits.rstrip(".")) * FACTORS[suffix]
    if exact > LARGEST:
        with pytest.raises(InvalidInput):
            parse_quantity(digits + suffix)
        return
    assert Fraction(parse_quantity(digits + suffix)) == exact
    assert memory_bytes(digits + suffix) == -(-exact.numerator // exact.denominator)


@given(st.integers(0, LARGEST))
def test_bytes_are_written_and_read_back(count: int) -> None:
    assert memory_bytes(format_bytes(count)) == count


@given(st.integers(0, 2**10), st.integers(0, 5))
def test_bytes_are_written_with_the_largest_suffix(count: int, power: int) -> None:
    text = format_bytes(count * 1024**power)
    assert memory_bytes(text) == count * 1024**power
    assert len(text) <= len(str(count)) + 2


@given(st.integers(0, LARGEST))
def test_cpu_is_written_and_read_back(millis: int) -> None:
    assert cpu_millis(format_cpu(millis)) == millis


@given(st.text())
def test_any_text_gives_a_value_or_invalid_input(text: str) -> None:
    try:
        value = parse_quantity(text)
    except InvalidInput:
        return
    assert abs(value) <= LARGEST
