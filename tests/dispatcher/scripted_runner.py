"""A runner whose Jobs end when and how a test says: for outcomes that no real runner can be made to give on demand
(refusals, quota, a Job that vanishes). All else in these tests is real; the real runners have suites of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from penstock.clock import now_ms
from penstock.errors import AlreadyExists, PenstockError
from penstock.model import ErrorClass, ItemResult, JobItem, JobPhase, JobPlan, JobStatus
from penstock.ports import Room

Outcome = Callable[[JobItem], ItemResult]


def succeed(item: JobItem) -> ItemResult:
    return ItemResult(
        invocation=item.invocation, attempt=item.attempt, exit_code=0, started_ms=now_ms() - 20, finished_ms=now_ms()
    )


def fail(error: ErrorClass = ErrorClass.SCRIPT, code: int | None = 3, message: str = "") -> Outcome:
    def outcome(item: JobItem) -> ItemResult:
        return ItemResult(
            invocation=item.invocation,
            attempt=item.attempt,
            error=error,
            exit_code=code,
            message=message or f"ended by {error.value}",
            started_ms=now_ms() - 20,
            finished_ms=now_ms(),
        )

    return outcome


class ScriptedRunner:
    """Implements `penstock.ports.Runner`."""

    def __init__(self, *, slots: int = 2, outcome: Outcome | None = succeed) -> None:
        self.slots = slots
        #: None = Jobs stay until `finish`.
        self.outcome = outcome
        self.refusals: list[PenstockError] = []
        self.plans: dict[str, JobPlan] = {}
        self.statuses: dict[str, JobStatus] = {}
        self.submitted: list[JobPlan] = []
        self.cancelled: list[tuple[str, str]] = []
        self.forgotten: list[str] = []
        self.most_at_once = 0
        self._news: asyncio.Queue[JobStatus | None] = asyncio.Queue()

    async def submit(self, plan: JobPlan) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        if plan.name in self.plans:
            if self.plans[plan.name] != plan:
                raise AlreadyExists(f"another Job is called {plan.name}")
            return
        self.plans[plan.name] = plan
        self.submitted.append(plan)
        self._report(JobStatus(name=plan.name, phase=JobPhase.RUNNING, current=0, time_ms=now_ms()))
        running = sum(status.phase is JobPhase.RUNNING for status in self.statuses.values())
        self.most_at_once = max(self.most_at_once, running)
        if self.outcome is not None:
            self.finish(plan.name, self.outcome)

    def finish(self, name: str, outcome: Outcome = succeed) -> None:
        results = tuple(outcome(item) for item in self.plans[name].items)
        self._report(JobStatus(name=name, phase=JobPhase.FINISHED, results=results, time_ms=now_ms()))

    def go_on(self, name: str, done: int) -> None:
        """So many items of the list have succeeded, and the next one runs."""
        results = tuple(succeed(item) for item in self.plans[name].items[:done])
        self._report(JobStatus(name=name, phase=JobPhase.RUNNING, results=results, current=done, time_ms=now_ms()))

    def publishing(self, name: str) -> None:
        """The scripts of the Job have ended; its outputs are on their way."""
        self._report(JobStatus(name=name, phase=JobPhase.RUNNING, scripts_done=True, time_ms=now_ms()))

    def vanish(self, name: str) -> None:
        """The Job is gone without a word."""
        del self.statuses[name], self.plans[name]

    def lose(self, name: str) -> None:
        self._report(JobStatus(name=name, phase=JobPhase.LOST, message="the node is gone", time_ms=now_ms()))

    def _report(self, status: JobStatus) -> None:
        self.statuses[status.name] = status
        self._news.put_nowait(status)

    async def watch(self) -> AsyncIterator[JobStatus]:
        while (status := await self._news.get()) is not None:
            yield status

    async def jobs(self) -> list[JobStatus]:
        return list(self.statuses.values())

    async def cancel(self, name: str, *, invocation: str = "", reason: str = "") -> None:
        self.cancelled.append((name, invocation))
        if name in self.plans and self.statuses[name].phase is JobPhase.RUNNING:
            self.finish(name, fail(ErrorClass.CANCELLED, None, reason))

    async def log(self, name: str, invocation: str, *, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        yield f"{name} {invocation}\n".encode()[offset:]

    async def forget(self, name: str) -> None:
        self.forgotten.append(name)
        self.statuses.pop(name, None)
        self.plans.pop(name, None)

    async def room(self) -> Room:
        return Room(cpu_millis=self.slots * 1000, memory_bytes=2**40)

    async def close(self, *, drain_s: float = 0.0) -> None:
        self._news.put_nowait(None)
