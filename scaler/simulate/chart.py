"""A chart of a simulation as SVG text: machines that are not off over time, one line per policy, and waiting jobs
below.

Written by hand rather than with a plotting library: a few hundred points and two axes are no reason for megabytes of
dependencies, and SVG opens in every browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 960, 420, 60, 40, 40
_POINTS = 800
#: Told apart also by people who do not see all colours, and by their dashes in print.
_COLOURS = ("#0072b2", "#d55e00", "#999999", "#009e73")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
Samples = Sequence[tuple[int, int, int]]


def chart(title: str, series: Sequence[tuple[str, Samples]], end_ms: int) -> str:
    """SVG of series of (time in ms, machines not off, jobs waiting); each value holds until the next."""
    upper, lower = 220, 80
    font = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {font}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    panels = ((1, _TOP, upper, "machines not off"), (2, _TOP + upper + _GAP, lower, "jobs waiting"))
    for column, top, height, label in panels:
        sampled = [_sampled(samples, column, end_ms) for _, samples in series]
        largest = max((value for values in sampled for value in values), default=0) or 1
        parts.append(_axes(top, height, label, largest))
        parts += [_line(values, top, height, largest, number) for number, values in enumerate(sampled)]
    parts.append(_time_axis(_TOP + upper + _GAP + lower, end_ms))
    for number, (name, _) in enumerate(series):
        x = _LEFT + 150 * number
        colour, dash = _COLOURS[number % 4], _DASHES[number % 4]
        parts.append(
            f'<line x1="{x}" y1="32" x2="{x + 24}" y2="32" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/><text x="{x + 30}" y="36">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _sampled(samples: Samples, column: int, end_ms: int) -> list[int]:
    """The largest value in each of equal slices of time: peaks are what one looks for."""
    values = [0] * _POINTS
    current, position = 0, 0
    for point in range(_POINTS):
        until = end_ms * (point + 1) // _POINTS
        peak = current
        while position < len(samples) and samples[position][0] <= until:
            current = samples[position][column]
            peak = max(peak, current)
            position += 1
        values[point] = peak
    return values


def _line(values: list[int], top: int, height: int, largest: int, number: int) -> str:
    width = _WIDTH - _LEFT - 20
    points = " ".join(
        f"{_LEFT + width * index / (_POINTS - 1):.1f},{top + height - height * value / largest:.1f}"
        for index, value in enumerate(values)
    )
    return (
        f'<polyline fill="none" stroke="{_COLOURS[number % 4]}" stroke-width="1.5" '
        f'stroke-dasharray="{_DASHES[number % 4]}" points="{points}"/>'
    )


def _axes(top: int, height: int, label: str, largest: int) -> str:
    right = _WIDTH - 20
    return (
        f'<path d="M{_LEFT} {top}V{top + height}H{right}" fill="none" stroke="black"/>'
        f'<text x="{_LEFT - 8}" y="{top + 10}" text-anchor="end">{largest}</text>'
        f'<text x="{_LEFT - 8}" y="{top + height}" text-anchor="end">0</text>'
        f'<text x="16" y="{top + height / 2}" transform="rotate(-90 16 {top + height / 2})" '
        f'text-anchor="middle">{label}</text>'
    )


def _time_axis(y: int, end_ms: int) -> str:
    unit, name = (86_400_000, "days") if end_ms > 3 * 86_400_000 else (3_600_000, "hours")
    width = _WIDTH - _LEFT - 20
    marks = [
        f'<text x="{_LEFT + width * part / 4:.0f}" y="{y + 16}" text-anchor="middle">'
        f"{end_ms / unit * part / 4:.1f}</text>"
        for part in range(5)
    ]
    return "".join([*marks, f'<text x="{_WIDTH - 20}" y="{y + 32}" text-anchor="end">{name}</text>'])
