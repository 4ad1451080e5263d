"""`map`: a function over many files, results as they finish, and the second call goes on where the first one broke off.

Each file becomes the object `INPUT/map-DIGEST/NAME`, where the digest is that of its content. So the key says which
file with which content it is: what an earlier call has run is found under it in the server's history and not run again,
whatever became of the program that called.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock import answers, errors
from penstock.client.core import CHUNK, Calls
from penstock.client.following import follow
from penstock.fdl.storage import BUCKETED

Item = str | Path | tuple[str, bytes]
Items = Iterable[Item]

DIGITS = 20


@dataclass(frozen=True, kw_only=True)
class MapResult:
    """What became of one file.

    `invocation` None = it never became one, `error` says why. `resumed` = an earlier call had it run.
    """

    file: Item
    bucket: str
    key: str
    invocation: answers.Invocation | None = None
    error: errors.PenstockError | None = None
    resumed: bool = False

    @property
    def name(self) -> str:
        return name_of(self.file)

    @property
    def succeeded(self) -> bool:
        return self.invocation is not None and self.invocation.phase == "succeeded"

    @property
    def outputs(self) -> tuple[answers.Output, ...]:
        return self.invocation.outputs if self.invocation is not None else ()


def name_of(item: Item) -> str:
    return item[0] if isinstance(item, tuple) else Path(item).name


def input_of(function: Mapping[str, Any]) -> tuple[str, str]:
    """Return (bucket, folder) where a function takes files from. Raises Unsupported when it takes none."""
    for one in function.get("inputs", ()):
        if str(one["provider"]).partition(".")[0] in BUCKETED:
            bucket, _, folder = str(one["path"]).strip("/").partition("/")
            return bucket, folder
    raise errors.Unsupported(
        f"the function '{function.get('name')}' has no input bucket that files could be mapped over: give it one, or "
        "use `submit` or `run`"
    )


def key_for(folder: str, item: Item) -> str:
    """Return the key of one file: its place says its content. Reads the file. Raises InvalidInput, NotFound."""
    name = name_of(item)
    if not name or "/" in name:
        raise errors.InvalidInput(f"{name!r} is not the name of a file: it is empty or holds a slash")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape") + b"\0")
    for chunk in chunks_of(item):
        digest.update(chunk)
    return "/".join(filter(None, (folder, f"map-{digest.hexdigest()[:DIGITS]}", name)))


def chunks_of(item: Item) -> Iterator[bytes]:
    """Yield a file's bytes. Raises InvalidInput, NotFound."""
    if isinstance(item, tuple):
        yield item[1]
        return
    try:
        with Path(item).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except FileNotFoundError as error:
        raise errors.NotFound(f"there is no file {item}") from error
    except OSError as error:
        raise errors.InvalidInput(
            f"cannot be read: {(error.strerror or str(error)).lower()}", where=str(item)
        ) from error


async def body_of(item: Item) -> AsyncIterator[bytes]:
    """Yield a file's bytes without keeping the event loop from its work."""
    chunks = chunks_of(item)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


class _Known:
    """One key under way: whose it is, and which invocations of it are history."""

    def __init__(self, item: Item, *, past: frozenset[str], resumed: bool = False) -> None:
        self.files = [item]
        self.past = past
        self.resumed = resumed
        self.sent = resumed


