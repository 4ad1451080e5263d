"""SQL texts that write many rows in one statement.

One statement per row is what a bulk write mostly pays for (twice the time of one statement for all, measured). Row
counts are cut into powers of two, so that a handful of prepared statements serves every batch size.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_LARGEST = 128


@functools.lru_cache(maxsize=1024)
def _text(head: str, columns: int, rows: int, tail: str) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return f"{head} VALUES {','.join([row] * rows)} {tail}"


def insert_rows(
    connection: sqlite3.Connection, head: str, columns: int, rows: Sequence[Sequence[Any]], tail: str = ""
) -> int:
    """Run `head VALUES (...), (...) tail` for all rows, in order; returns the last rowid (0 if there are no rows)."""
    last = 0
    start = 0
    while start < len(rows):
        count = min(_LARGEST, 1 << ((len(rows) - start).bit_length() - 1))
        flat = [value for row in rows[start : start + count] for value in row]
        last = connection.execute(_text(head, columns, count, tail), flat).lastrowid or 0
        start += count
    return last


def marks(count: int) -> str:
    """Return "?,?,..." for an IN list."""
    return ",".join("?" * count)


def in_slices(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
