"""The one place where the scaler's state changes: every change is stored before anybody acts on it.

Many orders are answered at about the same time, and each answer is a change; those that wait are stored together. A
decision takes the lock for as long as it looks and writes, so nothing moves under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from penstock.errors import PenstockError, Unavailable
from penstock.tasks import settle
from scaler.records import State
from scaler.store import Store

Change = Callable[[State], State]


class Journal:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._waiting: list[tuple[Change, asyncio.Future[State]]] = []
        self._state = State()
        self._known = False

    @property
    def state(self) -> State:
        """As last stored."""
        return self._state

    async def open(self) -> State:
        """Read what an earlier life left. Raises as `Store.load`."""
        async with self._lock:
            return await self._reload()

    async def _reload(self) -> State:
        self._state = await self._store.load()
        self._known = True
        return self._state

    async def change(self, change: Change) -> State:
        """Apply and store; returns the state with it. Raises what `change` raises, and as `Store.save`: then nothing of
        it may be acted on.
        """
        done: asyncio.Future[State] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        async with self._lock:
            if not done.done():
                await self._flush()
        return await done

    async def _flush(self) -> None:
        """Store all that wait, at once."""
        taken, self._waiting = self._waiting, []
        outcome: list[State | PenstockError] = []
        try:
            if not self._known:
                await self._reload()
            state = self._state
            for change, _ in taken:
                try:
                    state = change(state)
                    outcome.append(state)
                except PenstockError as error:
                    outcome.append(error)
            await self._save(state)
        except PenstockError as error:
            outcome = [error] * len(taken)
        except asyncio.CancelledError:
            outcome = [Unavailable("the scaler stopped while it stored its state")] * len(taken)
            raise
        finally:
            for (_, done), became in zip(taken, outcome, strict=False):
                settle(done, became)

    async def _save(self, state: State) -> None:
        if state is self._state or state == self._state:
            self._state = state
            return
        try:
            await self._store.save(state)
        except BaseException:
            # It may have been stored: what is true is read before the next change.
            self._known = False
            raise
        self._state = state

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """The state to oneself, to look, decide and write once."""
        async with self._lock:
            if not self._known:
                await self._reload()
            yield Turn(self)


class Turn:
    """What a decision holds while it has the state to itself."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def state(self) -> State:
        return self._journal.state

    async def write(self, state: State) -> None:
        """Raises as `Store.save`."""
        await self._journal._save(state)  # noqa: SLF001 - two halves of one thing
