"""How people's times are read and how numbers are shown to them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import formats
from penstock.errors import InvalidInput

NOW = 1_790_000_000_000


@pytest.mark.parametrize(
    ("text", "ago_ms"),
    [
        ("30s", 30_000),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("2d", 172_800_000),
    ],
)
def test_since_reads_how_long_ago(text: str, ago_ms: int) -> None:
    assert formats.since_ms(text, NOW) == NOW - ago_ms


def test_since_reads_iso_times_in_their_own_zone() -> None:
    assert formats.since_ms("2026-05-31T14:30Z", NOW) == 1_780_237_800_000
    assert formats.since_ms("2026-05-31T16:30+02:00", NOW) == 1_780_237_800_000


def test_since_takes_a_date_without_zone_as_local() -> None:
    local = datetime(2026, 5, 31).astimezone()
    assert formats.since_ms("2026-05-31", NOW) == int(local.timestamp() * 1000)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10", "10 m", "m", "10m!", "2026-13-01", "-5m", "99999w", "1900-01-01"]
)
def test_since_refuses_what_is_no_time_in_a_sentence_that_names_the_option(text: str) -> None:
    with pytest.raises(InvalidInput, match="--since"):
        formats.since_ms(text, NOW)


@given(st.integers(min_value=0, max_value=4_000_000_000))
def test_since_reads_back_every_iso_time(seconds: int) -> None:
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    assert formats.since_ms(moment.isoformat(), NOW) == seconds * 1000


@given(st.text())
def test_since_answers_or_refuses_any_text(text: str) -> None:
    try:
        moment = formats.since_ms(text, NOW)
    except InvalidInput as refusal:
        moment = 0 if refusal.where == "--since" else -1
    assert moment >= 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**70, "1024.0 EiB"),
    ],
)
def test_size(number: int | None, text: str) -> None:
    assert formats.size(number) == text


@given(st.integers(min_value=0, max_value=2**60))
def test_size_never_needs_more_than_ten_characters(number: int) -> None:
    assert len(formats.size(number)) <= 10


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (59_940, "59.9 s"),
        (59_960, "1m00s"),
        (90_000_000, "1d01h"),
        (3_599_600, "1h00m"),
        (3_600_000, "1h00m"),
    ],
)
def test_duration(ms: float, text: str) -> None:
    assert formats.duration(ms) == text


@pytest.mark.parametrize(
    ("ago_ms", "text"), [(0, "0s"), (119_000, "119s"), (120_000, "2m"), (7_200_000, "2h"), (3 * 86_400_000, "3d")]
)
def test_age(ago_ms: int, text: str) -> None:
    assert formats.age(NOW - ago_ms, NOW) == text


def test_age_of_what_has_not_come() -> None:
    assert formats.age(0, NOW) == "-"
    assert formats.age(NOW + 5000, NOW) == "0s"


@given(st.text(), st.integers(min_value=3, max_value=100))
def test_clip_gives_one_line_of_at_most_the_width(text: str, width: int) -> None:
    clipped = formats.clip(text, width)
    assert len(clipped) <= width
    assert "\n" not in clipped


def test_clip_keeps_both_ends() -> None:
    assert formats.clip("digits/in/a-very-long-name.png", 15) == "digits/…ame.png"


def test_table_aligns_columns_and_ends_numbers_flush() -> None:
    drawn = formats.table(("NAME", "N"), [("a", "5"), ("longer", "1000")], right=(1,))
    assert drawn == "NAME       N\na          5\nlonger  1000"


def test_table_shows_control_codes_instead_of_obeying_them() -> None:
    drawn = formats.table(("KEY",), [("a\x1b[31mb\nc",)])
    assert drawn.splitlines() == ["KEY", r"a\x1b[31mb\nc"]


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    assert formats.printable(text).isprintable()


def test_printable_copes_with_names_that_are_no_text() -> None:
    assert formats.printable("a\udcffb") == r"a\udcffb"


def test_a_near_name_is_suggested_and_a_far_one_is_not() -> None:
    known = ["digits-classify", "digits-chart"]
    assert formats.close_to("digit-clasify", known) == " Did you mean 'digits-classify'?"
    assert formats.close_to("zebra", known) == ""
