"""All Jobs that the runner knows, from what the two watches say. No input or output; `now` is an argument.

Three races are settled here. A Job is known from before its POST, so that its pod finds it. A Job that was forgotten
stays forgotten, although the watches speak of it a little longer; it is told by its uid, since its name may be used
again at once. A pod belongs to the Job whose uid it names, not to one that has its name now.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from dispatcher.kubernetes.entry import Entry
from dispatcher.kubernetes.facts import Job, Pod
from dispatcher.kubernetes.manifest import LABEL_GENERATION, LABEL_JOB, LABEL_UID
from penstock.model import JobPlan

#: On pods, by the Job controller.
OWNER = "batch.kubernetes.io/controller-uid"
#: Uids of forgotten Jobs that are remembered; their last events follow within seconds.
_FORGOTTEN = 10_000


class Board:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._forgotten: collections.OrderedDict[str, None] = collections.OrderedDict()
        #: Pods heard of before their Job, by the Job's uid: the two watches run apart.
        self._early: collections.OrderedDict[str, tuple[Pod, bool]] = collections.OrderedDict()

    # Our own doing

    def expect(self, plan: JobPlan, now: int) -> Entry:
        """A Job is about to be submitted, perhaps again."""
        entry = self.entries.get(plan.name)
        if entry is None:
            entry = self.entries[plan.name] = Entry(plan.name, now)
            entry.submitting = True
            entry.turns = tuple((item.invocation, item.attempt) for item in plan.items)
        if not entry.run_limit_s:
            entry.run_limit_s = plan.deadline_s * len(plan.items)
            entry.function_uid, entry.generation = plan.function_uid, str(plan.generation)
        return entry

    def submitted(self, entry: Entry, moment: float) -> None:
        """The cluster has it; `moment` is monotonic, in seconds."""
        entry.submitting, entry.submitted_at = False, moment

    def withdraw(self, entry: Entry) -> None:
        """The submission failed: unless the cluster has spoken of the Job, it is not there."""
        if entry.submitting and self.entries.get(entry.name) is entry:
            if entry.uid:
                entry.submitting = False
            else:
                del self.entries[entry.name]

    def forget(self, name: str) -> None:
        entry = self.entries.pop(name, None)
        if entry is not None and entry.uid:
            self._forgotten[entry.uid] = None
            if len(self._forgotten) > _FORGOTTEN:
                self._forgotten.popitem(last=False)

    # What the watches say; each returns the entries that changed

    def jobs_are(self, jobs: Sequence[Job], now: int, *, asked: float) -> list[Entry]:
        """A whole list: what is not in it is gone, unless it was submitted after the list was asked for."""
        there = {job.metadata.name for job in jobs}
        touched = [entry for job in jobs for entry in self.job_is(job, now)]
        for name, entry in self.entries.items():
            if name not in there and not entry.submitting and entry.submitted_at < asked and entry.over is None:
                entry.vanished(now)
                touched.append(entry)
        return touched

    def job_is(self, job: Job, now: int, *, gone: bool = False) -> list[Entry]:
        uid = job.metadata.uid
        if uid in self._forgotten:
            if gone:
                del self._forgotten[uid]
            return []
        entry = self.entries.get(job.metadata.name)
        if entry is None:
            if gone:
                return []
            entry = self.entries[job.metadata.name] = Entry(job.metadata.name, now)
            entry.function_uid = job.metadata.labels.get(LABEL_UID, "")
            entry.generation = job.metadata.labels.get(LABEL_GENERATION, "")
        elif entry.uid not in {"", uid}:
            if gone:
                return []  # an earlier Job of this name
            # Deleted and made anew behind our back; the plan is the same, or submit would have been refused.
            entry.pod = None
        entry.saw_job(job, now, gone=gone)
        if uid in self._early:
            pod, pod_gone = self._early.pop(uid)
            entry.saw_pod(pod, now, gone=pod_gone)
        return [entry]

    def pods_are(self, pods: Sequence[Pod], now: int) -> list[Entry]:
        there = {pod.metadata.name for pod in pods}
        touched = [entry for pod in pods for entry in self.pod_is(pod, now)]
        touched += self._without(there, now)
        return touched

    def _without(self, there: set[str], now: int) -> Iterator[Entry]:
        for entry in self.entries.values():
            if entry.pod is not None and entry.pod.metadata.name not in there and entry.over is None:
                entry.saw_pod(entry.pod, now, gone=True)
                yield entry

    def pod_is(self, pod: Pod, now: int, *, gone: bool = False) -> list[Entry]:
        owner = pod.metadata.labels.get(OWNER, "")
        entry = self.entries.get(pod.metadata.labels.get(LABEL_JOB, ""))
        if owner in self._forgotten:
            return []
        if entry is None or entry.uid != owner:
            self._early[owner] = (pod, gone)
            if len(self._early) > _FORGOTTEN:
                self._early.popitem(last=False)
            return []
        entry.saw_pod(pod, now, gone=gone)
        return [entry]
