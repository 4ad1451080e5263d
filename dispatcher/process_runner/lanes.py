"""Starts launchers, speaks with them, and keeps them warm: one FIFO to each, one FIFO from all.

A launcher leads a session of its own, so a signal to Penstock's terminal does not reach it and it outlives a crash
while a script runs; when idle it ends by itself, since it reads from a FIFO that nobody holds open any more. It gets
nothing of our environment but what a login shell would have, besides what the function defines.

Starting one costs about as much as a trivial script. A lane is therefore kept for the next Job with the same
environment (which is one of the same function), once nothing of the Job before it is left.
"""
# Plain os calls, no Path objects: on the path of every Job, where an object costs more than the system call.
# ruff: noqa: PTH103, PTH108, PTH208

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping

from dispatcher.process_runner import processes
from dispatcher.process_runner.layout import LAUNCHER, SHELL
from dispatcher.process_runner.lookahead import PAUSE_S
from penstock.errors import InvalidInput, Unavailable

FOLDER = ".lanes"

_BASE_NAMES = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL"})
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_NULL = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
    (os.POSIX_SPAWN_DUP2, 0, 1),
    (os.POSIX_SPAWN_DUP2, 0, 2),
]
_WORDS_DESCRIPTOR = 9
#: Python ignores some of these; a script expects the default.
_DEFAULT_SIGNALS = [
    number
    for name in ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
    if (number := getattr(signal, name, None)) is not None
]
_LONGEST_WORD = 4096
#: An idle launcher costs 700 KiB; it is let go after this time.
_IDLE_S = 5.0


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What user code may inherit: never Penstock's settings, tokens, or the credentials of a cloud."""
    kept = {name: value for name, value in environ.items() if name in _BASE_NAMES or name.startswith("LC_")}
    kept.setdefault("PATH", _DEFAULT_PATH)
    return kept


class Lane:
    """One launcher. `gone` is set when it has ended; its number may be a stranger's then."""

    __slots__ = ("above", "environment", "fifo", "gone", "idle_since", "lost", "ours", "pid", "pidfd", "start", "words")

    def __init__(self, pid: int, start: int, fifo: str, words: int, environment: Mapping[str, str] | None) -> None:
        self.pid = pid
        self.start = start
        self.fifo = fifo
        #: Our end of its FIFO.
        self.words = words
        #: What it was started with; None = by an earlier life, so it is not used again.
        self.environment = environment
        self.pidfd = os.pidfd_open(pid)
        #: Our own child, whose end must be waited for.
        self.ours = environment is not None
        self.above = pid
        self.gone = False
        self.idle_since = 0.0
        #: Called when it ends while it serves a Job.
        self.lost: Callable[[], None] | None = None

    def say(self, words: str) -> bool:
        """False = it is gone, or its FIFO is full because user code wrote into it."""
        data = words.encode()
        try:
            return os.write(self.words, data) == len(data)
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        if not self.gone:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)


