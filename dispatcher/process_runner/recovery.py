"""Reads what an earlier life left in the work folder and says, per Job, where to go on.

Items that have ended are completed from their code files; one that runs goes on under its launcher; one that was
started and whose launcher is gone is lost; those that never started are run. After a restart of the machine only
result files are believed: code files and outputs may have reached the disk in any order, or not at all.
"""
# Plain os calls, no Path objects: keeps to the form of the folder's other modules.
# ruff: noqa: PTH112, PTH208

from __future__ import annotations

import os

from dispatcher.process_runner import processes
from dispatcher.process_runner.job import Item, Job, State
from dispatcher.process_runner.layout import JobFolder, remove_tree
from penstock.model import ItemResult, JobPhase

#: Process number, start time, name of its FIFO.
Launcher = tuple[int, int, str]


def find(workdir: str, boot: str, node: str) -> list[tuple[Job, Launcher | None]]:
    """Every Job on disk, and the launcher that lives for it. A Job that is `over` needs nothing
    more. Removes what was half made or half removed. Raises OSError.
    """
    jobs: list[tuple[Job, bool]] = []
    for name in sorted(os.listdir(workdir)):
        path = f"{workdir}/{name}"
        if name.startswith(".") or not os.path.isdir(path):
            continue
        folder = JobFolder(workdir, name)
        saved = folder.saved()
        if saved is None or saved.plan.name != name:
            remove_tree(path)
            continue
        jobs.append((Job(saved.plan, folder, node), bool(boot) and saved.boot == boot))
    owners = _owners([job for job, same_boot in jobs if same_boot])
    return [(job, _look(job, owners.get(job.plan.name), same_boot=same_boot)) for job, same_boot in jobs]


def _owners(jobs: list[Job]) -> dict[str, Launcher]:
    """Which Job of this run of the machine each launcher served last. It went on to the next Job while one was still
    being published, and that one's processes are not the earlier Job's to kill.
    """
    last: dict[Launcher, tuple[bool, int, str]] = {}
    for job in jobs:
        launcher = job.folder.launcher()
        if launcher is not None:
            done = job.folder.notes()[0]  # the folders of these may be gone
            busy = any(item.index not in done and item.folder.code() is None for item in job.items)
            mine = (busy, job.folder.launcher_ns(), job.plan.name)
            last[launcher] = max(last.get(launcher, mine), mine)
    return {name: launcher for launcher, (_, _, name) in last.items()}


def _look(job: Job, launcher: Launcher | None, *, same_boot: bool) -> Launcher | None:
    job.started = float("-inf")  # its processes may be of any age
    results, intents = job.folder.notes()
    for item in job.items:
        item.recovered = True
        item.intent = _own(item, intents.get(item.index))
        item.result = _own(item, results.get(item.index))
        if item.result is not None:
            item.state = State.DONE
    if launcher is not None:
        job.family = job.family_of(launcher[0], launcher[1], launcher[0])
    if all(item.state is State.DONE for item in job.items):
        if job.family is not None:
            processes.kill_all(job.family)
        job.phase = JobPhase.FINISHED
        return None
    if not same_boot:
        job.phase, job.reason = JobPhase.LOST, "the machine was restarted while it was running"
        return None
    living = launcher if launcher is not None and processes.alive(launcher[0], launcher[1]) else None
    _read(job, living=living is not None)
    return living


def _own(item: Item, noted: ItemResult | None) -> ItemResult | None:
    """Folders are used again, and a power failure may bring back what a file held for the Job before."""
    wanted = (item.job_item.invocation, item.job_item.attempt)
    return noted if noted is not None and (noted.invocation, noted.attempt) == wanted else None


def _read(job: Job, *, living: bool) -> None:
    """Where each item stands. The word for one that is staged may still be in the launcher's FIFO; saying it again does
    no harm, since the launcher drops what has run.
    """
    begun = 0
    for item in job.items:
        if item.state is State.DONE:
            continue
        folder = item.folder
        code, ended_ms = folder.end()
        if code is not None:
            _begin(item, begun)
            item.finished_ms = ended_ms
            item.started_ms = min(item.started_ms, item.finished_ms)
            begun = item.finished_ms
        elif folder.started():
            _begin(item, begun)
            item.orphaned = not living
        elif folder.staged():
            item.ready = living  # without a launcher nothing can have read the word: it is staged anew
            item.why = folder.why()


def _begin(item: Item, begun: int) -> None:
    item.ready = True
    item.state = State.RUNNING
    item.why = item.folder.why()
    item.started_ms = max(begun, item.folder.staged_ms())
