"""The watchdog: what a Job that does not get on is stuck at, and whether to end it. Pure.

Whatever is stuck is named to the user; only what cannot get on by itself is ended, since a Job without a node is what
an autoscaler needs to see.
"""

from __future__ import annotations

import msgspec

from dispatcher.kubernetes.facts import Pod, millis
from dispatcher.kubernetes.manifest import USER
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.kubernetes.status import HOPELESS_REASONS, IMAGE_REASONS, End, Standing
from penstock.model import ErrorClass, JobPhase


class Verdict(msgspec.Struct, frozen=True):
    """Why it does not get on. `error` = end the Job now, its items without a result ended with this."""

    reason: str
    message: str
    error: ErrorClass | None = None


def judge(
    standing: Standing, pod: Pod | None, *, since_ms: int, now: int, run_limit_s: float, settings: KubernetesSettings
) -> Verdict | None:
    """`since_ms` = since when the standing's phase and reason have been what they are; `run_limit_s` = what the items
    may take together. None = nothing is wrong, as far as one can tell.
    """
    waited_s = (now - since_ms) / 1000
    if standing.end is End.OVER:
        return None
    if standing.exit is not None and standing.exit.never_started:
        return Verdict(standing.reason, standing.message, ErrorClass.UNSTARTABLE)
    if standing.end is End.USER:
        return _winding_up(waited_s, settings)
    if standing.phase is JobPhase.RUNNING:
        ran_s = (now - standing.started_ms) / 1000 if standing.started_ms else 0.0
        if ran_s > run_limit_s + settings.start_slack_s:
            words = f"ran for {ran_s:.0f} s, more than its items' deadlines together"
            return Verdict("DeadlineExceeded", words, ErrorClass.DEADLINE)
        return Verdict(standing.reason, standing.message) if standing.reason else None
    return _pending(standing, pod, waited_s, now, settings)


def _winding_up(waited_s: float, settings: KubernetesSettings) -> Verdict | None:
    """The script's container has ended and its results are not there: `output` may still be busy."""
    if waited_s > settings.start_limit_s:
        words = f"the results did not appear within {waited_s:.0f} s of the script's end"
        return Verdict("ResultsMissing", words, ErrorClass.LOST)
    if waited_s > settings.name_after_s:
        return Verdict("Publishing", "the script has ended; its outputs are being published")
    return None


def _pending(
    standing: Standing, pod: Pod | None, waited_s: float, now: int, settings: KubernetesSettings
) -> Verdict | None:
    reason, message = standing.reason, standing.message
    if pod is None:
        if waited_s <= settings.name_after_s:
            return None
        return Verdict(reason or "NoPod", message or f"Kubernetes has made no pod for it in {waited_s:.0f} s")
    if reason in HOPELESS_REASONS:
        return Verdict(reason, message, ErrorClass.UNSTARTABLE)
    scheduled = pod.any_condition("PodScheduled")
    if not pod.spec.nodeName and scheduled is not None and scheduled.status == "False":
        return Verdict(reason, message)
    if reason:
        # Back-off alternates between two reasons, so the time counts from the pod's start on its node.
        start = millis(pod.status.startTime) or now
        late = (now - start) / 1000 > settings.start_limit_s
        kind = "its image" if reason in IMAGE_REASONS else USER
        words = (
            f"{message}; given up after {settings.start_limit_s:.0f} s of trying to start {kind}" if late else message
        )
        return Verdict(reason, words, ErrorClass.UNSTARTABLE if late else None)
    if waited_s > settings.name_after_s:
        where = f"on the node {pod.spec.nodeName}" if pod.spec.nodeName else "by the scheduler"
        return Verdict("Starting", f"has been made ready {where} for {waited_s:.0f} s (images, volumes)")
    return None
