"""What the service programs `python -m watcher|dispatcher|scaler|gateway` have in common, so that they feel like one.

The options that all of them take, the one sentence that says what is wrong, the exit codes, and how a signal ends a
service are decided here. What a service is told besides, what of its settings can never work, and what it then does are
its own: its `__main__` says so with a `Program` and a function that prepares its work.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import structlog

from penstock import version_text
from penstock.collector import spare_collector
from penstock.errors import InvalidInput, PenstockError
from penstock.observability import configure_logging
from penstock.settings import Settings, load

log = structlog.get_logger("penstock.program")

#: Exit codes. A part that failed can perhaps be mended and then started again; settings that cannot work never can.
OK, FAILED, UNUSABLE = 0, 1, 2

#: New objects after which the garbage collector looks at them. After Python's own 700 the whole heap is looked through
#: every few thousand Jobs, for a quarter of a second on a busy machine, while nothing else happens.
_COLLECT_AFTER = 10_000

_EXIT_CODES = f"{OK} stopped by a signal, {FAILED} a part failed, {UNUSABLE} the settings cannot work"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a program is about to do, once its settings were found usable."""

    #: Runs until it fails or a signal comes (see `until_signal`). Raises PenstockError.
    serve: Callable[[], Coroutine[Any, Any, None]]
    #: What `--check` tells besides its verdict.
    found: str = ""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One service program, as its help presents it."""

    #: The word after `python -m`.
    module: str
    #: One sentence.
    description: str
    #: Whole command lines.
    examples: tuple[str, ...]
    #: Where to read on, a line or two.
    pages: str

    def parser(self) -> argparse.ArgumentParser:
        """The options that all programs take; a service adds its own. What it refuses ends the process with 2."""
        lines = "\n".join(f"  {example}" for example in self.examples)
        parser = _Parser(
            prog=f"python -m {self.module}",
            description=self.description,
            epilog=f"examples:\n{lines}\n\n{self.pages}\nexit codes: {_EXIT_CODES}\n",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # A script that relies on `--conf` breaks when an option of that beginning is added.
            allow_abbrev=False,
        )
        parser.add_argument(
            "--config", type=Path, metavar="FILE", help="settings in TOML; the environment wins over it"
        )
        parser.add_argument(
            "--check", action="store_true", help="say whether the settings can be used (0, or 2), and end"
        )
        parser.add_argument("--version", action="version", version=version_text(), help="print the version and end")
        return parser

    def run(self, given: argparse.Namespace, prepare: Callable[[Settings], Work]) -> int:
        """Load the settings, let the service prepare, then check only or serve; returns the exit code.

        `prepare` opens nothing. It raises InvalidInput, which names the setting, for what can never work.
        """
        try:
            settings = load(given.config)
            configure_logging(settings.log)
            work = prepare(settings)
            if given.check:
                verdict = f"the settings can be used{f': {work.found}' if work.found else ''}"
                print(verdict)  # noqa: T201 - the answer to a question
                return OK
            spare_collector(_COLLECT_AFTER)
            asyncio.run(work.serve())
            log.info("stopped", action="stopped", service=self.module)
        except InvalidInput as error:
            return _refused(error, UNUSABLE)
        except PenstockError as error:
            return _refused(error, FAILED)
        except KeyboardInterrupt:
            pass  # it came before the service could take it for its end, which it is
        return OK


async def until_signal(work: Coroutine[Any, Any, None], stop: Callable[[], None] | None = None) -> None:
    """Run `work` until it ends, raising what it raises. At SIGTERM or SIGINT `stop` is called, after which the work is
    to end by itself (None = it is cancelled: there is nothing to finish first); a second signal cancels it in any case.
    """
    task = asyncio.create_task(work, name="service")
    loop = asyncio.get_running_loop()
    came = 0

    def signalled() -> None:
        nonlocal came
        came += 1
        if came == 1 and stop is not None:
            stop()
        else:
            task.cancel()

    # They stay until the loop is closed: a late signal must not kill what is being closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    try:
        await task
    except asyncio.CancelledError:
        if not came:
            raise
        if came > 1:
            log.warning("stopped by a second signal", action="forced")


@asynccontextmanager
async def cut_short(stop: asyncio.Event) -> AsyncIterator[None]:
    """Leave the block as soon as `stop` is set, by cancelling what it waits for; for opening what may be away long."""
    inside = True

    def leave(stopping: asyncio.Task[bool]) -> None:
        if inside and not stopping.cancelled():
            limit.reschedule(0)

    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        async with asyncio.timeout(None) as limit:
            stopping.add_done_callback(leave)
            try:
                yield
            finally:
                inside = False
    except TimeoutError:
        if not limit.expired():
            raise
    finally:
        stopping.cancel()


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, like everything else; the usage is in the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"error: {message}; '{self.prog} --help' lists the options\n")


def _refused(error: PenstockError, code: int) -> int:
    print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - for whoever started it
    return code
