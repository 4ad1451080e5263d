"""The baselines of a long simulation in a process of their own, so that a year runs on two processors.

A plain child with two pipes rather than `multiprocessing`, which would import the caller's main program a second time.
It reads the options, runs until every job has ended, says when that was, is told up to when energy is compared, and
answers with the outcomes. Messages are MessagePack, each after its length in eight bytes.
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
from scaler.simulate.always_on import AlwaysOn
from scaler.simulate.options import SimulationOptions, jobs_of
from scaler.simulate.report import Outcome, outcome_of
from scaler.simulate.theirs import Clues
from scaler.simulate.trace import Job
from scaler.simulate.world import World

T = TypeVar("T")
_LENGTH = 8


class Answer(msgspec.Struct, frozen=True):
    outcome: Outcome
    #: (time in ms, machines not off, jobs waiting); empty unless a chart is asked for.
    samples: list[tuple[int, int, int]]


class Baselines:
    """CLUES's policy and always on over the options' trace, in this process."""

    def __init__(self, options: SimulationOptions, jobs: list[Job]) -> None:
        self._options = options
        self._jobs = jobs
        self._clues, self._always = Clues(options.clues), AlwaysOn()
        self._worlds = [World(options.fleet, jobs, one, pack=options.pack) for one in (self._clues, self._always)]

    def run_out(self) -> int:
        """Until every job has ended; returns when the last did (ms)."""
        for world in self._worlds:
            world.run_out()
        return max(world.last_end_ms for world in self._worlds)

    def finish(self, end_ms: int) -> list[Answer]:
        """Of CLUES, then of always on."""
        for world in self._worlds:
            world.run_until(end_ms)
        answers = []
        for world, decisions in zip(self._worlds, (self._clues.passes, 0), strict=True):
            price = self._options.energy_price
            outcome = outcome_of(world, len(self._jobs), energy_price=price, decisions=decisions)
            answers.append(Answer(outcome, world.samples if self._options.chart else []))
        return answers


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

    def finish(self, end_ms: int) -> list[Answer]:
        """As `Baselines.finish`."""
        self._say(end_ms)
        return self._hear(list[Answer])


def _ended() -> PenstockError:
    return PenstockError("the process that simulates the baselines ended before its answer")


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
        options = _read(sys.stdin.buffer, SimulationOptions)
        run = Baselines(options, jobs_of(options))
        _write(sys.stdout.buffer, run.run_out())
        _write(sys.stdout.buffer, run.finish(_read(sys.stdin.buffer, int)))
