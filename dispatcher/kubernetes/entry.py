"""One Job in the runner's memory, and what is reported of it. No input or output; `now` is an argument.

The cluster's objects are the truth: an entry is rebuilt from the Job (its items, how it was ended) and its pod.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dispatcher.kubernetes.facts import Job, Pod
from dispatcher.kubernetes.manifest import NOTE_CANCEL, NOTE_ITEMS, decode_items
from dispatcher.kubernetes.results import JobRef, Turn
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.kubernetes.status import End, Standing, stand
from dispatcher.kubernetes.watchdog import Verdict, judge
from penstock.model import ErrorClass, ItemResult, JobPhase, JobStatus

#: On the Job: how Penstock itself ended it (JSON of `Ended`), so that a new life of the dispatcher knows.
NOTE_ENDED = "penstock.dev/ended"
WAITS = Standing(phase=JobPhase.PENDING)


class Ended(msgspec.Struct, frozen=True):
    error: ErrorClass
    message: str


_decode_ended = msgspec.json.Decoder(Ended).decode
_decode_cancelled = msgspec.json.Decoder(dict[str, str]).decode


class Entry:
    def __init__(self, name: str, now: int) -> None:
        self.name = name
        self.uid = ""
        self.digest = ""
        self.generation = ""
        self.function_uid = ""
        self.pod: Pod | None = None
        self.standing = WAITS
        #: None = not known yet: in a ConfigMap that is still to be read.
        self.turns: tuple[Turn, ...] | None = None
        self.run_limit_s = 0.0
        self.results: dict[Turn, ItemResult] = {}
        self.ended: Ended | None = None
        self.cancelled: dict[str, str] = {}
        self.over: JobPhase | None = None
        self.verdict: Verdict | None = None
        self.concluding = False
        #: A `submit` is under way, so the name not being in a list does not mean that it is gone.
        self.submitting = False
        self.submitted_at = float("-inf")
        #: Its list of items is in a ConfigMap.
        self.listed = False
        self._job: Job | None = None
        self._job_gone = False
        self._pod_gone = False
        self._since = (WAITS.phase, WAITS.reason, now)

    # What is heard

    def saw_job(self, job: Job, now: int, *, gone: bool = False) -> None:
        notes = job.metadata.annotations
        self.uid = job.metadata.uid
        self.listed = NOTE_ITEMS not in job.spec.template.metadata.annotations
        if self.turns is None and NOTE_ITEMS in job.spec.template.metadata.annotations:
            items = decode_items(job.spec.template.metadata.annotations[NOTE_ITEMS])
            self.turns = tuple((item.invocation, item.attempt) for item in items)
        if self.ended is None and NOTE_ENDED in notes:
            self.ended = _decode_ended(notes[NOTE_ENDED])
        if NOTE_CANCEL in notes:
            self.cancelled |= _decode_cancelled(notes[NOTE_CANCEL])
        # The items' text is not needed a second time, and a list's may be long.
        job.spec.template.metadata.annotations = {}
        self._job, self._job_gone = job, gone
        self._judge(now)

    def vanished(self, now: int) -> None:
        """It was in the cluster and is no longer."""
        self._job_gone = True
        self._judge(now)

    def saw_pod(self, pod: Pod, now: int, *, gone: bool = False) -> None:
        self.pod, self._pod_gone = pod, gone
        self._judge(now)

    def _judge(self, now: int) -> None:
        self.standing = stand(self._job, self.pod, job_gone=self._job_gone, pod_gone=self._pod_gone)
        state = (self.standing.phase, self.standing.reason)
        if self._since[:2] != state:
            self._since = (*state, now)
        if self._suspended_by_us and self.pod is None:
            self.standing = msgspec.structs.replace(self.standing, end=End.OVER)

    @property
    def _suspended_by_us(self) -> bool:
        return self.ended is not None and self._job is not None and self._job.spec.suspend

    @property
    def pending(self) -> bool:
        return self.over is None and self.standing.phase is JobPhase.PENDING

    # What follows from it

    def look(self, now: int, settings: KubernetesSettings) -> Verdict | None:
        """The watchdog's word; returns it when the Job is to be ended for it now."""
        if self.over is not None or self.ended is not None:
            return None
        self.verdict = judge(
            self.standing, self.pod, since_ms=self._since[2], now=now, run_limit_s=self.run_limit_s, settings=settings
        )
        return self.verdict if self.verdict is not None and self.verdict.error is not None else None

    def ref(self) -> JobRef:
        """What to ask a `ResultSource` for: the turns without a result."""
        missing = tuple(turn for turn in self.turns or () if turn not in self.results)
        return JobRef(self.name, self.function_uid, missing, self.standing)

    def learn(self, found: Iterable[ItemResult]) -> bool:
        """Returns whether something new was among them."""
        before = len(self.results)
        for result in found:
            self.results.setdefault((result.invocation, result.attempt), result)
        return len(self.results) > before

    @property
    def complete(self) -> bool:
        return self.turns is not None and all(turn in self.results for turn in self.turns)

    def conclude(self) -> None:
        """Nothing more will come: settle the items without a result, as far as it is known why they have none."""
        for invocation, attempt in self.turns or ():
            if (invocation, attempt) in self.results:
                continue
            known = self._why(invocation)
            if known is not None:
                error, message = known
                done = self.standing.exit
                self.results[invocation, attempt] = ItemResult(
                    invocation=invocation,
                    attempt=attempt,
                    error=error,
                    message=message,
                    exit_code=done.code if done is not None else None,
                )
        self.over = JobPhase.FINISHED if self.complete else JobPhase.LOST

    def _why(self, invocation: str) -> tuple[ErrorClass, str] | None:
        if invocation in self.cancelled:
            return ErrorClass.CANCELLED, self.cancelled[invocation]
        if self.ended is not None:
            return self.ended.error, self.ended.message
        done = self.standing.exit
        if done is not None and done.never_started:
            return ErrorClass.UNSTARTABLE, self.standing.message
        if done is not None and done.reason == "OOMKilled" and len(self.turns or ()) == 1:
            return ErrorClass.OUT_OF_MEMORY, self.standing.message
        return None

    def status(self, now: int) -> JobStatus:
        reason, message = self.standing.reason, self.standing.message
        if self.ended is not None:
            reason, message = self.ended.error.value, self.ended.message
        elif self.verdict is not None and self.over is None:
            reason, message = self.verdict.reason, self.verdict.message
        phase = self.over or (JobPhase.PENDING if self.standing.phase is JobPhase.PENDING else JobPhase.RUNNING)
        return JobStatus(
            name=self.name,
            phase=phase,
            results=tuple(self.results[turn] for turn in self.turns or () if turn in self.results),
            current=self._current(phase),
            # The launcher ends only after everything was published, so this is true for moments only.
            scripts_done=self.standing.end is not End.NOT,
            reason=reason,
            message=message,
            node=self.standing.node,
            time_ms=now,
        )

    def _current(self, phase: JobPhase) -> int | None:
        """The first item without a result: items run in order."""
        if phase is not JobPhase.RUNNING:
            return None
        return next((index for index, turn in enumerate(self.turns or ()) if turn not in self.results), None)
