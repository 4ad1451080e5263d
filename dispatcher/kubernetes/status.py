"""What a Job's and its pod's state means: waiting, running or over, in words for people. Pure.

The pod is believed before the Job: the Job controller sums up with a delay of seconds. `oscar-container` ends only
after `output` has acknowledged every item, so its end is the moment to look for results, and the pod's end is the
moment after which none will come.
"""

from __future__ import annotations

import enum

import msgspec

from dispatcher.kubernetes.facts import Job, Pod, Terminated, millis
from dispatcher.kubernetes.manifest import INPUT, OUTPUT, USER
from penstock.model import JobPhase

#: Reasons of a terminated container that never ran its command: no /bin/sh in the image, for one.
START_ERRORS = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})
#: Who took the pod away, by the reason of its DisruptionTarget condition.
_DISRUPTIONS = {
    "DeletionByTaintManager": "its node does not answer",
    "DeletionByPodGC": "its node is gone",
    "EvictionByEvictionAPI": "it was evicted (a node is being drained)",
    "PreemptionByScheduler": "a pod of higher priority took its place",
    "TerminationByKubelet": "its node ran out of something and evicted it",
}
_POD_REASONS = {
    "Evicted": "it was evicted",
    "NodeLost": "its node does not answer",
    "NodeShutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "Shutdown": "its node was shut down",
    "Preempting": "a pod of higher priority took its place",
    "UnexpectedAdmissionError": "its node refused it",
    "OutOfcpu": "its node had no room",
    "OutOfmemory": "its node had no room",
    "OutOfpods": "its node had no room",
}


class End(enum.IntEnum):
    NOT = 0
    #: The user's container has ended: every result should be there.
    USER = 1
    #: Nothing will come any more.
    OVER = 2


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How the user's container ended."""

    code: int
    reason: str = ""
    message: str = ""
    started_ms: int = 0
    finished_ms: int = 0

    @property
    def never_started(self) -> bool:
        return self.reason in START_ERRORS


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    phase: JobPhase
    end: End = End.NOT
    #: One word for programs, and a sentence for people.
    reason: str = ""
    message: str = ""
    node: str = ""
    #: None also when the pod was taken away, whatever its containers say: that is no end of the script's own.
    exit: Exit | None = None
    started_ms: int = 0


def stand(job: Job | None, pod: Pod | None, *, job_gone: bool = False, pod_gone: bool = False) -> Standing:
    """`job` None = not heard of yet. `pod_gone` = its object was deleted, `pod` is its last state."""
    node = pod.spec.nodeName if pod is not None else ""
    ending = _ending(job, pod, job_gone=job_gone, pod_gone=pod_gone)
    if ending is not None:
        return ending
    if pod is None:
        reason, message = ("Suspended", "the Job is suspended") if job is not None and job.spec.suspend else ("", "")
        return Standing(phase=JobPhase.PENDING, reason=reason, message=message)
    user = pod.container(USER)
    if user.terminated is not None:
        done = _own_exit(pod)
        if done is None:
            return Standing(phase=JobPhase.RUNNING, node=node, reason="Deleted", message="the pod is being taken away")
        return Standing(
            phase=JobPhase.RUNNING, end=End.USER, node=node, exit=done, started_ms=done.started_ms,
            reason=done.reason, message=exit_words(done),
        )  # fmt: skip
    if user.running is not None:
        reason, message = _unreachable(pod)
        started = millis(user.running.startedAt)
        return Standing(phase=JobPhase.RUNNING, node=node, reason=reason, message=message, started_ms=started)
    reason, message = waiting_for(pod)
    return Standing(phase=JobPhase.PENDING, node=node, reason=reason, message=message)


def _ending(job: Job | None, pod: Pod | None, *, job_gone: bool, pod_gone: bool) -> Standing | None:
    """Over, or None while something may still come."""
    node = pod.spec.nodeName if pod is not None else ""
    if pod is not None:
        reason, words = taken_away(pod)
        lost_node = reason in {"DeletionByTaintManager", "NodeLost"} and pod.metadata.deletionTimestamp is not None
        if pod.ended or pod_gone or lost_node:
            return _over(pod, reason, words, pod_gone=pod_gone)
    if job_gone:
        return Standing(
            phase=JobPhase.LOST, end=End.OVER, reason="Deleted", message="the Job was deleted from outside", node=node
        )
    if job is None or pod is not None:
        return None
    failed = job.condition("Failed")
    if failed is not None:
        message = f"the Job ended before a pod of it was seen: {failed.message or failed.reason}"
        if failed.reason == "DeadlineExceeded":
            message = "the Job waited longer for a place in the cluster than is allowed"
        return Standing(phase=JobPhase.LOST, end=End.OVER, reason=failed.reason, message=message)
    if job.condition("Complete") is not None:
        return Standing(phase=JobPhase.FINISHED, end=End.OVER)
    return None


