"""Handles on servers: the bed's side of the guardian, and one program that the guardian started.

Every program is started, signalled and reaped by the guardian (see `guardian`), never by the test run itself, so it
has one owner that survives the run. The calls are short exchanges over a local socket and therefore blocking.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testbed.errors import BedError, log_tail
from tests.testbed.leftovers import lock_folder

GUARDIAN = Path(__file__).resolve().parent / "guardian.py"
POLL_SECONDS = 0.03


class Guardian:
    """The bed's line to its guardian process."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        alive = lock_folder(folder)
        self._log = folder / "logs" / "guardian.log"
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(GUARDIAN), str(theirs.fileno()), str(alive), str(folder)],
                pass_fds=[theirs.fileno(), alive],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # The guardian holds the lock alone from here on.
        os.close(alive)
        self._waiting: threading.Thread | None = None
        self._socket = ours
        self._lock = threading.Lock()
        self._answers = ours.makefile("rb")

    @property
    def pid(self) -> int:
        """The guardian's own pid."""
        return self._process.pid

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        """One request and its answer."""
        with self._lock:
            try:
                self._socket.sendall(json.dumps({"do": do, **words}).encode() + b"\n")
                line = self._answers.readline()
            except OSError:
                line = b""
        if not line:
            raise BedError(f"The bed's guardian process is gone.\n{log_tail(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BedError(f"The bed's guardian could not {do}: {answer['error']}.")
        return answer

    def close(self, *, keep: bool) -> None:
        """Let the guardian end everything; returns when no server is left, while folders may still be going."""
        try:
            self.ask("goodbye", keep=keep)
        except BedError:
            # One that was killed has taken its servers along; any other end is a fault of the bed's own.
            if self._process.wait(timeout=10) != -signal.SIGKILL:
                raise
        self._answers.close()
        self._socket.close()
        self._waiting = threading.Thread(target=self._process.wait, name="testbed-guardian", daemon=True)
        self._waiting.start()

    def wait(self) -> None:
        """After `close`, until the guardian itself has left."""
        if self._waiting is not None:
            self._waiting.join()


@dataclass
class Process:
    """One running program."""

    name: str
    pid: int
    log: Path
    guardian: Guardian = field(repr=False)

    @classmethod
    def spawn(
        cls,
        guardian: Guardian,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        inside: int | None = None,
    ) -> Process:
        """Start a program; `inside` is the init of the namespaces that it shall live in."""
        request = {
            "argv": [str(word) for word in argv],
            "env": {**os.environ, **(env or {})},
            "cwd": str(log.parent),
            "log": str(log),
            "inside": inside,
        }
        answer = guardian.ask("spawn", **request)
        return cls(name, int(answer["pid"]), log, guardian)

    def exit_code(self) -> int | None:
        """None while it runs; the negative signal number if one ended it."""
        code = self.guardian.ask("poll", pid=self.pid)["code"]
        return None if code is None else int(code)

    @property
    def running(self) -> bool:
        """Whether it has not ended (a stopped one runs)."""
        return self.exit_code() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self.guardian.ask("signal", pid=self.pid, signal=int(number))

    async def ended(self, seconds: float) -> bool:
        """Whether it ends within the time."""
        deadline = time.monotonic() + seconds
        while self.running:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        if not await self.ended(10):
            raise BedError(f"{self.name} (process {self.pid}) does not end even by SIGKILL.")

    async def close(self, grace: float = 10) -> None:
        """Ask it to end, wait, and kill it if it does not."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if not await self.ended(grace):
            await self.kill()
