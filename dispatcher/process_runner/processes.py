"""What the kernel says about the processes of a Job, and how all of them are ended.

A Job's processes share the session that its launcher leads. A program may leave the session (a daemon does), so
whoever has the Job's name in its first environment, works below the Job's folder or has a parent in the Job belongs
to it too. Process ids are reused: a process of an earlier life is only trusted together with its start time.
"""
# Plain os calls, no Path objects: /proc is read for every Job; a Path object costs more than the system call
# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Container, Iterable, Iterator

import msgspec

#: Processes younger than the launcher that are looked at one by one; beyond it, or after this time, /proc is listed.
_NEAR_PIDS = 2000
_NEAR_SECONDS = 60.0
_KILL_ROUNDS = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(msgspec.Struct, frozen=True):
    pid: int
    state: str
    parent: int
    group: int
    session: int
    #: In clock ticks since boot: with the pid it names a process for as long as the machine runs.
    start: int


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What tells that a process belongs to a Job."""

    #: The launcher: leader of the session. Never counted as a member itself.
    leader: int
    leader_start: int
    #: The entry of the environment that every process of the Job was started with.
    marker: bytes
    #: The Job's folder, with a slash at the end.
    folder: str
    #: Every process of the Job has a higher number (unless the count wrapped around).
    above: int


def boot_id() -> str:
    """Names this run of the machine; "" where the kernel does not tell."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def inspect(pid: int) -> Process | None:
    """Describe a process; None = there is none."""
    raw = _read(f"/proc/{pid}/stat")
    if not raw:
        return None
    # The command's name stands in parentheses and may hold anything, parentheses too.
    fields = raw[raw.rindex(b")") + 2 :].split()
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def alive(pid: int, start: int) -> bool:
    """Tell whether this very process lives (a zombie does not)."""
    found = inspect(pid)
    return found is not None and found.start == start and found.state != "Z"


def members(family: Family) -> list[int]:
    """Everything alive that belongs to the Job, the launcher apart. Reads all of /proc."""
    return _members(family, _all_pids())


def survivors(family: Family, *, started: float, others: Container[int] = ()) -> tuple[list[int], int]:
    """As `members`, but cheap for a Job that started (monotonic time) a moment ago: only processes made since can be
    its. Also returns the newest process number. `others` = sessions that are known to be somebody else's.

    The kernel gives out numbers in order, so these are few; when the count has wrapped around, all are looked at.
    """
    newest = newest_pid()
    if time.monotonic() - started > _NEAR_SECONDS or not 0 <= newest - family.above <= _NEAR_PIDS:
        return members(family), newest
    candidates = [pid for pid, _ in _suspects(family, family.above, newest, others)]
    return (_members(family, candidates) if candidates else []), newest


def strays(family: Family, above: int, others: Container[int] = ()) -> tuple[bool, int]:
    """Whether a process of the Job with a number beyond `above` may have left its launcher's session, and the newest
    number.
    """
    newest = newest_pid()
    if not 0 <= newest - above <= _NEAR_PIDS:
        return True, newest
    candidates = [pid for pid, session in _suspects(family, above, newest, others) if session != family.leader]
    return bool(candidates and _members(family, candidates)), newest


def _suspects(family: Family, above: int, newest: int, others: Container[int]) -> Iterator[tuple[int, int]]:
    """Processes with numbers from beyond `above` to `newest` that may be the Job's, each with its session."""
    own = os.getsid(0)
    for pid in range(above + 1, newest + 1):
        try:
            session = os.getsid(pid)
        except OSError:
            continue
        # A session is named after its founder: one that is older than the Job cannot hold its processes.
        if session == family.leader or (session > family.above and session != own and session not in others):
            yield pid, session


def _members(family: Family, pids: Iterable[int]) -> list[int]:
    found: dict[int, Process] = {}
    for pid in pids:
        process = inspect(pid)
        if process is not None and process.start >= family.leader_start and process.state not in "ZX":
            found[pid] = process
    found.pop(family.leader, None)
    found.pop(os.getpid(), None)
    if not found:
        return []
    # The launcher may be gone and its number given to a stranger, whose session says nothing then.
    leader = inspect(family.leader)
    session = family.leader if leader is None or leader.start == family.leader_start else -1
    inside = {pid for pid, process in found.items() if process.session == session or _marked(pid, family)}
    if session > 0:
        inside.add(session)
    while grown := {pid for pid, process in found.items() if pid not in inside and process.parent in inside}:
        inside |= grown
    inside.discard(family.leader)
    return sorted(inside)


def _marked(pid: int, family: Family) -> bool:
    return _bears(pid, family.marker, family.folder)


def _bears(pid: int, marker: bytes, folder: str) -> bool:
    environment = _read(f"/proc/{pid}/environ")
    if environment.startswith(marker) or b"\0" + marker in environment:
        return True
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(folder)
    except OSError:
        return False


def of_item(pids: Iterable[int], root: str) -> list[int]:
    """Those of a Job's processes that were started for the item in this folder: its variables or its folder tell, or
    that they hold its output, or a parent that is such a one.
    """
    found = {pid: process for pid in pids if (process := inspect(pid)) is not None}
    marker = f"TMP_OUTPUT_DIR={root}/out\0".encode()
    inside = {pid for pid in found if _bears(pid, marker, f"{root}/") or holds_open([pid], f"{root}/log")}
    while grown := {pid for pid, process in found.items() if pid not in inside and process.parent in inside}:
        inside |= grown
    return sorted(inside)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_all(family: Family, narrowed: Callable[[list[int]], list[int]] = lambda pids: pids) -> bool:
    """SIGKILL until nothing of the Job is left but its launcher, or nothing of the part that `narrowed` picks; False =
    something escapes the signal (it is in the kernel, or another user's).
    """
    for _ in range(_KILL_ROUNDS):
        left = narrowed(members(family))
        if not left:
            return True
        # Stopped first, so that none of them forks while the others die.
        send(left, signal.SIGSTOP)
        send(left, signal.SIGKILL)
        time.sleep(0.0005)  # a killed process needs a moment to go; the loop waits 10 ms at most
    return not narrowed(members(family))


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory in use by these processes together; shared pages count once per process."""
    total = 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/statm").split()
        total += int(fields[1]) * _PAGE if fields else 0
    return total


def holds_open(pids: Iterable[int], path: str) -> bool:
    """Tell whether one of the processes has the file open: the slow way, for file systems without leases."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{descriptor}") == path:
                        return True
    return False


def newest_pid() -> int:
    """The number that the kernel gave out last, to processes and threads alike."""
    fields = _read("/proc/loadavg").split()
    return int(fields[4]) if len(fields) > 4 else -1


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(path: str) -> bytes:
    """A small file of /proc; b"" when it or its process is gone, or is not ours to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.read(descriptor, 65536)
        if len(data) < 65536:
            return data
        pieces = [data]
        while data := os.read(descriptor, 65536):
            pieces.append(data)
        return b"".join(pieces)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
