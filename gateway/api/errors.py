"""The one place where an error becomes an answer: status by the error's code, one sentence, text or JSON.

Also the scope of a request: its id, its log context and its metrics, because all three end where the answer is known.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import hdrs, web

from gateway.api.context import CALLER, SERVICES, Caller
from penstock.client_errors import RunFailed
from penstock.errors import InvalidInput, PenstockError

log = structlog.get_logger("gateway.api")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: By `PenstockError.code`. A code that is missing here is a defect of the platform: 500.
STATUS = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "quota": 403,
    "not_found": 404,
    "already_exists": 409,
    "conflict": 409,
    "superseded": 409,
    "too_large": 413,
    "too_many": 429,
    "unsatisfiable": 416,
    "unsupported": 422,
    "run_failed": 500,
    "unavailable": 503,
    "closed": 503,
    "run_timed_out": 504,
    "out_of_space": 507,
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
RETRY_AFTER_S = 2


def answer(error: PenstockError, *, wants_json: bool, where: str = "") -> web.Response:
    """Word an error for the caller."""
    status = STATUS.get(error.code, 500)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Penstock"'
    if status in {429, 503}:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, RunFailed):
        headers["X-Penstock-Invocation"] = error.invocation
    if not wants_json:
        # Characters that are no text (halves of surrogate pairs, from names on disk) must not break the answer.
        body = f"{error.message}\n".encode("utf-8", "backslashreplace")
        return web.Response(status=status, body=body, content_type="text/plain", charset="utf-8", headers=headers)
    named = error.where if isinstance(error, InvalidInput) else where
    document = {"error": {"code": error.code, "message": _text(error.message), "where": _text(named)}}
    return web.Response(
        status=status, body=msgspec.json.encode(document), content_type="application/json", headers=headers
    )


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into an answer, but for those that mean that the client is gone."""
    wants_json = "application/json" in request.headers.get("Accept", "")
    try:
        return await _expected(request, handler)
    except PenstockError as error:
        response = answer(error, wants_json=wants_json)
        if response.status >= 500 and response.status not in {503, 504} and not isinstance(error, RunFailed):
            log.error("request failed", action="request_failed", code=error.code, error=error.message)
        return response
    except web.HTTPException as error:
        return _framework(error, request, wants_json=wants_json)


async def _expected(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Translate what nobody foresaw: a defect, which the log tells in full and the client by its request's id."""
    try:
        return await handler(request)
    except (PenstockError, web.HTTPException, ConnectionError, TimeoutError):
        raise
    except Exception as error:
        log.exception("a handler failed", action="request_crashed", method=request.method, path=request.path)
        text = f"the server met an error it did not expect; its log tells it under {request[CALLER].request_id}"
        raise PenstockError(text) from error


class _Framework(PenstockError):
    """What aiohttp itself refuses."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.code = HTTPStatus(status).phrase.lower().replace(" ", "_")


def _framework(error: web.HTTPException, request: web.Request, *, wants_json: bool) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"{request.method} is not possible here; this address takes {allowed}"
    elif error.status == 404:
        text = f"there is nothing at {request.path[:200]}; docs/reference/api.md lists the addresses"
    else:
        text = error.text or error.reason
    response = answer(_Framework(error.status, text), wants_json=wants_json)
    response.set_status(error.status)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


@web.middleware
async def request_scope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, bind it to the log lines written meanwhile, count the answer."""
    offered = request.headers.get("X-Request-Id", "")
    request_id = offered if _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)
    request[CALLER] = Caller(request_id=request_id)
    metrics = request.app[SERVICES].metrics
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    begun = time.monotonic()
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        response = await handler(request)
    metrics.http_seconds.labels(route).observe(time.monotonic() - begun)
    # Whatever a stranger invents as a method must not become a label of its own.
    method = request.method if request.method in hdrs.METH_ALL else "other"
    metrics.http_requests.labels(method, route, str(response.status)).inc()
    return response


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: each answer, streams included, carries the request's id."""
    caller = request.get(CALLER)
    if caller is not None:
        response.headers["X-Request-Id"] = caller.request_id
    # The framework would tell its own version and Python's.
    response.headers["Server"] = "Penstock"
