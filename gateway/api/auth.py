"""Who calls: the administrator by the generated credential, or a function by its own token.

A function's token is handed to user code, so it opens one door only: invoking that function. Comparing takes the same
time for every wrong credential, and what was wrong is never said.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import replace

from aiohttp import web

from gateway.api.context import CALLER, SERVICES
from gateway.api.errors import Handler
from gateway.datadir import Credentials
from penstock.client_errors import Unauthenticated
from penstock.errors import Forbidden, NotFound
from penstock.ports import Registry

#: Answered without a credential: what load balancers and probes read, and Prometheus on this machine (metrics name
#: functions, which is nobody else's business).
OPEN = frozenset({"/health", "/ready", "/metrics"})
#: The canonical paths that a function's own token may use.
INVOKING = frozenset({"/v1/functions/{name}/submit", "/v1/functions/{name}/run"})

_REFUSED = Unauthenticated(
    "this needs a credential: the token from the file `credentials` in the data folder, as "
    "`Authorization: Bearer TOKEN` or as the password of the user in that file"
)


def presented(header: str) -> tuple[str, str] | None:
    """Parse an Authorization header into (user, token); the user is "" for Bearer. None = nothing usable."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return "", value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon and user else None


def is_admin(offered: tuple[str, str], known: Credentials) -> bool:
    """Constant-time: both fields are always compared."""
    user, token = offered
    same_token = hmac.compare_digest(token.encode("utf-8", "replace"), known.token.encode())
    same_user = hmac.compare_digest((user or known.user).encode("utf-8", "replace"), known.user.encode())
    return same_token and same_user


async def is_function(offered: tuple[str, str], name: str, registry: Registry) -> bool:
    """Whether the token is the named function's own."""
    try:
        function = await registry.get(name)
    except NotFound:
        return False
    token = function.token.encode()
    return bool(token) and hmac.compare_digest(offered[1].encode("utf-8", "replace"), token)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    if route in OPEN and (route != "/metrics" or _is_local(request)):
        return await handler(request)
    services = request.app[SERVICES]
    offered = presented(request.headers.get("Authorization", ""))
    if offered is None:
        raise Unauthenticated(_REFUSED.message)
    if is_admin(offered, services.credentials):
        request[CALLER] = replace(request[CALLER], user=services.credentials.user)
        return await handler(request)
    name = request.match_info.get("name", "")
    if route in INVOKING and await is_function(offered, name, services.registry):
        request[CALLER] = replace(request[CALLER], user=f"function:{name}", function=name)
        return await handler(request)
    if await _some_function(offered, services.registry):
        raise Forbidden("this token belongs to a function and may only invoke that function")
    raise Unauthenticated(_REFUSED.message)


def _is_local(request: web.Request) -> bool:
    try:
        return ipaddress.ip_address((request.remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False


async def _some_function(offered: tuple[str, str], registry: Registry) -> bool:
    token = offered[1].encode("utf-8", "replace")
    found = False
    for function in await registry.list():
        found |= bool(function.token) and hmac.compare_digest(token, function.token.encode())
    return found
