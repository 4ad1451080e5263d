"""Which web pages may call the interface from a browser.

A browser asks first (OPTIONS), without any credential, so that is answered before authentication. Cookies are never
used: a page has to bring a credential of its own, and no answer permits the browser to add one.
"""

from __future__ import annotations

from aiohttp import web

from gateway.api.context import SERVICES
from gateway.api.errors import Handler

METHODS = "GET, POST, PUT, DELETE, OPTIONS, HEAD"
HEADERS = "authorization, content-type, x-requested-with, x-request-id, if-none-match, range"
EXPOSED = "location, x-request-id, x-penstock-job, x-penstock-invocation, x-penstock-warnings, content-range, etag"
#: Seconds that a browser may remember the answer.
MAX_AGE_S = 600


@web.middleware
async def answer_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(status=204)
    return await handler(request)


async def permit(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: each answer to a page that may read it says so."""
    group = request.app[SERVICES].settings.gateway
    allowed, origin = group.words(group.allowed_origins), request.headers.get("Origin", "")
    if "*" in allowed:
        response.headers["Access-Control-Allow-Origin"] = "*"
    elif origin in allowed:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Vary"] = "Origin"
    else:
        return
    response.headers["Access-Control-Expose-Headers"] = EXPOSED
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = METHODS
        response.headers["Access-Control-Allow-Headers"] = HEADERS
        response.headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
