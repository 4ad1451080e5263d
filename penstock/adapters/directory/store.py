"""The asynchronous half of the directory store: the `ObjectStore` port over `publishing`, off the event loop.

What costs less than a hop to a thread (looking at one file, copying a small one) is done in place; listings, syncs and
everything proportional to a size run in the store's own threads. A cancelled call waits for its thread, which undoes
what it began: nothing is half done when the cancellation arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from penstock.adapters.directory import copying, names, trouble
from penstock.adapters.directory.engine import Probe
from penstock.adapters.directory.moving import Answer, Move, Mover, Moving, Turn
from penstock.errors import Closed, InvalidInput, NotFound, Superseded
from penstock.model import ObjectInfo
from penstock.model.buckets import check_bucket
from penstock.ports import StoreCapabilities

T = TypeVar("T")
#: Of the files of one turn, in their order. The class below has a method named `list`.
Answers = list[Answer]

#: Looking at this many files is cheaper than a hop to a thread.
_FEW = 8

_CHUNK = 1024 * 1024
#: Enough that concurrent syncs share journal commits: 8 at once take a quarter of the time of one after the other.
_THREADS = 16
#: Files moved in one turn, which share the syncs of their folders.
_MOVES = 16
#: So few are moved in one hop to a thread; of more, only what waits for the disk is done in threads.
_ONE_HOP = 2
#: Files synced by one thread: each takes the interpreter from the event loop after every sync, so one does, unless the
#: disk is slow. Then several syncs at once share what they wait for.
_SYNCS, _SYNCS_SLOW, _SLOW_S = _MOVES, 4, 0.0015


class DirectoryStore:
    """An `ObjectStore` over the sub-folders of `root`, which is made if it is missing.

    `settle_s`: a file that another program wrote is listed when it has been unchanged for so long and no writer holds
    it open. Files that came through this store, in whatever process, are listed at once.
    """

    capabilities = StoreCapabilities(
        versions=False,
        any_key=False,
        max_key_bytes=names.MAX_KEY_BYTES,
        max_part_bytes=names.MAX_PART_BYTES,
        metadata=True,
        moves=True,
    )

    def __init__(self, root: Path, *, settle_s: float = 2.0, attributes: bool = True) -> None:
        """`attributes` = False keeps metadata in hidden files even where extended attributes exist."""
        self.root = root
        self.settle_s = settle_s
        self._engine = Mover(root, settle_s=settle_s, attributes=attributes)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="directory-store")
        #: To be moved in this turn of the loop.
        self._moves: list[tuple[Move, asyncio.Future[Answer]]] = []
        self._turns: set[asyncio.Future[Answers]] = set()
        #: What the sync of one file took last (s).
        self._sync_s = 0.0
        self._closed = False

    async def create_bucket(self, bucket: str) -> bool:
        check_bucket(bucket)
        return await self._run(lambda _: self._engine.create_bucket(bucket))

    async def buckets(self) -> list[str]:
        return await self._run(lambda _: self._engine.buckets())

    async def delete_bucket(self, bucket: str) -> None:
        await self._run(lambda _: self._engine.delete_bucket(bucket))

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectInfo:
        self._check_open()
        info = self._engine.head(bucket, key)
        if version_id is not None:
            raise _no_version(bucket, key, version_id)
        return info

    async def probe(self, places: Sequence[tuple[str, str]]) -> list[Probe | None]:
        """Look at many (bucket, key) at once, for the watcher. None = gone, no regular file, no possible name, or in a
        folder that cannot be read.
        """
        if len(places) <= _FEW:
            self._check_open()
            return self._engine.probe(places)
        return await self._run(lambda _: self._engine.probe(places))

    async def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncIterator[list[ObjectInfo]]:
        pages: Iterator[list[ObjectInfo]] = await self._run(lambda _: self._engine.pages(bucket, prefix, after))
        try:
            while True:
                page = await self._run(lambda _: next(pages, None))
                if page is None:
                    return
                yield page
        finally:
            pages.close()  # type: ignore[attr-defined]  # a generator: closes the folders it holds open

    async def read(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        length: int | None = None,
    ) -> AsyncIterator[bytes]:
        self._check_open()
        if version_id is not None:
            raise _no_version(bucket, key, version_id)
        if start < 0 or (length is not None and length < 0):
            raise InvalidInput(f"start {start} and length {length} must not be negative")
        descriptor, status = self._engine.open(bucket, key)
        try:
            end = status.st_size if length is None else min(status.st_size, start + length)
            while start < end:
                size = min(_CHUNK, end - start)
                if size <= copying.SMALL_BYTES:
                    data = os.pread(descriptor, size, start)
                else:
                    data = await self._run(lambda _, size=size, start=start: os.pread(descriptor, size, start))  # type: ignore[misc]
                if not data:
                    raise Superseded(f"the object {key!r} in bucket {bucket!r} was cut short while it was read")
                start += len(data)
                yield data
        except OSError as error:
            raise trouble.translate(error, bucket, key, "read") from error
        finally:
            os.close(descriptor)

    async def fetch(self, info: ObjectInfo, target: Path) -> None:
        if info.size <= copying.SMALL_BYTES:
            self._check_open()
            self._engine.fetch(info, target, None)
        else:
            await self._run(lambda abort: self._engine.fetch(info, target, abort))

    async def write(
        self,
        bucket: str,
        key: str,
        data: AsyncIterator[bytes] | bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        self._check_open()
        self._engine.check_target(bucket, key)
        descriptor, scratch = self._engine.create_scratch(bucket, key)
        try:
            if isinstance(data, bytes):
                await self._append(descriptor, data, bucket, key)
            else:
                async for chunk in data:
                    await self._append(descriptor, chunk, bucket, key)
        except BaseException:
            os.close(descriptor)
            self._engine.scratch.remove(scratch)
            raise
        return await self._run(
            lambda abort: self._engine.commit(
                descriptor, scratch, bucket, key, metadata, if_absent=if_absent, abort=abort
            )
        )

    async def _append(self, descriptor: int, data: bytes, bucket: str, key: str) -> None:
        try:
            if len(data) <= copying.SMALL_BYTES:
                copying.write_all(descriptor, data)
            else:
                await self._run(lambda _: copying.write_all(descriptor, data))
        except OSError as error:
            raise trouble.translate(error, bucket, key, "written") from error

    async def publish(
        self,
        source: Path,
        bucket: str,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        consume: bool = False,
    ) -> ObjectInfo:
        if consume:
            flag = copying.Flag()
            moved = await self._move(Move(source, bucket, key, metadata, flag), flag)
            if moved is not None:
                return moved

        def work(abort: copying.Flag) -> ObjectInfo:
            info = self._engine.publish_copy(source, bucket, key, metadata, abort)
            if consume:
                with contextlib.suppress(OSError):  # published already; the caller removes what it made
                    source.unlink()
            return info

        return await self._run(work)

    async def _move(self, move: Move, abort: copying.Flag) -> ObjectInfo | None:
        """What is moved in one turn of the loop shares hops to threads and syncs of folders."""
        self._check_open()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._moves:
            loop.call_soon(self._start_moves)
        self._moves.append((move, future))
        answer = await _patiently(future, abort)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start_moves(self) -> None:
        waiting, self._moves = self._moves, []
        for start in range(0, len(waiting), _MOVES):
            part = waiting[start : start + _MOVES]
            try:
                turn = self._engine.begin_moves([move for move, _ in part])
            except BaseException as error:  # a bug: whoever waits must hear of it
                for _, future in part:
                    future.set_exception(error)
                raise
            futures = [future for _, future in part]
            work: asyncio.Future[Answers]
            if len(part) <= _ONE_HOP:
                work = asyncio.get_running_loop().run_in_executor(self._threads, self._engine.finish_moves, turn)
            else:
                work = asyncio.create_task(self._move_together(turn), name="directory store: move")
                self._turns.add(work)
                work.add_done_callback(self._turns.discard)
            work.add_done_callback(functools.partial(_tell, futures))

    async def _move_together(self, turn: Turn) -> Answers:
        loop = asyncio.get_running_loop()
        try:
            each = _SYNCS if self._sync_s < _SLOW_S else _SYNCS_SLOW
            parts = [turn.movings[start : start + each] for start in range(0, len(turn.movings), each)]
            syncs = [loop.run_in_executor(self._threads, self._sync, part) for part in parts]
            self._sync_s = max(await asyncio.gather(*syncs))
            self._engine.place_moves(turn)
            await loop.run_in_executor(self._threads, self._engine.confirm_moves, turn)
        finally:
            answers = self._engine.end_moves(turn)
        return answers

    def _sync(self, movings: Sequence[Moving]) -> float:
        """Returns the seconds that each took."""
        began = time.monotonic()
        self._engine.sync_moves(movings)
        return (time.monotonic() - began) / len(movings)

    async def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> None:
        if version_id is not None:
            await self._run(lambda _: self._engine.check_target(bucket, key))
            return  # no version has an id here, so none is there to delete
        await self._run(lambda _: self._engine.delete(bucket, key))

    async def close(self) -> None:
        """Wait for running calls and let go of the folders. Idempotent."""
        if self._closed:
            return
        self._start_moves()
        self._closed = True
        if self._turns:
            await asyncio.wait(self._turns)
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the directory store is closed")

    async def _run(self, work: Callable[[copying.Flag], T]) -> T:
        self._check_open()
        abort = copying.Flag()
        return await _patiently(asyncio.get_running_loop().run_in_executor(self._threads, work, abort), abort)


async def _patiently(future: asyncio.Future[T], abort: copying.Flag) -> T:
    """Await what a thread does. When cancelled: tell the thread, wait until it has undone its work, then go."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        abort.set()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):  # the first one is already on its way
                await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # seen: an aborted call has nobody left to tell
        raise


def _tell(futures: Sequence[asyncio.Future[Answer]], work: asyncio.Future[Answers]) -> None:
    error = asyncio.CancelledError() if work.cancelled() else work.exception()
    for index, future in enumerate(futures):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(work.result()[index])


def _no_version(bucket: str, key: str, version_id: str) -> NotFound:
    return NotFound(f"there is no version {version_id!r} of {key!r} in bucket {bucket!r}: a folder keeps no versions")
