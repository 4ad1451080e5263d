"""The process that owns every server of one bed, so that none outlives the run, whatever kills the run.

It starts all servers itself and is a *subreaper*: what they leave behind (containerd's shims, pods' processes) becomes
its child, not init's. It hears from the bed over one socket; when that socket closes, by `goodbye` or because the bed
was killed with SIGKILL, it kills every descendant, runs the registered clean-up and leaves. Should the guardian itself
be killed, the kernel kills its children (PR_SET_PDEATHSIG), and with the init of the node's PID namespace everything
inside it. It runs in a session of its own, so a signal to the run's process group does not reach it.

Stand-alone on purpose: one file, one thread (so that forking is safe), the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x00020000, 0x40000000, 0x20000000
MS_REC, MS_PRIVATE, MS_SHARED = 0x4000, 0x40000, 0x100000
LAST_KILL_SECONDS = 20.0

LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Turn a C call's -1 into an error that names the call."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that forked it ends."""
    checked(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def mount(source: str, target: str, kind: str, flags: int) -> None:
    """mount(2)."""
    checked(LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, None), f"mount {target}")


def parents() -> dict[int, int]:
    """The parent of every process on this machine."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue  # It ended meanwhile.
        # The name stands in parentheses and may hold anything, so the fields are counted after it.
        found[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def descendants(root: int) -> list[int]:
    """Every process below `root`, parents before children."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found, queue = [], list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, ())
    return found