def _over(pod: Pod, reason: str, words: str, *, pod_gone: bool) -> Standing:
    node = pod.spec.nodeName
    done = _own_exit(pod)
    if reason:
        message = f"the pod was lost: {words}"
        return Standing(phase=JobPhase.LOST, end=End.OVER, reason=reason, message=message, node=node)
    if pod.status.reason == "DeadlineExceeded":
        message = "the pod ran longer than its items' deadlines together allow"
        return Standing(phase=JobPhase.LOST, end=End.OVER, reason=pod.status.reason, message=message, node=node)
    if done is None:
        deleted = pod_gone or pod.metadata.deletionTimestamp is not None
        message = "the pod was deleted from outside" if deleted else _without_user(pod)
        reason = "Deleted" if deleted else pod.status.reason
        return Standing(phase=JobPhase.LOST, end=End.OVER, reason=reason, message=message, node=node)
    return Standing(
        phase=JobPhase.FINISHED, end=End.OVER, reason=done.reason, message=exit_words(done, _broken(pod)), node=node,
        exit=done, started_ms=done.started_ms,
    )  # fmt: skip


def _own_exit(pod: Pod) -> Exit | None:
    """How the user's container ended by itself: who takes a pod away ends its containers with codes of its own."""
    user = pod.container(USER).terminated
    if user is None or taken_away(pod)[0] or (pod.metadata.deletionTimestamp is not None and user.exitCode):
        return None
    return exit_of(user)


def _without_user(pod: Pod) -> str:
    return _broken(pod) or pod.status.message or "the pod ended and says nothing of the script's container"


def _broken(pod: Pod) -> str:
    """A sidecar that failed, in words, "" = none."""
    for name in (INPUT, OUTPUT):
        ended = pod.container(name).terminated
        if ended is not None and ended.exitCode:
            said = f": {ended.message.strip()[-300:]}" if ended.message.strip() else ""
            return f"the platform's container {name} ended with {ended.exitCode} ({ended.reason}){said}"
    return ""


def taken_away(pod: Pod) -> tuple[str, str]:
    """Reason and words when the pod was taken from its node by somebody else, ("", "") = it was not."""
    target = pod.condition("DisruptionTarget")
    if target is not None:
        return target.reason, f"{_DISRUPTIONS.get(target.reason, target.reason)}{_more(target.message)}"
    reason = pod.status.reason
    if reason in _POD_REASONS:
        return reason, f"{_POD_REASONS[reason]}{_more(pod.status.message)}"
    return "", ""


def _more(message: str) -> str:
    return f" ({message.strip()})" if message.strip() else ""


def _unreachable(pod: Pod) -> tuple[str, str]:
    """A running pod that is not Ready although all its containers are: its node was marked as not answering."""
    ready, all_ready = pod.any_condition("Ready"), pod.any_condition("ContainersReady")
    if ready is not None and all_ready is not None and (ready.status, all_ready.status) == ("False", "True"):
        return "NodeNotReady", f"the node {pod.spec.nodeName} does not answer"
    return "", ""


def waiting_for(pod: Pod) -> tuple[str, str]:
    """What a pod that has not begun waits for: the scheduler's or the kubelet's reason, and a sentence."""
    scheduled = pod.any_condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        return scheduled.reason or "Unschedulable", f"no node can take it: {scheduled.message}"
    for status in pod.status.containerStatuses:
        waiting = status.state.waiting
        if waiting is not None and waiting.reason not in {"", "ContainerCreating", "PodInitializing"}:
            whose = "the image" if status.name == USER else f"the image of the platform's container {status.name}"
            return waiting.reason, _wait_words(waiting.reason, waiting.message, whose, status.image)
    return "", ""


def _wait_words(reason: str, message: str, whose: str, image: str) -> str:
    if reason in IMAGE_REASONS:
        return f"{whose} {image} cannot be pulled: {message or reason}"
    return f"its container cannot be started: {message or reason}"


#: Trouble with an image; of the second kind no time will mend it.
IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
HOPELESS_REASONS = frozenset({"ErrImageNeverPull", "InvalidImageName"})


def exit_of(ended: Terminated) -> Exit:
    return Exit(
        code=ended.exitCode,
        reason=ended.reason,
        message=ended.message.strip(),
        started_ms=millis(ended.startedAt),
        finished_ms=millis(ended.finishedAt),
    )


def exit_words(done: Exit, broken: str = "") -> str:
    if done.never_started:
        return f"the script's container could not be started: {done.message or done.reason}"
    if done.reason == "OOMKilled":
        return "the script's container used more memory than the function has and was ended"
    return broken
