"""When a failed node or pool is tried again: doubling, capped, with jitter that history alone decides. Pure (C12)."""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from penstock.ports import Outcome
from scaler.model import PoolRecord
from scaler.pools import Options

#: Outcomes that say something about the whole pool, not about one machine.
POOL_OUTCOMES = frozenset({Outcome.NO_CAPACITY, Outcome.CREDENTIALS, Outcome.CONFIGURATION})


def backoff_ms(name: str, failures: int, options: Options) -> int:
    """Milliseconds to wait after the nth failure in a row (n from 1): half to whole of the nominal delay.

    The jitter comes from name and count, not from a random source: the same history always gives the same plan, and
    nodes that failed together still come back apart.
    """
    nominal = min(options.backoff_limit_ms, options.backoff_ms << min(max(failures, 1) - 1, 30))
    word = hashlib.sha256(f"{name}/{failures}".encode()).digest()
    return nominal // 2 + nominal * int.from_bytes(word[:4], "big") // 2**33


def pool_failed(record: PoolRecord, outcome: Outcome, now_ms: int, options: Options) -> PoolRecord:
    """The pool's record after an answer of its driver; unchanged when the answer speaks of one machine only."""
    if outcome is Outcome.ACCEPTED:
        return record
    if outcome not in POOL_OUTCOMES:
        return record
    failures = record.failures + 1
    until = now_ms + backoff_ms(f"pool/{record.name}", failures, options)
    return replace(record, failures=failures, backoff_until_ms=until, why=outcome.value)


def pool_worked(record: PoolRecord) -> PoolRecord:
    """A node of the pool came up: nothing is held against it any more."""
    return replace(record, failures=0, backoff_until_ms=0, why="")