def send(pid: int, number: int) -> None:
    """Signal a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def tell(report: int, what: dict[str, Any]) -> None:
    """One line over a pipe, from a fork to the guardian."""
    os.write(report, json.dumps(what).encode() + b"\n")


class Child:
    """What a fork does after it: exec, or say over a pipe why it could not."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request

    def run(self, report: int) -> None:
        """Become the program; never returns."""
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            self._open_files()
            self._enter_namespaces(report)
            os.setpgid(0, 0)
            os.chdir(self.request["cwd"])
            os.execvpe(self.request["argv"][0], self.request["argv"], self.request["env"])
        except OSError as error:
            tell(report, {"error": f"{self.request['argv'][0]}: {error}"})
        finally:
            os._exit(127)

    def _open_files(self) -> None:
        log = os.open(self.request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)

    def _enter_namespaces(self, report: int) -> None:
        holder = self.request.get("inside")
        if holder is None:
            die_with_parent()
            return
        # All are opened first: after the mount namespace has changed, /proc shows the other side.
        kinds = ("net", "pid", "mnt")
        opened = [os.open(f"/proc/{holder}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
        for descriptor, kind in zip(opened, kinds, strict=True):
            checked(LIBC.setns(descriptor, 0), f"setns({kind})")
        # A PID namespace holds only for children; the one in between ends, and the guardian inherits the program.
        # Nobody needs to watch over it: it ends with the namespace's init.
        pid = os.fork()
        if pid:
            tell(report, {"pid": pid})
            os._exit(0)


def hold_namespaces(report: int) -> None:
    """Be the keeper of a node's namespaces: one child is init inside, this process waits for it outside."""
    try:
        die_with_parent()
        checked(LIBC.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID), "unshare")
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            # Nothing that is mounted inside may appear outside; inside, the kubelet needs mounts to spread to pods.
            mount("none", "/", "", MS_REC | MS_PRIVATE)
            mount("none", "/", "", MS_REC | MS_SHARED)
            mount("proc", "/proc", "proc", 0)
            # The kernel reaps for an init that ignores SIGCHLD.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            tell(report, {"ready": True})
            os.close(report)
            while True:
                signal.pause()
        tell(report, {"init": pid})
        os.close(report)
        os.waitpid(pid, 0)
    except OSError as error:
        tell(report, {"error": str(error)})
    finally:
        os._exit(1)


def told(descriptor: int) -> dict[str, Any]:
    """All that was told over a pipe until its other end closed, as one answer."""
    parts = []
    while part := os.read(descriptor, 4096):
        parts.append(part)
    os.close(descriptor)
    return {key: value for line in b"".join(parts).splitlines() for key, value in json.loads(line).items()}


class Guardian:
    """The servers of one bed, and the answers to what the bed asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended: dict[int, int] = {}
        self.cleanups: list[list[str]] = []
        self.cgroups: set[str] = set()
        self.keep = True

    def spawn(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a program."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            Child(request).run(writing)
        os.close(writing)
        # Inside namespaces the program is the fork's own child, and its pid comes over the pipe.
        return {"pid": pid, **told(reading)}

    def namespaces(self, _: dict[str, Any]) -> dict[str, Any]:
        """Make network, mount and PID namespaces and the init that holds them."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            hold_namespaces(writing)
        os.close(writing)
        answer = told(reading)
        return answer if answer.get("ready") or "error" in answer else {"error": "the namespaces' init did not start"}

    def poll(self, request: dict[str, Any]) -> dict[str, Any]:
        """Whether a program has ended, and how."""
        self.reap()
        return {"code": self.ended.get(request["pid"])}

    def signal(self, request: dict[str, Any]) -> dict[str, Any]:
        """Signal a program; asked for here because only its parent knows that the pid is still its own."""
        self.reap()
        if request["pid"] not in self.ended:
            send(request["pid"], request["signal"])
        return {}

    def kill_below(self, request: dict[str, Any]) -> dict[str, Any]:
        """Kill everything below a process, which stays: how a node loses its power and keeps its address."""
        for pid in descendants(request["pid"]):
            send(pid, signal.SIGKILL)
        return {}

    def at_exit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Register a command for the end, run in reverse order of registration."""
        self.cleanups.append(request["argv"])
        return {}

    def own_cgroup(self, request: dict[str, Any]) -> dict[str, Any]:
        """Register a control group whose folders are removed in the end."""
        self.cgroups.add(request["name"])
        return {}

    def goodbye(self, request: dict[str, Any]) -> dict[str, Any]:
        """The bed closes in order: end everything before the answer, remove the folder after it.

        Deleting what containers were unpacked into takes seconds on a busy disk, and nobody needs to wait for that.
        """
        self.keep = bool(request["keep"])
        self.end()
        return {}

    def reap(self) -> None:
        """Take the exit codes of what has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.ended[pid] = os.waitstatus_to_exitcode(status)

    def kill_all(self) -> None:
        """Kill until nothing is left below us; what is orphaned on the way becomes our child and is met next round."""
        deadline = time.monotonic() + LAST_KILL_SECONDS
        while (alive := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in alive:
                send(pid, signal.SIGKILL)
            self.reap()
            time.sleep(0.01)

    def end(self) -> None:
        """End every process, then undo what was registered; a second call has nothing left to do."""
        self.kill_all()
        while self.cleanups:
            subprocess.run(self.cleanups.pop(), stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        while self.cgroups:
            remove_cgroup(self.cgroups.pop())

    def tear_down(self) -> None:
        """Leave nothing but, if wanted, the logs."""
        self.end()
        for entry in self.folder.iterdir():
            if self.keep and entry.name == "logs":
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        if not self.keep:
            self.folder.rmdir()


def remove_cgroup(name: str) -> None:
    """Remove a control group with all below it, in every hierarchy (v1 has several, v2 one)."""
    hierarchies = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    for root in {hierarchy / name for hierarchy in hierarchies if (hierarchy / name).is_dir()}:
        for folder, _, _ in os.walk(root, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    raise


def serve(guardian: Guardian, control: socket.socket) -> None:
    """Answer requests, one JSON line each, until the bed says goodbye or is gone."""
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    # The socket alone is not enough: a fork of the run may hold its other end open after the run itself is gone.
    run = os.pidfd_open(os.getppid())
    waiting.register(run, selectors.EVENT_READ)
    pending = b""
    while True:
        # The timeout is for zombies alone: whoever ends is reaped soon even when nobody asks.
        ready = [key.fileobj for key, _ in waiting.select(timeout=1.0)]
        if not ready:
            guardian.reap()
            continue
        if control not in ready:
            return
        try:
            received = control.recv(1 << 20)
        except ConnectionError:
            return
        if not received:
            return
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                answer = getattr(guardian, request["do"])(request)
            except OSError as error:
                answer = {"error": str(error)}
            control.sendall(json.dumps(answer).encode() + b"\n")


def main() -> None:
    """`guardian.py CONTROL LOCK FOLDER`: two descriptors and the bed's folder; the lock says that the bed lives."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for descriptor in (control.fileno(), int(sys.argv[2])):
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Only the bed's end ends us; a stray signal must not leave its servers without an owner.
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    checked(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")
    guardian = Guardian(Path(sys.argv[3]))
    try:
        serve(guardian, control)
    finally:
        guardian.tear_down()
    control.close()


if __name__ == "__main__":
    main()
