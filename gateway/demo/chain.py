"""Following the demo's pictures through the chain of functions, and showing how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gateway.cli.failures import WorkFailed
from gateway.cli.progress import watched
from penstock.answers import Change, Invocation
from penstock.client import Client

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds without any change after which the demo gives up: one picture takes well below one.
STALL_S = 60.0
#: Where nobody watches a bar, a line is printed at each of so many parts.
PARTS = 4


class Chain:
    """Follows a chain of functions until each has finished as many invocations as there are pictures."""

    def __init__(self, client: Client, functions: Sequence[str], wanted: int, say: Callable[[str], None]) -> None:
        self._client = client
        self._functions = tuple(functions)
        self._wanted = wanted
        self._say = say
        self._latest: dict[str, Invocation] = {}

    async def follow(self, changes: AsyncIterator[Change]) -> None:
        """Read changes until everything has ended. Raises WorkFailed when nothing moves any more."""
        with Shown(self._functions, self._wanted, self._say) as shown:
            while not self._complete():
                try:
                    change = await asyncio.wait_for(anext(changes), STALL_S)
                except StopAsyncIteration:
                    raise WorkFailed("the server stopped while pictures were in work") from None
                except TimeoutError:
                    raise WorkFailed(f"nothing has moved for {STALL_S:.0f} s: {self._counts()}") from None
                await self._take(change)
                for name in self._functions:
                    shown.update(name, self._ended(name))

    def succeeded(self, function: str) -> int:
        return sum(one.phase == "succeeded" for one in self._of(function))

    def failures(self) -> tuple[str, ...]:
        return tuple(
            f"{one.function} on {one.input} {one.phase} ({one.reason or 'no reason given'})"
            for one in self._latest.values()
            if one.final and one.phase != "succeeded"
        )

    def last(self, function: str) -> str:
        """Return the id of the function's invocation that ended last, "" if there is none."""
        ended = max(self._of(function), key=lambda one: one.finished_ms, default=None)
        return ended.id if ended else ""

    async def _take(self, change: Change) -> None:
        if change.invocation is not None:
            self._latest[change.invocation.id] = change.invocation
            return
        for name in self._functions:  # a gap: messages were lost, so look again
            page = await self._client.invocations(function=name, limit=1000)
            self._latest |= {one.id: one for one in page.invocations}

    def _complete(self) -> bool:
        # Once one has failed, the functions behind it will never see as many.
        if self.failures():
            return all(one.final for one in self._latest.values()) and self._ended(self._functions[0]) >= self._wanted
        return all(self._ended(name) >= self._wanted for name in self._functions)

    def _of(self, function: str) -> list[Invocation]:
        return [one for one in self._latest.values() if one.function == function]

    def _ended(self, function: str) -> int:
        return sum(one.final for one in self._of(function))

    def _counts(self) -> str:
        return ", ".join(f"{name} has ended {self._ended(name)} of {self._wanted}" for name in self._functions)


class Shown:
    """How far each function is: bars on a terminal, else a line at each quarter."""

    def __init__(self, functions: Sequence[str], wanted: int, say: Callable[[str], None]) -> None:
        self._functions = functions
        self._wanted = wanted
        self._say = say
        self._parts = dict.fromkeys(functions, 0)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if watched():
            from rich import progress  # noqa: PLC0415 - only a terminal pays for it
            from rich.console import Console  # noqa: PLC0415

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
            )
            self._bars = progress.Progress(*columns, console=Console(stderr=True))
            self._tasks = {name: self._bars.add_task(name, total=self._wanted) for name in self._functions}
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, function: str, ended: int) -> None:
        if self._bars is not None:
            self._bars.update(self._tasks[function], completed=ended)
            return
        part = ended * PARTS // self._wanted
        if part > self._parts[function]:
            self._parts[function] = part
            self._say(f"  {function}: {ended} of {self._wanted}")
