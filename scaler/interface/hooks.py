"""CLUES's fourteen hooks: programs told of what happens to nodes, and asked before one is switched.

Differences to CLUES, where a hook blocks everything and its answer is ignored: programs run beside the scaler, bounded
in time and number, in order for each node, and PRE_POWERON and PRE_POWEROFF may say no. A program gets no secret: of
the environment it sees the path, the language and what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import msgspec
import structlog

from penstock.errors import InvalidInput, Unavailable
from scaler.control import Happening, HookEvent
from scaler.interface.wording import expression_of
from scaler.model import Request

log = structlog.get_logger("scaler.hooks")

#: Of what a program prints, so much is kept, and the last line of it told.
_KEPT_BYTES = 64 * 1024
_SHOWN = 200
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")
_CHECKED_FIRST = frozenset({Happening.PRE_POWERON, Happening.PRE_POWEROFF})


class HookOptions(msgspec.Struct, frozen=True, kw_only=True):
    #: Command line of each hook that has one.
    programs: dict[Happening, tuple[str, ...]] = {}
    timeout_s: float = 30.0
    folder: Path | None = None
    workers: int = 4
    waiting: int = 1000


class HookCounts(msgspec.Struct):
    """What came of hooks, for metrics: (kind, "ok" | "failed" | "timeout" | "veto" | "dropped") -> how often."""

    ended: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)


def read_options(
    commands: Mapping[str, str], *, timeout_s: float, folder: Path | None, workers: int, waiting: int
) -> HookOptions:
    """Check command lines by hook name. Raises InvalidInput when one cannot be read or its program does not exist."""
    programs = {}
    for kind in Happening:
        where = f"hooks.{kind.value}"
        try:
            words = shlex.split(commands.get(kind.value, ""))
        except ValueError as error:
            raise InvalidInput(f"is no command line: {error}", where=where) from error
        if words:
            programs[kind] = (_program(words[0], folder, where), *words[1:])
    return HookOptions(programs=programs, timeout_s=timeout_s, folder=folder, workers=workers, waiting=waiting)


def _program(name: str, folder: Path | None, where: str) -> str:
    # A name without a path that lies in the folder means that one; anything else is found as in a shell.
    path = None if folder is None else os.pathsep.join((str(folder), os.environ.get("PATH", os.defpath)))
    near = str(folder / name) if folder is not None and os.sep in name else name
    found = shutil.which(near, path=path)
    if found is None:
        raise InvalidInput(f"there is no program {name!r}, or it may not be run", where=where)
    return str(Path(found).absolute())


def arguments(event: HookEvent) -> tuple[str, ...]:
    """What the program is given after its own words, as CLUES does."""
    match event.kind:
        case Happening.POST_POWERON | Happening.POST_POWEROFF:
            return event.node, "1" if event.accepted else "0", event.name or event.node
        case Happening.ONERR | Happening.OFFERR:
            return event.node, str(event.failures)
        case Happening.REQUEST:
            return _of_request(event.request) if event.request is not None else ("", "0", "0", "0", "0", "")
        case _:
            return (event.node,)


def _of_request(request: Request) -> tuple[str, ...]:
    amounts = dict(request.spec.requests)
    slots = f"{amounts.get('cpu', 0) / 1000:g}"
    per_node = str(request.per_node or request.tasks)
    selector = [f'{key} == "{value}"' for key, value in request.spec.selector]
    expressions = ";".join((*selector, *([text] if (text := expression_of(request.spec.affinity)) else [])))
    return request.id, slots, str(amounts.get("memory", 0)), str(request.tasks), per_node, expressions


class ProgramHooks:
    """Implements `scaler.control.Hooks`. `run` must be running for happenings to be told; `allow` needs nothing."""

    def __init__(self, options: HookOptions) -> None:
        self._options = options
        self._queues: list[asyncio.Queue[HookEvent]] = [asyncio.Queue() for _ in range(options.workers)]
        self.counts = HookCounts()

    @property
    def waiting(self) -> int:
        """Happenings that are not told yet."""
        return sum(queue.qsize() for queue in self._queues)

    async def allow(self, event: HookEvent) -> str:
        """As `Hooks.allow`. Raises Unavailable when the program cannot be started or does not answer in time."""
        words = self._options.programs.get(event.kind)
        if words is None:
            return ""
        status, said = await self._run(event, words)
        if not status:
            self._count(event, "ok")
            return ""
        self._count(event, "veto")
        return f"hook {event.kind.value} said no: {said or f'status {status}'}"

    def told(self, events: Sequence[HookEvent]) -> None:
        """As `Hooks.told`."""
        for event in events:
            # Whoever is asked before an order is not told of it a second time.
            if event.kind not in self._options.programs or event.kind in _CHECKED_FIRST:
                continue
            if self.waiting >= self._options.waiting:
                self._count(event, "dropped")
                log.warning("a hook is not told", action="hook_dropped", hook=event.kind.value, node=event.node)
                continue
            # One node's happenings go through one queue, so they are told in order.
            self._queues[crc32(event.node.encode()) % len(self._queues)].put_nowait(event)

    async def run(self) -> None:
        """Tell what happens, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for queue in self._queues:
                tasks.create_task(self._tell(queue))

    async def drain(self) -> None:
        """Until everything that waits was told."""
        for queue in self._queues:
            await queue.join()

    async def _tell(self, queue: asyncio.Queue[HookEvent]) -> None:
        while True:
            event = await queue.get()
            try:
                status, said = await self._run(event, self._options.programs[event.kind])
            except Unavailable as error:
                log.warning("a hook failed", action="hook_failed", hook=event.kind.value, error=error.message)
            else:
                self._count(event, "failed" if status else "ok")
                if status:
                    log.warning(
                        "a hook failed", action="hook_failed", hook=event.kind.value, node=event.node, said=said
                    )
            finally:
                queue.task_done()

    def _count(self, event: HookEvent, outcome: str) -> None:
        self.counts.ended[event.kind.value, outcome] += 1

    async def _run(self, event: HookEvent, words: tuple[str, ...]) -> tuple[int, str]:
        """Run to its end: (status, its last line). Raises Unavailable; the program and its children are ended then."""
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                *arguments(event),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._options.folder,
                env=_environment(event),
                start_new_session=True,
            )
        except OSError as error:
            self._count(event, "failed")
            raise Unavailable(f"hook {event.kind.value} cannot be run: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(self._options.timeout_s):
                said = await _last_line(process)
                status = await process.wait()
        except TimeoutError as error:
            self._count(event, "timeout")
            raise Unavailable(
                f"hook {event.kind.value} did not answer within {self._options.timeout_s:g} s and was ended"
            ) from error
        finally:
            await _end(process)
        return status, said


def _environment(event: HookEvent) -> dict[str, str]:
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return passed | {
        "PENSTOCK_HOOK": event.kind.value,
        "PENSTOCK_NODE": event.node,
        "PENSTOCK_POOL": event.pool,
        "PENSTOCK_REASON": event.reason,
        "PENSTOCK_TIME_MS": str(event.time_ms),
    }


async def _last_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    kept = b""
    while chunk := await process.stdout.read(_KEPT_BYTES):
        kept = (kept + chunk)[-_KEPT_BYTES:]
    lines = kept.decode("utf-8", "replace").split("\n")
    return next((line.strip()[:_SHOWN] for line in reversed(lines) if line.strip()), "")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Whatever is left of the program, children too, is ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await process.wait()
    # Read to the end: a pipe that is left unread would stay open with the loop.
    if process.stdout is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await process.stdout.read()
