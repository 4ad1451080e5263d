"""From a request to a synchronous run and back: the body in, the answer out, and an ear for a caller who leaves.

The server does not tell a handler that its client has gone while it waits; the connection does, so it is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from aiohttp import web

from gateway.api import wire
from gateway.api.context import CALLER, SERVICES
from gateway.resident.answer import Answer
from gateway.resident.pod_client import PodLost
from gateway.resident.variables import http_variables
from penstock.client_errors import RunFailed, RunTimedOut
from penstock.errors import Unavailable
from penstock.model import ErrorClass, Function

#: How soon a caller who left is noticed.
LOOK_S = 0.1


class SynchronousRuns(Protocol):
    """What runs a body and waits for the answer."""

    async def run(
        self,
        function: Function,
        body: bytes,
        *,
        content_type: str,
        headers: Mapping[str, str],
        timeout_s: float,
        user: str = "",
    ) -> Answer:
        """Cancelled = the run is ended. Raises Unavailable (nothing was begun), InvalidInput, PodLost."""
        ...


class BodyRefused(RunFailed):
    """The body was no input for a function: the caller's mistake, not the script's."""

    code = "invalid"


async def answered(
    runs: SynchronousRuns, request: web.Request, function: Function, timeout_s: float
) -> web.StreamResponse:
    """Read the request's body, run it, and pass the answer on. Raises RunFailed, RunTimedOut, Unavailable, TooLarge,
    InvalidInput.
    """
    services = request.app[SERVICES]
    body = await wire.read_body(request, services.settings.http.max_payload_bytes, what="the body")
    content_type = request.headers.get("Content-Type", "")[:200]
    variables = http_variables(request.method, request.path, request.query_string, request.headers.items(), len(body))
    run = runs.run(
        function,
        body,
        content_type=content_type,
        headers=variables,
        timeout_s=timeout_s,
        user=request[CALLER].uid,
    )
    began = asyncio.get_running_loop().time()
    try:
        answer = await _while_there(request, asyncio.create_task(run, name=f"run {function.name}"))
    except PodLost as error:
        raise RunFailed(error.message) from error
    try:
        if answer.result.error is not None:
            raise _failure(answer, (await answer.read()).decode("utf-8", "replace").rstrip(), function, timeout_s)
        headers = {
            "Content-Type": answer.content_type,
            "X-Content-Type-Options": "nosniff",
            "X-Duration-Seconds": f"{asyncio.get_running_loop().time() - began:f}",
            "X-Penstock-Invocation": answer.invocation,
            "X-Penstock-Job": answer.invocation,
            "Server-Timing": ", ".join(f"{name[:-2]};dur={s * 1000:.1f}" for name, s in answer.parts.items()),
        }
        return await wire.stream(request, answer.chunks(), headers=headers)
    finally:
        await answer.close()


async def _while_there(request: web.Request, task: asyncio.Task[Answer]) -> Answer:
    """The answer; a caller who left has the run ended."""
    async with _ended(task):
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_S)
            if done:
                return task.result()
            if request.transport is None or request.transport.is_closing():
                raise Unavailable("the caller went away, so its run was ended")


@contextlib.asynccontextmanager
async def _ended(task: asyncio.Task[Answer]) -> AsyncIterator[None]:
    """A task that does not outlive its request."""
    try:
        yield
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _failure(answer: Answer, quoted: str, function: Function, timeout_s: float) -> RunFailed:
    result = answer.result
    invocation = answer.invocation
    if result.error is ErrorClass.DEADLINE and timeout_s < function.deadline_s:
        return RunTimedOut(f"no answer within {timeout_s:g} s, so the run was ended", invocation=invocation)
    said = result.message or (result.error.value if result.error is not None else "")
    if result.error is ErrorClass.SCRIPT and result.exit_code is not None:
        said = f"the script ended with code {result.exit_code}"
    text = f"{said} (invocation {invocation})" + (f"\n{quoted}" if quoted else "")
    kind = BodyRefused if result.error is ErrorClass.INVALID else RunFailed
    return kind(text, invocation=invocation)
