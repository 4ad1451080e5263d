"""Jobs that users took off their lists, as small markers in the platform's own bucket.

History is not rewritten for a tidy list: the invocation stays known (so that its object never runs again by accident)
and `/v1` still tells of it, while OSCAR's listings and logs leave it out. One marker hides one job or, for "delete
all", everything of one kind up to a moment, so that ten thousand jobs cost one write. Markers expire with the history.
"""

from __future__ import annotations

import asyncio
import hashlib
import re

import msgspec

from penstock.model import SYSTEM_BUCKET, Function, Phase, Record, Submission
from penstock.ports import ObjectStore

PREFIX = "gateway/removed/"
_SWEEP = re.compile(r"sweep-(\d{1,15})-(succeeded|all)-([0-9a-f]{16}|everybody)")
EVERYBODY = "everybody"


class Sweep(msgspec.Struct, frozen=True):
    """Everything that ended up to a moment: of one user or of everybody, what succeeded or what ended in any way."""

    until_ms: int
    succeeded_only: bool
    whose: str


class Removed(msgspec.Struct, frozen=True):
    """What is hidden of one function."""

    ids: frozenset[str] = frozenset()
    sweeps: tuple[Sweep, ...] = ()

    def hides(self, record: Record) -> bool:
        return record.id in self.ids or any(_swept(record, sweep) for sweep in self.sweeps)


def _swept(record: Record, sweep: Sweep) -> bool:
    if not record.phase.final or record.finished_ms > sweep.until_ms:
        return False
    if sweep.succeeded_only and record.phase is not Phase.SUCCEEDED:
        return False
    return sweep.whose == EVERYBODY or (
        isinstance(record.trigger, Submission) and whose(record.trigger.user) == sweep.whose
    )


def whose(user: str) -> str:
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()[:16]


class RemovedJobs:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def of(self, function: Function) -> Removed:
        ids: set[str] = set()
        sweeps: list[Sweep] = []
        head = f"{PREFIX}{function.uid}/"
        async for page in self._store.list(SYSTEM_BUCKET, head):
            for info in page:
                name = info.key[len(head) :]
                match = _SWEEP.fullmatch(name)
                if match is None:
                    ids.add(name)
                else:
                    sweeps.append(Sweep(int(match[1]), match[2] == "succeeded", match[3]))
        return Removed(frozenset(ids), tuple(sweeps))

    async def hide(self, function: Function, invocation: str) -> None:
        await self._store.write(SYSTEM_BUCKET, f"{PREFIX}{function.uid}/{invocation}", b"")

    async def sweep(self, function: Function, sweep: Sweep) -> None:
        kind = "succeeded" if sweep.succeeded_only else "all"
        name = f"sweep-{sweep.until_ms}-{kind}-{sweep.whose}"
        await self._store.write(SYSTEM_BUCKET, f"{PREFIX}{function.uid}/{name}", b"")

    async def expire(self, before_ms: int) -> int:
        """Drop the markers of a history that is forgotten itself; returns how many."""
        count = 0
        async for page in self._store.list(SYSTEM_BUCKET, PREFIX):
            old = [info.key for info in page if info.arrived_ms < before_ms]
            await asyncio.gather(*(self._store.delete(SYSTEM_BUCKET, key) for key in old))
            count += len(old)
        return count
