"""Who calls: the administrator by his credential, a user of single sign-on, or a function by its own token.

A function's token is handed to user code, so it opens one door only: invoking that function. Comparing takes the same
time for every wrong credential, and what was wrong is never said. Whoever is refused here is refused before any handler
runs, and before anything but memory was asked.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import replace

from aiohttp import web

from gateway.access import ADMIN, TOKEN_DIGITS, Caller, holder
from gateway.api.context import CALLER, SERVICES, Services
from gateway.api.errors import Handler
from gateway.datadir import Credentials
from gateway.oidc.jws import looks_like_token
from gateway.storage import SEAL, LocalLinks
from penstock.client_errors import Unauthenticated
from penstock.errors import Forbidden
from penstock.model import Function
from scaler.interface.proxy import ROUTES as NODE_ROUTES

#: Answered without a credential: what load balancers and probes read, and Prometheus on this machine (metrics name
#: functions, which is nobody else's business).
PROBES = frozenset({"/health", "/ready", "/metrics"})
#: Pages that hold nothing of anybody: they say how to sign in.
PAGES = frozenset({"/", "/ui", "/ui/api", "/openapi.json"})
OPEN = PROBES | PAGES
#: The canonical paths that a function's own token may use.
INVOKING = frozenset({"/v1/functions/{name}/submit", "/v1/functions/{name}/run", "/job/{name}", "/run/{name}"})
#: The canonical paths that are about everybody's things.
ADMIN_ONLY = frozenset({"/metrics", "/v1/dead", "/v1/dead/{id}", "/v1/dead/{id}/retry"}) | {
    path for _, path in NODE_ROUTES
}
#: The canonical paths that a sealed link may open.
LINKED = "/v1/buckets/{bucket}/objects/{key}"
#: Another name of the administrator, under which OSCAR's dashboard shows its administrator's view.
ALIAS = "oscar"

_REFUSED = Unauthenticated(
    "this needs a credential: the administrator's user and password with Basic, or a token with Bearer; "
    "`penstock up` keeps its own in the file `credentials` of the data folder"
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
    """Constant-time: all fields are always compared."""
    user, token = offered
    given = (user or known.user).encode("utf-8", "replace")
    same_token = hmac.compare_digest(token.encode("utf-8", "replace"), known.token.encode())
    same_user = hmac.compare_digest(given, known.user.encode())
    same_alias = hmac.compare_digest(given, ALIAS.encode())
    return same_token and (same_user or same_alias)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    if route in OPEN and (route != "/metrics" or _is_local(request)):
        return await handler(request)
    services = request.app[SERVICES]
    if route == LINKED and SEAL in request.query:
        request[CALLER] = _by_link(request, services)
        return await handler(request)
    offered = presented(request.headers.get("Authorization", ""))
    if offered is None:
        raise Unauthenticated(_REFUSED.message)
    name = request.match_info.get("name", "") if route in INVOKING else ""
    request[CALLER] = await _identified(request[CALLER], services, offered, name)
    if route in ADMIN_ONLY and not request[CALLER].admin:
        raise Forbidden("this is the administrator's")
    return await handler(request)


async def _identified(unknown: Caller, services: Services, offered: tuple[str, str], name: str) -> Caller:
    """`name` = the function that is to be invoked. Raises Unauthenticated, Forbidden, Unavailable."""
    credentials = services.admin() if services.admin is not None else services.credentials
    if is_admin(offered, credentials):
        return replace(unknown, user=credentials.user, uid=ADMIN, admin=True, display=ALIAS)
    user, token = offered
    if user:
        raise Unauthenticated(_REFUSED.message)
    if name and (function := services.registry.find(name)) is not None:
        owner = holder(token, function)
        if owner is not None:
            return replace(unknown, user=f"function:{name}", function=name, uid=owner)
    if services.oidc is not None and len(token) != TOKEN_DIGITS and looks_like_token(token):
        identity = await services.oidc.identify(token)
        admin = identity.subject in services.oidc.admins
        return replace(
            unknown,
            user=identity.subject,
            uid=ADMIN if admin else identity.subject,
            admin=admin,
            groups=identity.groups,
            display=identity.name,
        )
    if _some_function(token, services.registry.known()):
        raise Forbidden("this token belongs to a function and may only invoke that function")
    raise Unauthenticated(_REFUSED.message)


def _by_link(request: web.Request, services: Services) -> Caller:
    """The holder of a sealed link. Raises Unauthenticated."""
    from gateway.api.wire import key_of  # noqa: PLC0415 - it imports the context, as this does

    bucket, key = request.match_info["bucket"], key_of(request)
    storage = services.storage
    if request.method not in {"GET", "HEAD", "PUT"} or not (
        isinstance(storage, LocalLinks) and storage.opens(request.method, bucket, key, request.query)
    ):
        raise Unauthenticated("this link is not valid, or not any more: ask for a new one")
    return replace(request[CALLER], user="holder of a link", link=(bucket, key))


def _is_local(request: web.Request) -> bool:
    try:
        return ipaddress.ip_address((request.remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _some_function(token: str, functions: list[Function]) -> bool:
    given = token.encode("utf-8", "replace")
    found = False
    for function in functions:
        found |= bool(function.token) and hmac.compare_digest(given, function.token.encode())
    return found
