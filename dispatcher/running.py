"""A Job as the dispatcher follows it, from its plan to its last final record."""

from __future__ import annotations

import msgspec

from penstock.model import JobPlan, Record


class Running(msgspec.Struct):
    """A Job from its plan to its end, with the current record of each item."""

    plan: JobPlan
    records: dict[str, Record]
    #: When its submission began, and when the runner had taken it (ms); 0 = not yet, or in an earlier life.
    submitted_ms: int = 0
    taken_ms: int = 0
    #: Start of the item that runs now and the first one of the Job (ms), 0 = none yet.
    current_ms: int = 0
    #: Place in the Job's whole list of the item that runs.
    current: int | None = None
    first_start_ms: int = 0
    not_before_ms: int = 0
    #: The runner has it: submitted (or being submitted) and not ended.
    in_runner: bool = False
    cancel: dict[str, str] = msgspec.field(default_factory=dict)
    #: What it waits for in the cluster, in words, and since when (ms); "" = nothing is wrong.
    waits: str = ""
    waits_ms: int = 0
    #: The same in the runner's one word.
    waits_reason: str = ""

    def running_now(self) -> Record | None:
        """The record of the item that runs; None = none does, or one that had ended before the Job was taken over."""
        # By the place in the Job's whole list: what is left of one that was taken over begins somewhere in it.
        return next(
            (one for one in self.records.values() if one.index == self.current and one.job == self.plan.name), None
        )

    def waited_s(self) -> list[float]:
        """How long each item had been due when the Job was submitted."""
        return [(self.submitted_ms - max(one.queued_ms, one.not_before_ms)) / 1000 for one in self.records.values()]


def note_waiting(stuck: dict[str, dict[str, str]], job: Running, waits: str, now: int, reason: str) -> None:
    """Note what a Job waits for in the cluster, on itself and in `stuck` (by function and Job); "" = nothing."""
    job.waits_reason = reason
    if waits == job.waits:
        return
    if not job.waits or not waits:
        job.waits_ms = now
    job.waits = waits
    of_function = stuck.setdefault(job.plan.function_uid, {})
    if waits:
        of_function[job.plan.name] = waits
    else:
        of_function.pop(job.plan.name, None)
    if not of_function:
        del stuck[job.plan.function_uid]
