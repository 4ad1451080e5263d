"""The runner port: where Jobs run. Contract: `tests/contracts/runner.py`.

* `submit` is idempotent by name: the same plan again is no error and starts nothing twice, also after a restart of the
  runner or of Penstock; a different plan under a taken name raises AlreadyExists.
* Every submitted Job ends in `JobPhase.FINISHED` or `LOST`, reported by `watch` and by `jobs` until `forget`.
* Results of items survive a crash of Penstock at any step, or the item is reported without a result by LOST.
* User code gets its own `environment`, `secrets` and token; no other credential.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

import msgspec

from penstock.model import ItemResult, JobPlan, JobStatus


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner can take now. Embedded: processors and memory; a cluster: pending Jobs."""

    #: Total that may be in use at once; None = not measured here (the cluster's scheduler decides).
    cpu_millis: int | None = None
    memory_bytes: int | None = None
    #: Jobs that may be accepted but not running at once.
    pending_jobs: int = 0
    #: What one item of a function that does not say counts for.
    default_cpu_millis: int = 1000


class Runner(Protocol):
    async def submit(self, plan: JobPlan) -> None:
        """Raises AlreadyExists, InvalidInput (refused for what it says), Unavailable (try again later),
        Forbidden (quota: park the function).
        """
        ...

    def watch(self) -> AsyncIterator[JobStatus]:
        """Changes from now on, in order per Job. One consumer. Ends when the runner is closed."""
        ...

    async def jobs(self) -> list[JobStatus]:
        """Everything submitted and not forgotten, the results known so far included."""
        ...

    async def cancel(self, name: str, *, invocation: str = "", reason: str = "") -> None:
        """Stop a Job, or one item of it (the other items go on). Idempotent; unknown names are no error. The cancelled
        items get a result with `ErrorClass.CANCELLED`.
        """
        ...

    def log(self, name: str, invocation: str, *, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Output of the item so far, from a byte offset; `follow` goes on until the item ends. Raises NotFound."""
        ...

    async def forget(self, name: str) -> None:
        """The final records are durable: remove every trace of the Job. Idempotent."""
        ...

    async def room(self) -> Room: ...

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Stop. Running items get up to `drain_s` seconds to end and are then killed, which is reported as LOST."""
        ...


@runtime_checkable
class KeepsResults(Protocol):
    """A runner whose results outlive its Jobs: what `Runner.jobs` no longer names may still have ended well."""

    async def left_behind(self, plan: JobPlan) -> list[ItemResult]:
        """The durable results of a Job's items, whatever became of the Job. Raises Unavailable: not known now."""
        ...
