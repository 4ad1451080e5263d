"""One container of the user's in a resident pod, as the sidecar sees it: a folder with two FIFOs, and the launcher at
the other end of them.

The same folder lies at another path in the user's container, where it is the only one: runs side by side in a pod see
nothing of each other. A slot takes one run at a time; the next may start while the one before is still published.
"""

# Plain os calls, no Path objects: on the path of every run, where an object costs more than the system call.
# ruff: noqa: PTH102, PTH103, PTH104, PTH105, PTH110, PTH123, PTH208

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time

from dispatcher.sidecar import pod
from dispatcher.sidecar.logs import LOG_LIMIT, trim
from dispatcher.sidecar.turns import RESTART, Outcome, Turns
from dispatcher.sidecar.words import READ_BYTES, Lines, parse
from penstock.model import ErrorClass

#: What the user's container waits for before it lets itself be ended (the pod's preStop).
DRAINED = "drained"
#: Made beforehand and open to every user id, so that what the launcher writes there can be read whatever its umask.
_LAUNCHERS_FILES = ("log", "code", "ended", "pid")
#: How often the size of the log is looked at.
_TICK_S = 1.0
_NAG_S = 0.5
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class NotUp(Exception):
    """The launcher is not there (any more): nothing was begun."""


class Slot:
    """`seen` = the folder's path in the user's container. Used from one event loop."""

    def __init__(self, folder: str, seen: str, *, grace_s: float) -> None:
        self.folder = folder
        self.seen = seen
        self.turns = Turns(grace_s=grace_s)
        #: Given to a run, from its staging to the end of its script.
        self.taken = False
        #: The beginning of the log of the last run is gone: it was too long.
        self.dropped = False
        self._alive = self._ack = -1
        # No launcher gets so far, and no life of ours before this one.
        self._aside = time.time_ns()
        self._lines = Lines()
        self._changed = asyncio.Event()
        self._nagging: asyncio.TimerHandle | None = None
        self._drained = -1

    # Life

    def open(self) -> None:
        """Make the FIFOs and listen. Raises OSError."""
        left_over = os.path.exists(f"{self.folder}/{pod.ACK}")
        os.makedirs(f"{self.folder}/items", 0o777, exist_ok=True)
        for name in (pod.ALIVE, DRAINED, pod.ACK):  # the launcher waits for the last one
            with contextlib.suppress(FileExistsError):
                os.mkfifo(f"{self.folder}/{name}", 0o666)
        self._ack = os.open(f"{self.folder}/{pod.ACK}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if left_over:
            self._restart_launcher()
        self._listen()

    def _restart_launcher(self) -> None:
        """We were started again, and it is somewhere in its numbers: it ends, and begins anew with the kubelet."""
        for name in os.listdir(f"{self.folder}/items"):
            if name.isdigit():
                self._say([f"cancel {name}", f"cancel {name}"])
        self._nag()

    def _nag(self) -> None:
        """Until it is gone: in the middle of a run it hears nothing but cancels."""
        self._say([RESTART])
        self._nagging = asyncio.get_running_loop().call_later(_NAG_S, self._nag)

    def _calm(self) -> None:
        if self._nagging is not None:
            self._nagging.cancel()
            self._nagging = None

    def _listen(self) -> None:
        fresh = os.open(f"{self.folder}/{pod.ALIVE}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._deaf()
        self._alive = fresh
        asyncio.get_running_loop().add_reader(fresh, self._hear)

    def _deaf(self) -> None:
        if self._alive >= 0:
            asyncio.get_running_loop().remove_reader(self._alive)
            os.close(self._alive)
            self._alive = -1

    def close(self) -> None:
        self._calm()
        self._deaf()
        for descriptor in (self._ack, self._drained):
            if descriptor >= 0:
                os.close(descriptor)
        self._ack = self._drained = -1

    def release(self) -> None:
        """Let the user's container end: nothing runs in it any more and nothing will."""
        path = f"{self.folder}/{DRAINED}"
        # Held open: whoever has opened the FIFO, or is about to, reads its line.
        self._drained = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(self._drained, b"\n")
        # And whoever comes later finds a file.
        os.close(os.open(f"{path}.new", _CREATE, 0o666))
        with open(f"{path}.new", "wb") as sink:
            sink.write(b"\n")
        os.replace(f"{path}.new", path)

    # Words

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._alive, READ_BYTES)
            for line in self._lines.feed(data):
                word = parse(line)
                if word is not None:
                    self._say(self.turns.hear(word))
            if not data:
                self._gone()
        if self.turns.up:
            self._calm()
        self._changed.set()

    def _gone(self) -> None:
        self._calm()
        self.turns.lost()
        # What was said and never read would be heard by the next one.
        with contextlib.suppress(BlockingIOError):
            while os.read(self._ack, READ_BYTES):
                pass
        self._lines = Lines()
        self._listen()

    def _say(self, words: list[str]) -> None:
        for word in words:
            # Begins with a line end: what user code wrote without one cannot swallow it. Full = user code filled it;
            # what is lost is said again.
            with contextlib.suppress(BlockingIOError):
                os.write(self._ack, f"\n{word}\n".encode())

    # Runs

    @property
    def free(self) -> bool:
        return self.turns.up and not self.taken and not self.turns.running

    def item(self, number: int) -> str:
        return f"{self.folder}/items/{number}"

    def seen_item(self, number: int) -> str:
        return f"{self.seen}/items/{number}"

    def make(self, number: int) -> str:
        """The folders of a run, open to every user id: the launcher and the script run as the image's user."""
        folder = self.item(number)
        remove(folder)  # of a launcher before this one, whose run was never taken
        for path in (folder, f"{folder}/in", f"{folder}/out"):
            os.mkdir(path, 0o777)
        for name in _LAUNCHERS_FILES:
            os.close(os.open(f"{folder}/{name}", _CREATE, 0o666))
        return folder

    def set_aside(self, number: int) -> int:
        """Give the folder of a run whose script is over another number: a launcher that starts again counts from 0."""
        self._aside += 1
        os.rename(self.item(number), self.item(self._aside))
        return self._aside

    async def serve(self, number: int, deadline_s: float) -> Outcome:
        """Run what is staged as `number` to its end, whatever that is. Raises NotUp."""
        turns = self.turns
        if not turns.up or turns.running or turns.number != number:
            raise NotUp
        self._say(turns.start(time.monotonic(), deadline_s))
        self.dropped = False
        while turns.running:
            self._changed.clear()
            wait_s = min(_TICK_S, turns.next_s(time.monotonic()) or 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            self._say(turns.tick(time.monotonic()))
            self.dropped |= trim(f"{self.item(number)}/log", LOG_LIMIT)
        assert turns.outcome is not None
        return turns.outcome

    def stop(self, why: ErrorClass, text: str) -> None:
        """End what runs; `serve` returns when it has ended."""
        self._say(self.turns.stop(time.monotonic(), why, text))
        self._changed.set()


def remove(path: str) -> None:
    """A folder with all in it. Links are removed, not followed; what the user's own folders forbid stays."""
    shutil.rmtree(path, ignore_errors=True)
