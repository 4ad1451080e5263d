"""How numbers, times and names are shown to people and read from them. Pure: `now` is an argument."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches

from penstock.errors import InvalidInput

#: Characters of an invocation id that are shown; what is shown is accepted back.
SHORT = 12

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def since_ms(text: str, now_ms: int) -> int:
    """Read "10m", "1h30m", "2d" (that long ago) or an ISO date or time (local unless it names its zone).

    Returns milliseconds since the epoch. Raises InvalidInput.
    """
    text = text.strip()
    if _DURATION.fullmatch(text):
        ago = sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text))
        if ago > now_ms:
            raise InvalidInput(f"{text!r} lies before 1970", where="--since")
        return now_ms - int(ago)
    try:
        # Without a zone `timestamp` takes the machine's own, which is what a person at a terminal means.
        moment = int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(
            f"{text!r} is no time: give how long ago (10m, 2h, 3d) or a date (2026-05-31, 2026-05-31T14:30)",
            where="--since",
        ) from error
    if moment < 0:
        raise InvalidInput(f"{text!r} lies before 1970", where="--since")
    return moment


def size(number: int | None) -> str:
    """Return bytes as people read them: at most four digits and a unit of 1024."""
    if number is None:
        return "-"
    if number < 1024:
        return f"{number} B"
    value = float(number)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} EiB"


def duration(ms: float) -> str:
    """Return a length of time with two units at most: 40 ms, 3.2 s, 4m10s, 2h05m, 3d04h."""
    if ms < 1000:
        return f"{max(ms, 0):.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def age(moment_ms: int, now_ms: int) -> str:
    """Return how long ago a moment was, in one unit; "-" for one that has not come."""
    if not moment_ms:
        return "-"
    seconds = max(now_ms - moment_ms, 0) / 1000
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        # Two of the smaller unit read better than one of the larger: 90m, 36h.
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def moment(moment_ms: int) -> str:
    """Return a time by the machine's clock and zone; "-" for one that has not come."""
    if not moment_ms:
        return "-"
    return datetime.fromtimestamp(moment_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(identity: str) -> str:
    return identity[:SHORT]


def clip(text: str, width: int) -> str:
    """Return one line of at most `width` characters, its middle left out where it is longer."""
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    head = (width - 1) // 2
    return f"{line[:head]}…{line[len(line) - (width - 1 - head) :]}"


def close_to(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" when one of the known names is near, else an empty text."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return rows as aligned columns, two blanks apart; the columns in `right` are numbers and end flush."""
    cells = [tuple(head), *[tuple(printable(cell) for cell in row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(line(row) for row in cells)


def printable(text: str) -> str:
    """Return text that a terminal shows as it is: keys and messages come from others and may hold control codes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)
