"""Ends what runs of one item, and nothing of the item that its launcher may have gone on to.

A launcher is told of the next item while one runs and goes on by itself. So before anything is signalled it is held
still: as long as its item has no code, everything of the Job is that item's; once the code is there, only what carries
the item's own marks is.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

from dispatcher.process_runner import processes
from dispatcher.process_runner.job import Item, Job
from dispatcher.process_runner.lanes import Lane

#: A process in the kernel stops late; waited for this many times, 50 ms together.
_LOOKS = 100
_LOOK_S = 0.0005


def of_item(job: Job, item: Item) -> list[int]:
    """What is alive of an item that runs."""
    if job.family is None:
        return []
    return _narrowed(job, item, processes.members(job.family))


@contextlib.contextmanager
def held_still(lane: Lane | None) -> Iterator[None]:
    """Inside the block the launcher begins nothing."""
    if lane is None or lane.gone:
        yield
        return
    lane.send(signal.SIGSTOP)
    try:
        for _ in range(_LOOKS):
            process = processes.inspect(lane.pid)
            if process is None or process.state in "TtZX":
                break
            time.sleep(_LOOK_S)
        yield
    finally:
        lane.send(signal.SIGCONT)


def over(job: Job, item: Item) -> bool:
    """It has ended by itself, with nothing left of it."""
    with held_still(job.lane):
        return item.folder.code() is not None and not of_item(job, item)


def send(job: Job, item: Item, number: signal.Signals) -> None:
    """Signal all of an item."""
    with held_still(job.lane):
        processes.send(of_item(job, item), number)


def kill(job: Job, item: Item) -> None:
    """SIGKILL until nothing of the item is left."""
    if job.family is not None:
        with held_still(job.lane):
            processes.kill_all(job.family, lambda pids: _narrowed(job, item, pids))


def _narrowed(job: Job, item: Item, pids: list[int]) -> list[int]:
    if not pids or item.folder.code() is None:
        return pids
    later = job.items[item.index + 1 :]
    if not any(other.told is not None or other.folder.started() for other in later):
        return pids
    return processes.of_item(pids, item.folder.root)