class Mapper:
    """One call of `map`. `results` may be iterated once."""

    def __init__(self, calls: Calls, function: str, *, in_flight: int, retry_failed: bool) -> None:
        if in_flight < 1:
            raise errors.InvalidInput(f"{in_flight} files in flight can never get anywhere; give 1 or more")
        self._calls = calls
        self._function = function
        self._retry = retry_failed
        self._room = asyncio.Semaphore(in_flight)
        self._bucket = self._folder = ""
        self._pending: dict[str, _Known] = {}
        self._done: asyncio.Queue[MapResult | None] = asyncio.Queue()
        self._open = 0

    async def results(self, files: Items | AsyncIterable[Item]) -> AsyncGenerator[MapResult, None]:
        """Yield one result per file, in the order in which they finish."""
        self._bucket, self._folder = input_of(await self._calls.function(self._function))
        subscribed = asyncio.Event()
        tasks = [
            asyncio.create_task(self._watch(subscribed), name="map: changes"),
            asyncio.create_task(self._feed(files, subscribed), name="map: files"),
        ]
        fed = tasks[1]
        try:
            while not (fed.done() and not self._open and self._done.empty()):
                result = await self._next(tasks)
                if result is not None:
                    yield result
                    self._room.release()  # only now: results that nobody takes must not pile up
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self, tasks: list[asyncio.Task[None]]) -> MapResult | None:
        """The next result; None = look again whether there will be one. Raises what broke a task."""
        getting = asyncio.create_task(self._done.get(), name="map: result")
        try:
            running = [task for task in tasks if not task.done()]
            await asyncio.wait({getting, *running}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()

    async def _feed(self, files: Items | AsyncIterable[Item], subscribed: asyncio.Event) -> None:
        await subscribed.wait()
        try:
            async with asyncio.TaskGroup() as group:
                async for item in _each(files):
                    await self._room.acquire()
                    self._open += 1
                    group.create_task(self._begin(item), name="map: file")
        except ExceptionGroup as several:
            # They fail alike (the server is gone): one is enough to tell, and it keeps its type.
            raise several.exceptions[0] from None

    async def _begin(self, item: Item) -> None:
        """Find what is known of a file, and send it unless that is enough."""
        key = ""
        try:
            key = await asyncio.to_thread(key_for, self._folder, item)
            twin = self._pending.get(key)
            if twin is not None:
                twin.files.append(item)  # the very same file, given twice
                return
            known = self._pending[key] = _Known(item, past=frozenset())
            before = await self._history(key)
            last = before[0] if before else None
            if last is not None and not (last.final and self._again(last)):
                known.resumed = known.sent = True
                if last.final:
                    await self._finish(key, last.id)
                return
            known.past = frozenset(one.id for one in before)
            await self._calls.put(self._bucket, key, body_of(item))
            known.sent = True
        except (errors.InvalidInput, errors.NotFound, errors.Unsupported, errors.OutOfSpace) as error:
            # About this file alone: the others go on.
            self._end(key, item, error)

    def _again(self, last: answers.Invocation) -> bool:
        return last.phase in {"superseded", "skipped", "cancelled"} or (
            self._retry and last.phase in {"failed", "dead"}
        )

    async def _history(self, key: str) -> list[answers.Invocation]:
        """What was ever run on a key, newest first."""
        page = await self._calls.invocations(function=self._function, prefix=f"{self._bucket}/{key}", limit=100)
        return [one for one in page.invocations if one.key == key]

    async def _watch(self, subscribed: asyncio.Event) -> None:
        async with aclosing(follow(self._calls)) as changes:
            async for change in changes:
                if change is None:
                    subscribed.set()
                    await self._look_again()
                elif change.final and change.function == self._function and change.bucket == self._bucket:
                    known = self._pending.get(change.key or "")
                    if known is not None and change.key is not None and change.id not in known.past:
                        await self._finish(change.key, change.id)

    async def _look_again(self) -> None:
        for key, known in list(self._pending.items()):
            if known.sent:
                new = [one for one in await self._history(key) if one.id not in known.past]
                if new and new[0].final:
                    await self._finish(key, new[0].id)

    async def _finish(self, key: str, invocation: str) -> None:
        # The whole of it: the feed's may lack what only the single view has.
        one = await self._calls.invocation(invocation)
        known = self._pending.pop(key, None)
        for item in known.files if known is not None else ():
            self._tell(
                MapResult(
                    file=item, bucket=self._bucket, key=key, invocation=one, resumed=bool(known and known.resumed)
                )
            )

    def _end(self, key: str, item: Item, error: errors.PenstockError) -> None:
        known = self._pending.pop(key, None)
        for one in known.files if known is not None else [item]:
            self._tell(MapResult(file=one, bucket=self._bucket, key=key, error=error))

    def _tell(self, result: MapResult) -> None:
        self._open -= 1
        self._done.put_nowait(result)


async def _each(files: Items | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(files, AsyncIterable):
        async for item in files:
            yield item
        return
    for item in files:
        yield item
