"""One SQLite file for many asyncio callers: a writer thread with group commit and a few reader threads.

A commit costs a disk sync, and everything that waits while one is under way can share the next. So callers queue small
functions; the writer thread runs all that are waiting in one transaction and tells the event loop once per group, not
once per caller. Readers have connections of their own and, in WAL mode, never wait for the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from penstock.adapters.sqlite.connection import Synchronous, Tuning, open_reader, open_writer
from penstock.adapters.sqlite.errors import closed, translate
from penstock.errors import Corrupt

T = TypeVar("T")
#: What a caller wants done with a connection. Runs in a thread, and may be run again if a neighbour in its group
#: failed: its only effect must be on the connection.
Work = Callable[[sqlite3.Connection], T]

_GROUP_LIMIT = 512
_READERS = 2
_USUAL = Tuning()


class _Job:
    """One caller's work, its outcome, and the future that waits for it."""

    __slots__ = ("error", "future", "result", "work")

    def __init__(self, work: Work[Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """Use from the event loop that opened it, and close it there."""

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: Synchronous,
        migrations: Sequence[str] = (),
        tuning: Tuning = _USUAL,
        damage_mark: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self._synchronous: Synchronous = synchronous
        self._migrations = tuple(migrations)
        self._tuning = tuning
        self._damage_mark = damage_mark
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writes: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._readers = 0
        self._reading = 0
        self._closing: asyncio.Task[None] | None = None
        # Finished jobs on their way to the loop; one wake-up of the loop drains them all.
        self._done: deque[_Job] = deque()
        self._wake_scheduled = False

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        synchronous: Synchronous,
        migrations: Sequence[str] = (),
        tuning: Tuning = _USUAL,
        damage_mark: Path | None = None,
    ) -> Database:
        """Open or create the file and migrate it.

        `migrations` are SQL scripts (statements split at every ";"); the file's user_version counts those applied.
        `damage_mark` is a file to be made when the database turns out to be damaged, at whatever moment of its life.
        Raises Unsupported (written by a newer version), Corrupt, Unavailable, OutOfSpace.
        """
        database = cls(path, synchronous=synchronous, migrations=migrations, tuning=tuning, damage_mark=damage_mark)
        await database._start()
        return database

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        opened = _Job(lambda _connection: None, self._loop.create_future())
        self._spawn("writer", self._write_forever, opened)
        try:
            await opened.future
        except BaseException:
            await self.close()
            raise

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue a write; the future resolves when its transaction is committed (durable with FULL).

        A failing work is rolled back alone and its future gets the error: Closed, OutOfSpace, Unavailable, Corrupt, or
        whatever the work itself raised.
        """
        return self._enqueue(self._writes, work)

    async def write(self, work: Work[T]) -> T:
        return await self.submit(work)

    async def read(self, work: Work[T]) -> T:
        """Run a read on one of the reader connections; sees every write that was acknowledged before."""
        future = self._enqueue(self._reads, work)
        self._reading += 1
        if self._reading > self._readers and self._readers < _READERS:
            self._readers += 1
            self._spawn(f"reader-{self._readers}", self._read_forever)
        try:
            return await future
        finally:
            self._reading -= 1

    async def close(self) -> None:
        """Finish what is queued, then stop the threads. Idempotent."""
        if self._closing is None:
            # A task, so that a caller who is cancelled meanwhile does not leave the next one waiting for ever.
            self._closing = asyncio.create_task(asyncio.to_thread(self._stop_threads), name=f"close {self.path.name}")
        await asyncio.shield(self._closing)
        self._resolve()

    def check_open(self) -> None:
        """Raises Closed."""
        if self._closing is not None:
            raise closed(self.path)

    def _stop_threads(self) -> None:
        """The writer last: SQLite folds the write-ahead log into the file when the last connection closes, and it can
        do so only if that one is alone.
        """
        writer, *readers = self._threads
        for _ in readers:
            self._reads.put(None)
        for reader in readers:
            reader.join()
        self._writes.put(None)
        writer.join()

    def _spawn(self, role: str, run: Callable[..., None], *arguments: object) -> None:
        # Daemons: a caller that never closes must not keep the process alive; durability never depends on close.
        thread = threading.Thread(target=run, args=arguments, name=f"{self.path.name}-{role}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _enqueue(self, jobs: queue.SimpleQueue[_Job | None], work: Work[T]) -> asyncio.Future[T]:
        self.check_open()
        if self._loop is None:
            raise RuntimeError("a Database is made by Database.open")
        future: asyncio.Future[T] = self._loop.create_future()
        jobs.put(_Job(work, future))
        return future

    # In the threads.

    def _write_forever(self, opened: _Job) -> None:
        try:
            connection = open_writer(self.path, self._synchronous, self._migrations, self._tuning)
        except BaseException as error:  # noqa: BLE001 - handed to the caller of `open`, whose await raises it
            opened.error = error
            self._deliver([opened])
            return
        self._deliver([opened])
        with contextlib.closing(connection):
            last = False
            while not last:
                group, last = self._next_group()
                if group:
                    _commit_together(connection, group)
                    self._deliver(group)

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Wait for a job, then take all that are waiting; True = these are the last ever."""
        group: list[_Job] = []
        job = self._writes.get()
        while job is not None:
            # A caller that was cancelled before its turn wants nothing any more.
            if not job.future.cancelled():
                group.append(job)
            if len(group) >= _GROUP_LIMIT:
                return group, False
            try:
                job = self._writes.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _read_forever(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (job := self._reads.get()) is not None:
                try:
                    if connection is None:
                        connection = open_reader(self.path)
                    job.result = job.work(connection)
                except BaseException as error:  # noqa: BLE001 - handed to the caller, whose await raises it
                    job.error = error
                self._deliver([job])
        finally:
            if connection is not None:
                connection.close()

    def _deliver(self, jobs: Sequence[_Job]) -> None:
        self._done.extend(jobs)
        # Set before the loop drains, cleared by the loop before it drains: no finished job is left behind.
        if not self._wake_scheduled and self._loop is not None:
            self._wake_scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, and every caller with it
                self._loop.call_soon_threadsafe(self._resolve)

    # Back in the loop.

    def _resolve(self) -> None:
        self._wake_scheduled = False
        while self._done:
            job = self._done.popleft()
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                error = translate(job.error, self.path)
                if isinstance(error, Corrupt) and self._damage_mark is not None:
                    self._damage_mark.touch()
                job.future.set_exception(error)


def _commit_together(connection: sqlite3.Connection, group: Sequence[_Job]) -> None:
    """Run all in one transaction, without a savepoint each since nearly always all succeed; else sort them out."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        _fail(group, error)
        return
    try:
        for job in group:
            job.result = job.work(connection)
        connection.execute("COMMIT")
    except BaseException as error:  # noqa: BLE001 - handed to the callers, whose await raises it
        _rollback(connection)
        if len(group) == 1:
            _fail(group, error)
        else:
            _commit_apart(connection, group)


def _commit_apart(connection: sqlite3.Connection, group: Sequence[_Job]) -> None:
    """Run each behind a savepoint, so that the one that fails is undone alone, and commit the others together."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in group:
            connection.execute("SAVEPOINT one")
            try:
                job.result = job.work(connection)
            except BaseException as error:
                if not connection.in_transaction:
                    raise  # SQLite gave up the whole transaction (disk full, for one): nothing of the group stands
                job.error = error
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        connection.execute("COMMIT")
    except BaseException as error:  # noqa: BLE001 - handed to the callers, whose await raises it
        _rollback(connection)
        _fail([job for job in group if job.error is None], error)


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        # A rollback that fails leaves nothing to do here: the original error is the one to report, and the next BEGIN
        # reports what is wrong with the connection.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _fail(group: Sequence[_Job], error: BaseException) -> None:
    for job in group:
        job.error = error
