"""S3Store against answers that a healthy MinIO never gives: here a small server says exactly what the test wants."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.errors import (
    Corrupt,
    Forbidden,
    Unavailable,
    Unsupported,
)
from penstock.model import ObjectInfo

MIB = 1024 * 1024


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[list[web.Response]], S3Store]]:
    """A server that gives these answers, one after the other, to whatever is asked."""
    stores: list[S3Store] = []
    answers: list[web.Response] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return answers.pop(0)

    app = web.Application(client_max_size=16 * MIB)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]

    def make(script: list[web.Response]) -> S3Store:
        answers.extend(script)
        stores.append(
            S3Store(
                S3Config(endpoint=f"http://{host}:{port}", credentials=Credentials("k", "s"), attempts=4, deadline_s=10)
            )
        )
        return stores[-1]

    yield make
    for store in stores:
        await store.close()
    await runner.cleanup()
    assert answers == []


def refusal(status: int, code: str, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", headers=named)


BUCKETS = "<R><Buckets><Bucket><Name>one</Name></Bucket></Buckets></R>"


async def test_a_busy_store_is_asked_again_and_as_late_as_it_wants(
    scripted: Callable[[list[web.Response]], S3Store],
) -> None:
    store = scripted(
        [
            refusal(503, "SlowDown", Retry_After="1"),
            web.Response(status=502, text="<html>Bad Gateway</html>"),
            web.Response(text=BUCKETS),
        ]
    )
    began = time.monotonic()
    assert await store.buckets() == ["one"]
    assert time.monotonic() - began >= 1


async def test_patience_ends(scripted: Callable[[list[web.Response]], S3Store]) -> None:
    store = scripted([refusal(500, "InternalError") for _ in range(4)])
    with pytest.raises(Unavailable, match="500 InternalError"):
        await store.buckets()


async def test_what_cannot_get_better_is_not_tried_again(scripted: Callable[[list[web.Response]], S3Store]) -> None:
    store = scripted([refusal(403, "AccessDenied")])
    with pytest.raises(Forbidden, match="AccessDenied"):
        await store.buckets()


async def test_a_store_without_conditions_says_so_and_is_used_without_where_none_was_asked_for(
    scripted: Callable[[list[web.Response]], S3Store],
) -> None:
    store = scripted([refusal(501, "NotImplemented")])
    with pytest.raises(Unsupported):
        await store.put("bucket", "k", b"x", if_absent=True)
    # Doubtful, looked at, not there, sent again on a condition, which it does not know, then without.
    done = web.Response(headers={"ETag": '"e"'})
    store = scripted([refusal(500, "InternalError"), web.Response(status=404), refusal(501, "NotImplemented"), done])
    assert (await store.put("bucket", "k", b"x")).etag == "e"


async def test_what_a_repeated_put_should_replace_may_be_gone_by_then(
    scripted: Callable[[list[web.Response]], S3Store],
) -> None:
    other = web.Response(headers={"ETag": '"other"', "x-amz-meta-penstock-write": "another"})
    done = web.Response(headers={"ETag": '"e"'})
    answers = [refusal(500, "InternalError"), other, refusal(404, "NoSuchKey"), web.Response(status=404), done]
    store = scripted(answers)
    assert (await store.put("bucket", "k", b"x")).etag == "e"


async def test_a_body_goes_without_asking_where_nobody_answers_the_question() -> None:
    """A server that never says `100 Continue`, but takes what comes."""
    size = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        head = await reader.readuntil(b"\r\n\r\n")
        if b"100-continue" in head.lower():
            await reader.read()
        else:
            size = len(await reader.readexactly(MIB)) if b"PUT" in head else 0
            writer.write(b"HTTP/1.1 " + (b"200 OK" if size else b"404 Not Found") + b'\r\nETag: "e"\r\n')
            writer.write(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    store = S3Store(S3Config(endpoint=f"http://{host}:{port}", credentials=Credentials("k", "s"), deadline_s=0.5))
    try:
        assert (await store.put("bucket", "k", bytes(MIB))).etag == "e"
        assert size == MIB
    finally:
        await store.close()
        server.close()


async def test_a_complete_that_fails_in_the_body_of_a_200_is_no_success(
    scripted: Callable[[list[web.Response]], S3Store],
) -> None:
    store = scripted(
        [
            web.Response(text="<R><UploadId>u</UploadId></R>"),
            web.Response(headers={"ETag": '"p"'}),
            web.Response(headers={"ETag": '"p"'}),
            web.Response(text="<Error><Code>InternalError</Code></Error>"),
            web.Response(status=404),
            web.Response(text='<CompleteMultipartUploadResult><ETag>"x-2"</ETag></CompleteMultipartUploadResult>'),
        ]
    )
    assert (await store.put("bucket", "k", bytes(9 * MIB))).etag == "x-2"


async def test_damaged_content_is_not_accepted(
    scripted: Callable[[list[web.Response]], S3Store], tmp_path: Path
) -> None:
    etag = hashlib.md5(b"right").hexdigest()
    headers = {"ETag": f'"{etag}"', "Last-Modified": "Thu, 01 Jan 1970 00:00:01 GMT"}
    store = scripted([web.Response(body=b"wrong", headers=headers)])
    info = ObjectInfo(bucket="bucket", key="k", etag=etag, size=5, modified_ms=1000, arrived_ms=1000)
    with pytest.raises(Corrupt, match="MD5"):
        await store.fetch(info, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
