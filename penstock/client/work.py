"""The client that programs use: every call of the interface, and what takes several of them.

Nothing here knows more of the server than the calls do, so all of it works against any server of the interface `/v1`.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from penstock import answers, errors
from penstock.client.bars import bar
from penstock.client.core import Calls
from penstock.client.definitions import Source, order_of
from penstock.client.following import follow
from penstock.client.listing import Listing
from penstock.client.mapping import Item, Items, Mapper, MapResult, body_of, name_of

#: Uploads at once: enough to hide a round trip, few enough to leave the machine to the functions.
PARALLEL = 4


class Client(Calls):
    """A server, with a credential. Use as an async context manager.

    Every method may raise `Unreachable`, `Unauthenticated` and `errors.Unavailable`, and `errors.NotFound` where it
    names something; what else it may raise is said at the method.
    """

    async def deploy(self, source: Source, *, dry_run: bool = False) -> answers.Applied:
        """Deploy functions from an FDL file (a path), FDL text, mappings, or `Definition` objects: all, or none.

        Raises InvalidInput with the place of the mistake, NotFound for a missing file.
        """
        order = await asyncio.to_thread(order_of, source)
        return await self.apply(order.fdl, order.scripts, dry_run=dry_run)

    async def upload(
        self, files: Item | Items, target: str, *, create_bucket: bool = False, progress: bool = False
    ) -> Listing[answers.StoredObject]:
        """Upload files into BUCKET/FOLDER under their own names, a few at once.

        A file is a path, or (name, bytes). The first failure ends it; what was sent by then stays. Raises NotFound and
        InvalidInput for files that cannot be read.
        """
        several = [files] if isinstance(files, (str, Path, tuple)) else list(files)
        bucket, _, folder = target.strip("/").partition("/")
        if create_bucket:
            await self.create_bucket(bucket)
        waiting = iter(several)
        sent: dict[int, answers.StoredObject] = {}

        async def sender() -> None:
            for item in waiting:
                key = "/".join(filter(None, (folder, name_of(item))))
                place = len(sent)
                sent[place] = answers.StoredObject(key=key)
                told = await self.put(bucket, key, body_of(item))
                sent[place] = answers.StoredObject(
                    key=key,
                    size=int(told.get("size", 0)),
                    modified_ms=int(told.get("modified_ms", 0)),
                    etag=str(told.get("etag", "")),
                )
                advance(1)

        with bar("upload", len(several), wanted=progress) as advance:
            await _together([sender() for _ in range(min(PARALLEL, len(several)))])
        return Listing(sent[place] for place in sorted(sent))

    async def wait(
        self,
        invocations: str | answers.Invocation | Iterable[str | answers.Invocation],
        *,
        timeout_s: float | None = None,
        progress: bool = False,
    ) -> Listing[answers.Invocation]:
        """Wait until invocations have ended, and return them in the order given. How they ended is in their `phase`.

        Raises TimeoutError after `timeout_s` (None = wait for ever); the work goes on.
        """
        several = [invocations] if isinstance(invocations, (str, answers.Invocation)) else list(invocations)
        names = [one if isinstance(one, str) else one.id for one in several]
        ended: dict[str, answers.Invocation] = {}
        with bar("wait", len(names), wanted=progress) as advance:
            async with asyncio.timeout(timeout_s), aclosing(follow(self)) as changes:
                if not names:
                    return Listing()
                async for change in changes:
                    for name in [name for name in names if name not in ended and _may_be(change, name)]:
                        one = await self.invocation(name)
                        if one.final:
                            ended[name] = one
                            advance(1)
                    if len(ended) == len(set(names)):
                        break
        return Listing(ended[name] for name in names)

    def map(
        self, function: str, files: Items | AsyncIterable[Item], *, in_flight: int = 64, retry_failed: bool = False
    ) -> AsyncGenerator[MapResult, None]:
        """Run a function on many files and yield results as they finish, one per file, failed ones too.

        Files are uploaded below the function's input, at most `in_flight` of them unfinished at a time. What an earlier
        call had run on the same name and content is not run again, its result comes at once (`resumed`); with
        `retry_failed` what had failed is. A file is a path, or (name, bytes). Raises NotFound (no such function),
        Unsupported (it takes no files); trouble with one file is in its result's `error`.
        """
        return Mapper(self, function, in_flight=in_flight, retry_failed=retry_failed).results(files)

    async def logs(
        self, invocation: str, *, attempt: int | None = None, follow: bool = True
    ) -> AsyncGenerator[str, None]:
        """Yield the lines that a script prints, until its attempt ends; with `follow=False` those that are there."""
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        rest = ""
        async with aclosing(self.log(invocation, attempt=attempt, follow=follow)) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + decoder.decode(chunk)).split("\n")
                for line in lines:
                    yield line
        rest += decoder.decode(b"", final=True)
        if rest:
            yield rest

    # Lists

    async def list_invocations(
        self,
        *,
        function: str = "",
        phase: str = "",
        since_ms: int = 0,
        prefix: str = "",
        oldest: bool = False,
        limit: int | None = 1000,
    ) -> Listing[answers.Invocation]:
        """Return invocations over all pages, newest first unless `oldest`; `limit` None = every one."""
        found: Listing[answers.Invocation] = Listing()
        page = ""
        while limit is None or len(found) < limit:
            size = 500 if limit is None else min(500, limit - len(found))
            told = await self.invocations(
                function=function, phase=phase, since_ms=since_ms, prefix=prefix, oldest=oldest, limit=size, page=page
            )
            found += told.invocations
            page = told.next
            if not page:
                break
        return found

    async def list_objects(
        self, bucket: str, *, prefix: str = "", limit: int | None = 1000
    ) -> Listing[answers.StoredObject]:
        """Return a bucket's objects over all pages in the order of their keys; `limit` None = every one."""
        found: Listing[answers.StoredObject] = Listing()
        after = ""
        while limit is None or len(found) < limit:
            size = 1000 if limit is None else min(1000, limit - len(found))
            told = await self.objects(bucket, prefix=prefix, after=after, limit=size)
            found += told.objects
            after = told.next
            if not after:
                break
        return found

    async def list_functions(self) -> Listing[answers.FunctionCounts]:
        """Return the counts of every function."""
        return Listing((await self.status()).functions)

    # Results

    async def read(self, bucket: str, key: str) -> bytes:
        """Return a whole object; for large ones use `get` or `download`."""
        async with self.get(bucket, key) as (_, chunks):
            return b"".join([chunk async for chunk in chunks])

    async def download(
        self,
        what: answers.Invocation | MapResult | answers.Output | Sequence[answers.Output],
        folder: str | Path,
        *,
        overwrite: bool = False,
    ) -> list[Path]:
        """Save outputs into a folder, each under the last part of its key, and return where. A file appears whole or
        not at all. Raises AlreadyExists for a file that is there unless `overwrite`.
        """
        outputs = _outputs(what)
        target = Path(folder)
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        paths = [target / output.key.rpartition("/")[2] for output in outputs]
        for path in paths:
            if paths.count(path) > 1 or (not overwrite and await asyncio.to_thread(path.exists)):
                raise errors.AlreadyExists(f"there is a file {path} already; choose another folder, or overwrite")
        for output, path in zip(outputs, paths, strict=True):
            await self._save(output, path)
        return paths

    async def _save(self, output: answers.Output, path: Path) -> None:
        handle, draft = await asyncio.to_thread(tempfile.mkstemp, dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                async with self.get(output.bucket, output.key) as (_, chunks):
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(os.chmod, draft, 0o666 & ~_umask())
            await asyncio.to_thread(os.replace, draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)  # noqa: ASYNC240 - also when cancelled, and it takes no time
            raise


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _may_be(change: answers.Invocation | None, name: str) -> bool:
    return change is None or (change.final and change.id.startswith(name))


def _outputs(
    what: answers.Invocation | MapResult | answers.Output | Sequence[answers.Output],
) -> Sequence[answers.Output]:
    if isinstance(what, answers.Output):
        return [what]
    return what.outputs if isinstance(what, (answers.Invocation, MapResult)) else what


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run several at once; the first failure ends the others and is raised."""
    tasks = [asyncio.create_task(one, name="upload") for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
