"""Writing objects: once, whole, and known to be ours when the answer was lost.

A PUT that is simply sent again makes a second version, which fires every function a second time. So each write carries
a number of its own in the metadata: after a lost answer the object is looked at, and only if the number is another one
is the PUT sent again, on condition that nothing has come there since. Large objects go up in parts, several at once
within a window of bytes; the one request that makes them visible is handled like a PUT.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape as escape_xml

from penstock.adapters.s3 import etags, wire
from penstock.adapters.s3 import metadata as meta
from penstock.adapters.s3.body import EMPTY, Body, of_bytes
from penstock.adapters.s3.client import Answer, Ask, Client, Doubtful
from penstock.adapters.s3.listings import Listings
from penstock.adapters.s3.retrying import pause_s
from penstock.adapters.s3.trouble import Failure, Refused, Target, Wish, code_of, translate
from penstock.adapters.s3.wire import Seen
from penstock.errors import AlreadyExists, NotFound, PenstockError, Unavailable, Unsupported

#: How long the parts of an upload that failed are looked after; what stays is removed by the store itself.
_ABORT_S = 10.0

#: Size of a part, and the function that makes it ready to be sent.
Source = tuple[int, Callable[[], Awaitable[Body]]]


@dataclass(frozen=True)
class Written:
    """What the store said of a write, the modification time apart, which it does not say."""

    etag: str
    version_id: str | None
    #: The store's clock, in whole seconds.
    answered_s: int


@dataclass(frozen=True)
class Write:
    """One intended write. `number` is what tells it from all others; `headers` hold it among the metadata."""

    bucket: str
    key: str
    headers: Mapping[str, str]
    number: str
    if_absent: bool = False

    @classmethod
    def of(cls, bucket: str, key: str, metadata: Mapping[str, str] | None, *, if_absent: bool = False) -> Write:
        """Raises InvalidInput for metadata that cannot be kept."""
        number = secrets.token_hex(12)
        headers = {"content-type": "application/octet-stream", **meta.encode(metadata, number)}
        return cls(bucket, key, headers, number, if_absent)

    @property
    def target(self) -> Target:
        return Target(Wish.WRITTEN, self.bucket, self.key)


class Uploads:
    """Raises what `trouble.translate` says, AlreadyExists for `if_absent`, and OutOfSpace."""

    def __init__(self, client: Client, listings: Listings) -> None:
        self._client = client
        self._listings = listings

    async def put(self, write: Write, body: Body) -> Written:
        """A single PUT."""

        async def attempt(condition: Mapping[str, str]) -> Written:
            ask = Ask(
                "PUT", write.target, write.key, headers={**write.headers, **condition}, body=body, repeatable=False
            )
            return _written(await self._client.call(ask))

        return await self._once(write, attempt)

    async def _once(self, write: Write, attempt: Callable[[Mapping[str, str]], Awaitable[Written]]) -> Written:
        """Carry out `attempt` until it is known to have succeeded exactly once.

        A store that is gone for so long that the look fails too leaves it open: Unavailable then, and the caller's next
        write of the same is a second version at worst.
        """
        condition: Mapping[str, str] = {"if-none-match": "*"} if write.if_absent else {}
        doubt: PenstockError | None = None
        for tried in range(1, self._client.config.attempts + 1):
            try:
                outcome = await _try(attempt, condition, sure=write.if_absent and doubt is None)
            except Unsupported:
                if doubt is None or write.if_absent:
                    raise
                condition = {}  # a store without conditions: a second version is better than none
                continue
            if isinstance(outcome, Written):
                return outcome
            doubt = outcome
            # The store may still be at work on it, so this waits too.
            await asyncio.sleep(pause_s(tried, random.random()))  # noqa: S311 - spreads clients, hides nothing
            seen = await self._look(write)
            if seen is not None and seen.write == write.number:
                return Written(seen.etag, seen.version_id, seen.answered_s)
            if seen is not None and write.if_absent:
                raise AlreadyExists(f"there is already {write.target}")
            condition = {"if-none-match": "*"} if seen is None else {"if-match": f'"{seen.etag}"'}
        raise Unavailable(f"{write.target} cannot be written, or not known to be: try again later") from doubt

    async def _look(self, write: Write) -> Seen | None:
        try:
            return await self._listings.seen(write.bucket, write.key)
        except NotFound:
            return None

    async def multipart(
        self, write: Write, parts: AsyncIterator[Source], check: Callable[[], None] | None = None
    ) -> Written:
        """Parts in parallel, then all at once; on any error and when cancelled the parts are removed again.

        `check` may still refuse when all parts are there.
        """
        upload = await self._initiate(write)
        try:
            etags = await self._send(write, upload, parts)
            if check is not None:
                check()
            return await self._complete(write, upload, etags)
        except BaseException:
            await self._abort(write, upload)
            raise

    async def _initiate(self, write: Write) -> str:
        ask = Ask("POST", write.target, write.key, query=(("uploads", ""),), headers=write.headers)
        answer = await self._client.call(ask)
        upload = wire.texts(wire.parse(answer.body)).get("UploadId")
        if not upload:
            raise Unavailable(f"{write.target} cannot be written: the object store did not name the upload")
        return upload

    async def _send(self, write: Write, upload: str, parts: AsyncIterator[Source]) -> list[str]:
        """Send all parts, as many at once as the window holds, and return their etags in order."""
        window = self._client.config.window_bytes
        numbers: list[asyncio.Task[str]] = []
        running: dict[asyncio.Task[str], int] = {}
        try:
            async for size, make in parts:
                while running and sum(running.values()) + size > window:
                    await _first_done(running)
                task = asyncio.create_task(self._part(write, upload, len(numbers) + 1, make), name="s3-part")
                numbers.append(task)
                running[task] = size
            while running:
                await _first_done(running)
        finally:
            for task in running:
                task.cancel()
            # One that had failed too is heard here; what is raised is the first failure.
            await asyncio.gather(*running, return_exceptions=True)
        return [task.result() for task in numbers]

    async def _part(self, write: Write, upload: str, number: int, make: Callable[[], Awaitable[Body]]) -> str:
        query = (("partNumber", str(number)), ("uploadId", upload))
        ask = Ask("PUT", write.target, write.key, query=query, body=await make())
        return (await self._client.call(ask)).headers.get("ETag", "").strip('"')

    async def _complete(self, write: Write, upload: str, etags: list[str]) -> Written:
        lines = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape_xml(etag)}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        text = f"<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>"
        body = await of_bytes(text.encode(), secure=self._client.endpoint.secure)

        async def attempt(condition: Mapping[str, str]) -> Written:
            ask = Ask(
                "POST",
                write.target,
                write.key,
                query=(("uploadId", upload),),
                headers={"content-type": "application/xml", **condition},
                body=body,
                repeatable=False,
            )
            try:
                return _completed(await self._client.call(ask), write.target)
            except NotFound as error:
                # After a lost answer: it was carried out, so there is no such upload any more.
                if code_of(error) == "NoSuchUpload":
                    raise Doubtful(f"{write.target} cannot be written: its parts are gone") from error
                raise

        return await self._once(write, attempt)

    async def _abort(self, write: Write, upload: str) -> None:
        """Remove the parts, in bounded time and even when cancelled again."""
        task = asyncio.create_task(self._try_abort(write, upload), name="s3-abort")
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # the first one is already on its way
                await asyncio.wait({task})

    async def _try_abort(self, write: Write, upload: str) -> None:
        target = Target(Wish.DELETED, write.bucket, write.key)
        with contextlib.suppress(PenstockError, TimeoutError):  # the error that led here is the one to tell
            async with asyncio.timeout(_ABORT_S):
                await self._client.call(Ask("DELETE", target, write.key, query=(("uploadId", upload),), body=EMPTY))


async def _try(
    attempt: Callable[[Mapping[str, str]], Awaitable[Written]], condition: Mapping[str, str], *, sure: bool
) -> Written | PenstockError:
    """What was written, or why that is not known yet. `sure` = an unmet condition is the answer to the caller."""
    try:
        return await attempt(condition)
    except Doubtful as error:
        return error
    except AlreadyExists as error:
        if sure:
            raise
        return error
    except NotFound as error:
        # What the condition named was deleted meanwhile.
        if "if-match" in condition and code_of(error) == "NoSuchKey":
            return error
        raise


async def _first_done(running: dict[asyncio.Task[str], int]) -> None:
    """Wait for any and forget those that succeeded. Raises what one raised, which stays in `running`."""
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
        del running[task]


def _written(answer: Answer) -> Written:
    headers = answer.headers
    return Written(
        headers.get("ETag", "").strip('"'),
        etags.version_of(headers.get("x-amz-version-id")),
        wire.http_time_s(headers.get("Date")),
    )


def _completed(answer: Answer, target: Target) -> Written:
    """A Complete may fail after its status was sent: then the error is in the body of a 200."""
    root = wire.parse(answer.body)
    if wire.local(root.tag) == "Error":
        failure = Failure(400, wire.texts(root).get("Code", ""))
        error = translate(failure, target)
        if failure.busy:
            raise Doubtful(str(error)) from Refused(failure)
        raise error from Refused(failure)
    written = _written(answer)
    return Written(wire.texts(root).get("ETag", "").strip('"'), written.version_id, written.answered_s)