class Lanes:
    """All launchers. `heard` is told what they say: (Job, index of the item that ended)."""

    def __init__(
        self, workdir: str, heard: Callable[[str, int], None], *, warm: int, calm: Callable[[], bool] = lambda: False
    ) -> None:
        """`warm` = how many idle ones are kept; `calm` = nobody need hurry to hear the next word. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._workdir = workdir
        self._folder = f"{workdir}/{FOLDER}"
        self._alive = f"{workdir}/{FOLDER}/alive"
        self._heard = heard
        self._warm = warm
        self._calm = calm
        self._pause: asyncio.TimerHandle | None = None
        self._rest = b""
        self._all: dict[int, Lane] = {}
        self._idle: list[Lane] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._life = secrets.token_hex(4)
        self._count = 0
        os.makedirs(self._folder, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._alive, 0o600)
        # Read-write, so that it never reports its end when the last launcher goes.
        self._ears = os.open(self._alive, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop.add_reader(self._ears, self.listen)

    def listen(self) -> None:
        """Read what is there and pass on each `NAME exit N CODE`. It is a hint: whoever hears it looks at the files.
        Then have ears again after a pause, where there is no hurry.
        """
        try:
            data = os.read(self._ears, 65536)
        except BlockingIOError:
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[-_LONGEST_WORD:]
        for line in lines:
            words = line.split()
            if len(words) == 4 and words[1] == b"exit" and words[2].isdigit() and len(words[2]) < 8:
                self._heard(words[0].decode("ascii", "replace"), int(words[2]))
        if self._pause is None and self._calm():
            self._loop.remove_reader(self._ears)
            self._pause = self._loop.call_later(PAUSE_S, self._listen_again)

    def _listen_again(self) -> None:
        self._pause = None
        self._loop.add_reader(self._ears, self.listen)
        self.listen()

    def take(self, environment: Mapping[str, str]) -> Lane:
        """A launcher with exactly this environment: a warm one, else a new one. Raises InvalidInput, Unavailable."""
        for position, lane in enumerate(self._idle):
            if lane.environment == environment:
                del self._idle[position]
                return lane
        return self._start(environment)

    def _start(self, environment: Mapping[str, str]) -> Lane:
        self._count += 1
        fifo = f"{self._life}-{self._count:x}"
        path = f"{self._folder}/{fifo}"
        reading = words = -1
        pid = 0
        try:
            os.mkfifo(path, 0o600)
            reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            words = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(reading, True)
            pid = self._spawn(reading, environment)
            process = processes.inspect(pid)
            lane = Lane(pid, 0 if process is None else process.start, fifo, words, environment)
        except BaseException as error:
            if words >= 0:
                os.close(words)
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                os.unlink(path)
            if isinstance(error, OSError):
                raise Unavailable(f"no process could be started: {error.strerror}") from error
            raise
        finally:
            if reading >= 0:
                os.close(reading)
        self._watch(lane)
        return lane

    def _spawn(self, reading: int, environment: Mapping[str, str]) -> int:
        arguments = [SHELL, LAUNCHER, "--lane", self._workdir, self._alive]
        try:
            return os.posix_spawn(
                SHELL,
                arguments,
                environment,
                file_actions=[*_NULL, (os.POSIX_SPAWN_DUP2, reading, _WORDS_DESCRIPTOR)],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            raise InvalidInput(
                "the environment variables and secrets are too large for a process: one may have 128 KiB, all together "
                "about 2 MiB; put large values in a file or a bucket",
                where="environment",
            ) from error
        except ValueError as error:
            raise InvalidInput(f"a variable cannot be given to a process: {error}", where="environment") from error

    def adopt(self, pid: int, start: int, fifo: str) -> Lane | None:
        """Take over a launcher of an earlier life; None = it has just ended."""
        try:
            words = os.open(f"{self._folder}/{fifo}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # nobody reads it any more
            return None
        try:
            lane = Lane(pid, start, fifo, words, None)
        except OSError:
            os.close(words)
            return None
        self._watch(lane)
        lane.send(signal.SIGCONT)  # the earlier life may have ended while it held it still
        return lane

    def _watch(self, lane: Lane) -> None:
        self._all[lane.pid] = lane
        self._loop.add_reader(lane.pidfd, self._ended, lane)

    def _ended(self, lane: Lane) -> None:
        self._drop(lane)
        if lane.lost is not None:
            lane.lost()

    def _drop(self, lane: Lane) -> None:
        """Let go of a launcher that has ended or is being killed."""
        if lane.gone:
            return
        lane.gone = True
        del self._all[lane.pid]
        if lane in self._idle:
            self._idle.remove(lane)
        self._loop.remove_reader(lane.pidfd)
        os.close(lane.pidfd)
        os.close(lane.words)
        if lane.ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(lane.pid, 0)
        with contextlib.suppress(OSError):
            os.unlink(f"{self._folder}/{lane.fifo}")

    def give_back(self, lane: Lane, newest: int) -> None:
        """Nothing of its Job is left; `newest` = the newest process number when that was found out."""
        lane.lost = None
        if lane.gone:
            return
        if lane.environment is None or len(self._idle) >= self._warm:
            self.kill(lane)
            return
        lane.above = newest
        lane.idle_since = time.monotonic()
        self._idle.insert(0, lane)
        if self._expiry is None:
            self._expiry = self._loop.call_later(_IDLE_S, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        limit = time.monotonic() - _IDLE_S
        for lane in [lane for lane in self._idle if lane.idle_since <= limit]:
            self.kill(lane)
        if self._idle:
            self._expiry = self._loop.call_later(_IDLE_S, self._expire)

    def kill(self, lane: Lane) -> None:
        lane.kill()
        self._drop(lane)

    @property
    def sessions(self) -> dict[int, Lane]:
        """By the session that each leads."""
        return self._all

    def sweep_files(self) -> None:
        """Remove FIFOs of launchers that nobody adopted."""
        kept = {lane.fifo for lane in self._all.values()} | {"alive"}
        for name in os.listdir(self._folder):
            if name not in kept:
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._folder}/{name}")

    def close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for lane in list(self._all.values()):
            self.kill(lane)
        self._loop.remove_reader(self._ears)
        os.close(self._ears)
