"""The S3 port: takes requests, refuses what must not be done (`rules`), and passes the rest to rclone unchanged.

Bytes are streamed both ways and never kept. The signature is rclone's to check: it covers the `Host` header and the
path, so both go on as they came. An upload whose client leaves is broken off towards rclone too, which throws it away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket

import aiohttp
import structlog
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from gateway.s3 import rules
from gateway.s3.rules import Refusal, Target

log = structlog.get_logger("gateway.s3")

CHUNK = 256 * 1024
#: Rclone waits for the disk before it answers the end of a long upload.
PATIENCE_S = 600.0
#: At a stop requests under way get so long.
STOP_S = 3.0
_SKIPPED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Front:
    """`upstream` is rclone's address; `buckets` is the folder it serves."""

    def __init__(self, upstream: str, buckets: Path) -> None:
        self._upstream = upstream
        self._buckets = buckets
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def serving(self, sock: socket) -> AsyncIterator[None]:
        """Serve on a listening socket until the block ends."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_S, sock_read=PATIENCE_S)
        connector = aiohttp.TCPConnector(limit=0)
        # Bodies are what was sent: unpacking them would change a user's bytes.
        server = web.Server(self.answer, auto_decompress=False, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=STOP_S)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, skip_auto_headers=_SKIPPED
        ) as self._session:
            await runner.setup()
            try:
                await web.SockSite(runner, sock).start()
                yield
            finally:
                await runner.cleanup()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        raw = request.raw_path
        if request.method == "OPTIONS":
            return web.Response(status=200, headers=rules.CORS)
        target = rules.target_of(raw)
        refused = rules.refusal(request.method, target)
        if refused is not None or target is None:
            return self._refuse(request, refused or rules.UNAVAILABLE)
        return await self._forward(request, target)

    async def _forward(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        assert self._session is not None, "not serving"
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if rules.passed_on(name))
        # `encoded`: the path is the client's own, which it has signed.
        url = URL(self._upstream + request.raw_path, encoded=True)
        body = request.content.iter_chunked(CHUNK) if request.can_read_body else None
        answer: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as came:
                if came.status >= 500 and (refused := self._cause(request.method, target)) is not None:
                    return self._refuse(request, refused)
                answer = _head_of(came, part="Range" in request.headers)
                await answer.prepare(request)
                async for chunk in came.content.iter_chunked(CHUNK):
                    await answer.write(chunk)
                await answer.write_eof()
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("request to rclone broke off", action="s3_broken", error=str(error) or type(error).__name__)
            if answer is not None and answer.prepared:
                # The head is out: only a broken connection can say that the rest is missing.
                if request.transport is not None:
                    request.transport.abort()
                return answer
            return self._refuse(request, rules.UNAVAILABLE)

    def _cause(self, method: str, target: Target) -> Refusal | None:
        """Why rclone failed, where the disk tells: a folder cannot hold `a` beside `a/b`. None = not for this."""
        if method not in {"PUT", "POST"} or not target.key:
            return None
        path = self._buckets / target.bucket / target.key
        if path.is_dir():
            text = f"{target.key!r} is a folder that holds other objects; a folder cannot be an object too."
            return Refusal(400, "XMinioObjectExistsAsDirectory", text)
        for above in path.relative_to(self._buckets / target.bucket).parents:
            if str(above) != "." and (self._buckets / target.bucket / above).is_file():
                text = f"{str(above)!r} is an object; a folder of the same name cannot be beside it."
                return Refusal(400, "XMinioParentIsObject", text)
        return None

    @staticmethod
    def _refuse(request: web.BaseRequest, refused: Refusal) -> web.Response:
        body = b"" if request.method == "HEAD" else rules.document(refused, request.path)
        answer = web.Response(status=refused.status, body=body, content_type="application/xml", headers=rules.CORS)
        # A body that nobody read would be taken for the next request.
        answer.force_close()
        return answer


def _head_of(came: aiohttp.ClientResponse, *, part: bool) -> web.StreamResponse:
    answer = web.StreamResponse(status=came.status, reason=came.reason)
    for name, value in came.headers.items():
        if rules.passed_back(name, part=part):
            answer.headers.add(name, value)
    answer.headers.update(rules.CORS)
    return answer
