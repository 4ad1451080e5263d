"""What states of Jobs and pods mean, what the watchdog makes of them, and how the board joins the two watches."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dispatcher.kubernetes.board import OWNER, Board
from dispatcher.kubernetes.entry import NOTE_ENDED, Ended
from dispatcher.kubernetes.facts import Job, Pod
from dispatcher.kubernetes.manifest import LABEL_JOB, NOTE_ITEMS, encode_items
from dispatcher.kubernetes.results import JobRef, PodResults
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.kubernetes.status import End, Exit, Standing, stand
from dispatcher.kubernetes.watchdog import Verdict, judge
from penstock.model import ErrorClass, ItemResult, JobPhase
from tests.kubernetes.plans import items_of, plan

NOW = 1_800_000_000_000
AT = "2027-01-15T08:00:00Z"  # NOW
SETTINGS = KubernetesSettings()


def pod(phase: str = "Running", *, user: dict[str, Any] | None = None, **status: Any) -> Pod:
    meta = status.pop("metadata", {})
    node = status.pop("node", "n1")
    sidecars = status.pop("sidecars", {"running": {"startedAt": AT}})
    states = {"input": sidecars, "output": sidecars} | ({"oscar-container": user} if user is not None else {})
    document = {
        "metadata": {"name": "p", "labels": {LABEL_JOB: "job-1", OWNER: "u1"}, **meta},
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": name, "state": state, "image": "img"} for name, state in states.items()],
            "startTime": AT,
            **status,
        },
    }
    return msgspec.convert(document, Pod)


def job(name: str = "job-1", uid: str = "u1", **spec: Any) -> Job:
    status = spec.pop("status", {})
    notes = spec.pop("notes", {})
    text = encode_items(items_of(2, name)).decode()
    document = {
        "metadata": {"name": name, "uid": uid, "annotations": notes},
        "spec": {"template": {"metadata": {"annotations": {NOTE_ITEMS: text}}}, **spec},
        "status": status,
    }
    return msgspec.convert(document, Job)


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


RUNS: dict[str, Any] = {"running": {"startedAt": AT}}
DONE: dict[str, Any] = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": AT, "finishedAt": AT}}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "startedAt": AT, "finishedAt": AT}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


UNSCHEDULED = pod("Pending", node="", conditions=[condition("PodScheduled", "Unschedulable", "0/3 nodes", "False")])
NOT_READY = [condition("Ready", status="False"), condition("ContainersReady")]
TAKEN = [condition("DisruptionTarget", "DeletionByTaintManager", "Taint manager")]


@pytest.mark.parametrize(
    ("seen", "phase", "end", "reason", "words"),
    [
        (None, "pending", End.NOT, "", ""),
        (UNSCHEDULED, "pending", End.NOT, "Unschedulable", "no node can take it: 0/3 nodes"),
        (pod("Pending", user=waits("ContainerCreating")), "pending", End.NOT, "", ""),
        (pod("Pending", user=waits("ImagePullBackOff", "no such tag")), "pending", End.NOT, "ImagePullBackOff",
         "the image img cannot be pulled: no such tag"),
        (pod("Pending", user=waits("CreateContainerConfigError", 'secret "x" not found')), "pending", End.NOT,
         "CreateContainerConfigError", 'its container cannot be started: secret "x" not found'),
        (pod(user=RUNS), "running", End.NOT, "", ""),
        (pod(user=RUNS, conditions=NOT_READY), "running", End.NOT, "NodeNotReady", "the node n1 does not answer"),
        (pod(user=DONE), "running", End.USER, "Completed", ""),
        (pod(user=ended(137, "OOMKilled")), "running", End.USER, "OOMKilled", "more memory"),
        (pod(user=ended(128, "StartError", "exec: no /bin/sh")), "running", End.USER, "StartError", "exec: no /bin/sh"),
        (pod(user=ended(143), conditions=TAKEN), "running", End.NOT, "Deleted", "taken away"),
        (pod("Succeeded", user=DONE), "finished", End.OVER, "Completed", ""),
        (pod("Failed", user=ended(7)), "finished", End.OVER, "Error", ""),
        (pod("Failed", user=ended(0, "Completed"), sidecars=ended(1, "Error", "Traceback: boom")), "finished", End.OVER,
         "Completed", "container input ended with 1 (Error): Traceback: boom"),
        (pod("Failed", reason="Evicted", message="disk"), "lost", End.OVER, "Evicted", "it was evicted (disk)"),
        (pod("Failed", user=ended(137), reason="Evicted"), "lost", End.OVER, "Evicted", "it was evicted"),
        (pod("Failed", user=ended(137), reason="DeadlineExceeded"), "lost", End.OVER, "DeadlineExceeded", "longer"),
        (pod(user=RUNS, conditions=TAKEN, metadata={"deletionTimestamp": AT}), "lost", End.OVER,
         "DeletionByTaintManager", "the pod was lost: its node does not answer (Taint manager)"),
        (pod("Failed", user=ended(143), metadata={"deletionTimestamp": AT}), "lost", End.OVER, "Deleted", "outside"),
    ],
)  # fmt: skip
def test_what_a_pod_says(seen: Pod | None, phase: str, end: End, reason: str, words: str) -> None:
    found = stand(job(), seen)
    assert (found.phase.value, found.end, found.reason) == (phase, end, reason)
    assert words in found.message
    assert (found.message == "") == (words == "")


def test_a_job_alone_can_be_over() -> None:
    assert stand(job(), None, job_gone=True).message == "the Job was deleted from outside"
    waited = stand(job(status={"conditions": [condition("Failed", "DeadlineExceeded")]}), None)
    assert (waited.end, waited.phase) == (End.OVER, JobPhase.LOST)
    assert "waited longer for a place" in waited.message
    assert stand(job(status={"conditions": [condition("Complete")]}), None).phase is JobPhase.FINISHED
    assert stand(job(suspend=True), None).reason == "Suspended"
    assert stand(job(), pod(user=RUNS), pod_gone=True).message == "the pod was deleted from outside"


def word(
    seen: Pod | None, *, after_s: float = 0, run_limit_s: float = 60, settings: KubernetesSettings = SETTINGS
) -> Verdict | None:
    now = NOW + int(after_s * 1000)
    return judge(stand(job(), seen), seen, since_ms=NOW, now=now, run_limit_s=run_limit_s, settings=settings)


@pytest.mark.parametrize(
    ("seen", "after_s", "reason", "error"),
    [
        (None, 10, None, None),
        (None, 30, "NoPod", None),
        (UNSCHEDULED, 0, "Unschedulable", None),
        (UNSCHEDULED, 86400, "Unschedulable", None),
        (pod("Pending", user=waits("ContainerCreating")), 10, None, None),
        (pod("Pending", user=waits("ContainerCreating")), 50, "Starting", None),
        (pod("Pending", user=waits("ErrImagePull")), 0, "ErrImagePull", None),
        (pod("Pending", user=waits("ImagePullBackOff")), 301, "ImagePullBackOff", ErrorClass.UNSTARTABLE),
        (pod("Pending", user=waits("ErrImageNeverPull")), 0, "ErrImageNeverPull", ErrorClass.UNSTARTABLE),
        (pod("Pending", user=waits("InvalidImageName")), 0, "InvalidImageName", ErrorClass.UNSTARTABLE),
        (pod(user=ended(128, "StartError")), 0, "StartError", ErrorClass.UNSTARTABLE),
        (pod(user=RUNS), 1800, None, None),
        (pod(user=RUNS), 1861, "DeadlineExceeded", ErrorClass.DEADLINE),
        (pod(user=RUNS, conditions=NOT_READY), 0, "NodeNotReady", None),
        (pod(user=DONE), 10, None, None),
        (pod(user=DONE), 60, "Publishing", None),
        (pod(user=DONE), 301, "ResultsMissing", ErrorClass.LOST),
        (pod("Succeeded", user=DONE), 10**6, None, None),
    ],
)
def test_the_watchdog_names_what_is_stuck_and_ends_what_cannot_get_on(
    seen: Pod | None, after_s: float, reason: str | None, error: ErrorClass | None
) -> None:
    found = word(seen, after_s=after_s)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert (found.reason, found.error) == (reason, error)
        assert found.message


def test_everything_that_is_stuck_has_words_within_a_minute() -> None:
    waiting = [pod("Pending", user=waits(reason)) for reason in ("ContainerCreating", "ErrImagePull")]
    stuck = [None, UNSCHEDULED, *waiting]
    assert all(word(seen, after_s=60) is not None for seen in stuck)


# The board and its entries


def test_a_pod_heard_of_before_its_job_is_not_lost() -> None:
    board = Board()
    assert board.pod_is(pod(user=RUNS), NOW) == []
    (entry,) = board.job_is(job(), NOW)
    assert entry.status(NOW).phase is JobPhase.RUNNING
    assert entry.turns == (("job-1-0", 1), ("job-1-1", 1))
    assert entry.status(NOW).current == 0


def test_a_forgotten_job_stays_forgotten_and_its_name_is_free() -> None:
    board = Board()
    board.job_is(job(), NOW)
    board.forget("job-1")
    assert board.job_is(job(), NOW) == []
    assert board.pod_is(pod(user=RUNS), NOW) == []
    assert board.entries == {}
    board.job_is(job(uid="u2"), NOW)
    assert board.job_is(job(), NOW, gone=True) == []
    assert board.entries["job-1"].uid == "u2"
    assert board.pod_is(pod("Succeeded", user=DONE), NOW) == []  # of the first one
    assert board.entries["job-1"].standing.end is End.NOT


def test_what_a_list_does_not_hold_is_gone_unless_it_is_being_made() -> None:
    board = Board()
    board.job_is(job("old", "u0"), NOW)
    made = board.expect(plan("new"), NOW)
    touched = board.jobs_are([job()], NOW, asked=5.0)
    assert {entry.name for entry in touched} == {"old", "job-1"}
    assert board.entries["old"].standing.end is End.OVER
    assert made.standing.end is End.NOT
    board.submitted(made, 7.0)
    assert made not in board.jobs_are([], NOW, asked=6.0)
    assert made in board.jobs_are([], NOW, asked=8.0)
    again = board.expect(plan("again"), NOW)
    board.withdraw(again)
    assert "again" not in board.entries


def test_a_failed_submission_that_got_through_is_kept() -> None:
    board = Board()
    entry = board.expect(plan(), NOW)
    board.job_is(job(), NOW)
    board.withdraw(entry)
    assert board.entries["job-1"] is entry
    assert not entry.submitting


def test_items_without_a_result_end_as_it_is_known_of_them() -> None:
    board = Board()
    (entry,) = board.job_is(job(), NOW)
    entry.learn([ItemResult(invocation="job-1-0", attempt=1)])
    assert not entry.learn([ItemResult(invocation="job-1-0", attempt=1, error=ErrorClass.SCRIPT)])
    board.pod_is(pod("Failed", reason="Evicted"), NOW)
    entry.conclude()
    status = entry.status(NOW)
    assert (status.phase, [result.invocation for result in status.results]) == (JobPhase.LOST, ["job-1-0"])


def test_what_we_ended_ourselves_is_told_as_we_ended_it() -> None:
    note = msgspec.json.encode(Ended(ErrorClass.UNSTARTABLE, "no image")).decode()
    board = Board()
    (entry,) = board.job_is(job(suspend=True, notes={NOTE_ENDED: note}), NOW)
    assert entry.standing.end is End.OVER
    entry.conclude()
    status = entry.status(NOW)
    assert status.phase is JobPhase.FINISHED
    assert {(r.error, r.message) for r in status.results} == {(ErrorClass.UNSTARTABLE, "no image")}
    assert entry.look(NOW, SETTINGS) is None


async def test_an_exit_decides_for_pods_without_sidecars() -> None:
    source = PodResults()
    turns = (("a", 1), ("b", 2))
    nothing = await source.results(JobRef("j", "u", turns, Standing(phase=JobPhase.LOST, end=End.OVER)))
    assert nothing == []
    late = Standing(phase=JobPhase.LOST, end=End.OVER, reason="DeadlineExceeded")
    assert {r.error for r in await source.results(JobRef("j", "u", turns, late))} == {ErrorClass.DEADLINE}
    good = Standing(phase=JobPhase.FINISHED, end=End.OVER, exit=Exit(code=0))
    assert [(r.invocation, r.attempt, r.error) for r in await source.results(JobRef("j", "u", turns, good))] == [
        ("a", 1, None),
        ("b", 2, None),
    ]
