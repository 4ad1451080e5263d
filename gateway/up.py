"""`penstock up`: runs embedded mode in the foreground until a signal, and stops in order.

The first SIGTERM or SIGINT stops gracefully: nothing new is accepted, running items get `drain_s` seconds, whatever is
left is killed and runs again at the next start. A second signal does not wait for the rest of that time. Either way no
child process outlives this one.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from gateway.embedded import Embedded
from penstock.collector import spare_collector
from penstock.observability import configure_logging
from penstock.settings import Settings, load, override

log = structlog.get_logger("gateway.up")

#: New objects after which the garbage collector looks at them: what comes and goes with items is free of cycles.
_COLLECT_AFTER = 20_000


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What the command line gave; None = not given, so the settings file and the environment decide."""

    data: Path | None = None
    listen: str | None = None
    allow_remote: bool | None = None
    drain_s: float | None = None
    s3: bool | None = None
    s3_listen: str | None = None
    config: Path | None = None
    #: FDL files deployed before anything else runs, all or nothing per file.
    apply: tuple[Path, ...] = ()
    #: Called once everything is up, with the address and the data folder.
    announce: Callable[[str, Path], None] | None = None
    #: As `announce`, with the address of S3 when it is served.
    announce_s3: Callable[[str], None] | None = None


async def serve(options: UpOptions) -> int:
    """Run until a signal; returns the exit code (0 = stopped as asked, all work ended or will go on at the next start).

    Raises PenstockError when it cannot start, and what a part raised when the platform broke while running.
    """
    settings = chosen(options)
    configure_logging(settings.log)
    with _Signals() as signals:
        platform = Embedded(settings, apply=options.apply)
        if not await signals.unless_first(_entered(platform)):
            return 0
        async with _leaving(platform):
            return await _live(platform, signals, options, settings.up.drain_s)


def chosen(options: UpOptions) -> Settings:
    """Settings of file and environment with the command line laid over. Raises InvalidInput."""
    settings = load(options.config)
    settings = override(settings, "http", listen=options.listen, allow_remote=options.allow_remote)
    return override(
        settings, "up", data=options.data, drain_s=options.drain_s, s3=options.s3, s3_listen=options.s3_listen
    )


async def _entered(platform: Embedded) -> None:
    await platform.__aenter__()


@asynccontextmanager
async def _leaving(platform: Embedded) -> AsyncIterator[None]:
    """The closing half of an `async with`: opening has its own way to be broken off by a signal."""
    try:
        yield
    finally:
        await platform.__aexit__(None, None, None)


async def _live(platform: Embedded, signals: _Signals, options: UpOptions, drain_s: float) -> int:
    running = asyncio.create_task(platform.run(), name="platform")
    thresholds = gc.get_threshold()
    ready = asyncio.create_task(platform.ready(), name="ready")
    stop = asyncio.create_task(signals.first.wait(), name="first signal")
    waiting: set[asyncio.Task[Any]] = {running, ready, stop}
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if ready in done and running not in done:
            log.info("everything is up", action="ready", address=platform.address, data=str(platform.data))
            spare_collector(_COLLECT_AFTER)
            if options.announce is not None:
                options.announce(platform.address, platform.data)
            if options.announce_s3 is not None and platform.services.s3 is not None:
                options.announce_s3(platform.services.s3.endpoint)
            await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running  # raises what broke
        await _drain(platform, signals, drain_s)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        for task in (ready, stop, running):
            task.cancel()
        await asyncio.gather(ready, stop, running, return_exceptions=True)
    return 0


async def _drain(platform: Embedded, signals: _Signals, seconds: float) -> None:
    draining = asyncio.create_task(platform.drain(seconds), name="drain")
    forced = asyncio.create_task(signals.second.wait(), name="second signal")
    await asyncio.wait({draining, forced}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        log.warning("second signal: running items are killed now", action="forced")
    for task in (draining, forced):
        task.cancel()
    await asyncio.gather(draining, forced, return_exceptions=True)


class _Signals:
    """SIGTERM and SIGINT as two events, the handlers of before put back at the end."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.getsignal(number)
            self._loop.add_signal_handler(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, before)

    def _came(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    async def unless_first(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work, or break it off at the first signal (False)."""
        task = asyncio.create_task(work, name="start")
        stop = asyncio.create_task(self.first.wait(), name="first signal")
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
                return True
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            # It may have ended in the very moment; then it is open and must be closed by the caller.
            return not task.cancelled() and task.exception() is None
        finally:
            stop.cancel()
            await asyncio.gather(stop, return_exceptions=True)
