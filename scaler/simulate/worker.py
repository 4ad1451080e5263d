"""One policy of a long simulation in a process of its own, so that a year runs on two processors.

A plain child with two pipes rather than `multiprocessing`, which would import the caller's main program a second time.
It reads the options, runs until every job has ended, says when that was, is told up to when energy is compared, and
answers with the outcome. Messages are MessagePack, each after its length in eight bytes.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Self, TypeVar

import msgspec

from penstock.errors import PenstockError
from scaler.simulate.options import SimulationOptions, jobs_of
from scaler.simulate.report import Outcome, outcome_of
from scaler.simulate.theirs import Clues
from scaler.simulate.world import World

T = TypeVar("T")
_LENGTH = 8


class Answer(msgspec.Struct, frozen=True):
    outcome: Outcome
    #: (time in ms, machines not off, jobs waiting); empty unless a chart is asked for.
    samples: list[tuple[int, int, int]]


class CluesRun:
    """CLUES's policy over the options' trace, in this process."""

    def __init__(self, options: SimulationOptions) -> None:
        self._options = options
        self._jobs = jobs_of(options)
        self._controller = Clues(options.clues)
        self._world = World(options.fleet, self._jobs, self._controller, pack=options.pack)

    def run_out(self) -> int:
        """Until every job has ended; returns when the last did (ms)."""
        self._world.run_out()
        return self._world.last_end_ms

    def finish(self, end_ms: int) -> Answer:
        self._world.run_until(end_ms)
        outcome = outcome_of(
            self._world,
            len(self._jobs),
            energy_price=self._options.energy_price,
            decisions=self._controller.passes,
        )
        return Answer(outcome, self._world.samples if self._options.chart else [])


class Worker:
    """The same in a child. Use as a context manager: leaving it early ends the child."""

    def __init__(self, options: SimulationOptions) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from scaler.simulate.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._say(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # it ended first; what it said of it is on standard error
        if error is not None:
            self._process.kill()
        self._process.wait()

    def _say(self, value: object) -> None:
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, value)
        except BrokenPipeError as error:
            raise _ended() from error

    def _hear(self, kind: type[T]) -> T:
        assert self._process.stdout is not None
        return _read(self._process.stdout, kind)

    def run_out(self) -> int:
        return self._hear(int)

    def finish(self, end_ms: int) -> Answer:
        self._say(end_ms)
        return self._hear(Answer)


def _ended() -> PenstockError:
    return PenstockError("the process that simulates CLUES's policy ended before its answer")


def _write(stream: IO[bytes], value: object) -> None:
    data = msgspec.msgpack.encode(value)
    stream.write(len(data).to_bytes(_LENGTH, "big") + data)
    stream.flush()


def _read(stream: IO[bytes], kind: type[T]) -> T:
    head = stream.read(_LENGTH)
    data = stream.read(int.from_bytes(head, "big")) if len(head) == _LENGTH else b""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise _ended() from error


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let Python look for cycles seldom: a year's jobs are many objects that stay, and looking through them time and
    again took a sixth of the run. Restored at the end.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def main() -> None:
    """Run as the child: options in, the end of the last job out, the end of the comparison in, the answer out."""
    with seldom_collected():
        run = CluesRun(_read(sys.stdin.buffer, SimulationOptions))
        _write(sys.stdout.buffer, run.run_out())
        _write(sys.stdout.buffer, run.finish(_read(sys.stdin.buffer, int)))
