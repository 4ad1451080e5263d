"""Lists of answers that become tables: `pandas.DataFrame(client.list_invocations().to_records())`.

Pandas itself is not needed: a record is a plain dict with flat fields, and times are aware datetimes in UTC, which
every table program understands.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from penstock import answers

T = TypeVar("T")


class Listing(list[T]):
    """A list whose items can be had as flat records."""

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dict per item, the same keys in each; None = not known, not yet."""
        return [record(item) for item in self]


def record(item: object) -> dict[str, Any]:
    """Return one answer as a flat dict."""
    if isinstance(item, answers.Invocation):
        return _invocation(item)
    told: dict[str, Any] = dict(item) if isinstance(item, dict) else msgspec.to_builtins(item)
    return {
        name.removesuffix("_ms") if name.endswith("_ms") else name: moment(value) if name.endswith("_ms") else value
        for name, value in told.items()
    }


def _invocation(one: answers.Invocation) -> dict[str, Any]:
    return {
        "id": one.id,
        "function": one.function,
        "phase": one.phase,
        "attempt": one.attempt,
        "bucket": one.bucket,
        "key": one.key,
        "size": one.size,
        "queued": moment(one.queued_ms),
        "started": moment(one.started_ms),
        "finished": moment(one.finished_ms),
        "waited_s": _seconds(one.queued_ms, one.started_ms),
        "ran_s": _seconds(one.started_ms, one.finished_ms),
        "exit_code": one.exit_code,
        "error": one.error,
        "reason": one.reason,
        "outputs": len(one.outputs),
        "output_bytes": sum(output.size for output in one.outputs),
    }


def moment(milliseconds: object) -> datetime | None:
    """Return a time in UTC; None for 0, which means not yet."""
    if not isinstance(milliseconds, int) or not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def _seconds(begin_ms: int, end_ms: int) -> float | None:
    return (end_ms - begin_ms) / 1000 if begin_ms and end_ms else None
