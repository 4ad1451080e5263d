"""Logging in where a browser is: OAuth's device flow (RFC 8628), and renewing what it brought.

The program shows an address and a short code, the user confirms them in any browser, and meanwhile the program asks the
issuer whether that has happened. No password passes through here. The tokens come straight from the issuer over TLS,
which is what vouches for them; whether they open anything is the server's to verify.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from penstock import client_contexts
from penstock.client_contexts import Context
from penstock.client_errors import Unauthenticated, Unreachable
from penstock.errors import InvalidInput

#: The issuer is asked for these; without the last one a login ends within the hour.
SCOPE = "openid profile email offline_access"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
#: RFC 8628: wait so long between two questions where the issuer does not say, and so much longer when it says so.
INTERVAL_S = 5.0
SLOWER_S = 5.0
TIMEOUT = aiohttp.ClientTimeout(total=30)
#: A token is renewed so long before it ends: clocks differ, and requests take time.
EARLY_S = 60

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """What an issuer's own document says."""

    issuer: str
    device_endpoint: str
    token_endpoint: str


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What the user is shown, and how long it is good for, in seconds."""

    code: str
    address: str
    #: The same address with the code in it; "" where the issuer has none.
    direct: str = ""
    expires_in_s: float = 600
    interval_s: float = INTERVAL_S
    device_code: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What the issuer gave."""

    access_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)
    expires_s: int = 0


class DeviceLogin:
    """One login. `trust` = whom to trust beside the system's authorities."""

    def __init__(self, client_id: str, *, scope: str = SCOPE, trust: ssl.SSLContext | None = None) -> None:
        self._client_id = client_id
        self._scope = scope
        self._trust = trust

    async def discover(self, issuer: str) -> Issuer:
        """Ask an issuer for its addresses. Raises InvalidInput (no issuer, no device flow), Unreachable."""
        check_address(issuer)
        base = issuer.rstrip("/")
        status, told = await self._ask("GET", f"{base}/.well-known/openid-configuration")
        if status != 200 or str(told.get("issuer", "")).rstrip("/") != base:
            raise InvalidInput(f"{issuer} is no OpenID issuer: it does not describe itself under this address")
        device, token = told.get("device_authorization_endpoint"), told.get("token_endpoint")
        if not isinstance(device, str) or not isinstance(token, str):
            raise InvalidInput(f"{issuer} has no device flow; log in with a token of it instead (--token-stdin)")
        for address in (device, token):
            check_address(address)
        return Issuer(issuer=str(told["issuer"]), device_endpoint=device, token_endpoint=token)

    async def invite(self, issuer: Issuer) -> Invitation:
        """Begin a login. Raises InvalidInput when the issuer refuses the client or the scope, Unreachable."""
        form = {"client_id": self._client_id, "scope": self._scope}
        status, told = await self._ask("POST", issuer.device_endpoint, form)
        if status != 200 or "device_code" not in told:
            raise InvalidInput(f"{issuer.issuer} refuses a login of the client '{self._client_id}': {_why(told)}")
        return Invitation(
            code=str(told["user_code"]),
            address=str(told.get("verification_uri") or told.get("verification_url") or issuer.issuer),
            direct=str(told.get("verification_uri_complete", "")),
            expires_in_s=float(told.get("expires_in", 600)),
            interval_s=float(told.get("interval", INTERVAL_S)),
            device_code=str(told["device_code"]),
        )

    async def finish(self, issuer: Issuer, invitation: Invitation, *, sleep: Sleep = asyncio.sleep) -> Tokens:
        """Wait until the user has confirmed. Raises Unauthenticated (refused, or too late), Unreachable."""
        form = {"grant_type": DEVICE_GRANT, "device_code": invitation.device_code, "client_id": self._client_id}
        interval, waited = invitation.interval_s, 0.0
        while waited < invitation.expires_in_s:
            await sleep(interval)
            waited += interval
            try:
                status, told = await self._ask("POST", issuer.token_endpoint, form)
            except Unreachable:
                interval *= 2  # as the RFC has it: back off, and go on
                continue
            if status == 200:
                return _tokens(told)
            match told.get("error"):
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval += SLOWER_S
                case "access_denied":
                    raise Unauthenticated("the login was refused in the browser")
                case "expired_token":
                    break
                case _:
                    raise Unauthenticated(f"{issuer.issuer} ends the login: {_why(told)}")
        raise Unauthenticated("nobody confirmed the login in time; begin again with 'penstock login'")

    async def renew(self, token_endpoint: str, refresh_token: str) -> Tokens:
        """Get new tokens for an old refresh token. Raises Unauthenticated when it is not good any more, Unreachable."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": self._client_id}
        status, told = await self._ask("POST", token_endpoint, form)
        if status >= 500:
            raise Unreachable(f"{token_endpoint} cannot renew the login now: it answers {status}")
        if status != 200:
            raise Unauthenticated(f"the login has ended: {_why(told)}; log in again with 'penstock login'")
        tokens = _tokens(told)
        # An issuer that does not rotate it leaves it out.
        return tokens if tokens.refresh_token else replace(tokens, refresh_token=refresh_token)

    async def _ask(
        self, method: str, address: str, form: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        connector = aiohttp.TCPConnector(ssl=self._trust) if self._trust is not None else None
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT, connector=connector) as session,
                # Not followed: a form with a code in it is for the address that the issuer named, and no other.
                session.request(method, address, data=form, allow_redirects=False) as answer,
            ):
                try:
                    told = await answer.json(content_type=None)
                except ValueError:
                    told = None
                return answer.status, told if isinstance(told, dict) else {}
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"no answer from {address}: {str(error) or 'it takes too long'}") from error


def check_address(address: str) -> None:
    """Raise InvalidInput unless an address may be trusted with codes and tokens: https, or this machine."""
    parts = urlsplit(address)
    local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise InvalidInput(f"{address!r} cannot be an issuer's address: it must begin with https://")


def authorization_of(context: Context, contexts_path: Path) -> Callable[[], Awaitable[str]]:
    """Return what yields the header `Authorization` for each request under a context, renewing an OIDC login."""
    if context.kind == "oidc":
        return _Renewing(context, contexts_path)
    value = basic(context.user, context.password) if context.kind == "basic" else f"Bearer {context.token}"

    async def same() -> str:
        return value

    return same


def basic(user: str, password: str) -> str:
    """Return the header of HTTP's Basic authentication."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


class _Renewing:
    def __init__(self, context: Context, path: Path) -> None:
        self._context = context
        self._path = path
        self._turn = asyncio.Lock()

    async def __call__(self) -> str:
        async with self._turn:
            if not _good(self._context):
                await self._renew()
            return f"Bearer {self._context.access_token}"

    async def _renew(self) -> None:
        # Off the loop: another process may hold the lock for as long as its issuer takes.
        guard = client_contexts.locked(self._path)
        await asyncio.to_thread(guard.__enter__)
        try:
            contexts = client_contexts.load(self._path)
            # Another command may have renewed it meanwhile, and what we had is dead then.
            known = contexts.by_name.get(self._context.name, self._context)
            if not _good(known):
                known = await self._asked(known)
                if known.name in contexts.by_name:  # else somebody removed it: it must not come back
                    client_contexts.save(self._path, contexts.having(known, use=False))
            self._context = known
        finally:
            guard.__exit__(None, None, None)

    async def _asked(self, context: Context) -> Context:
        if not context.refresh_token:
            raise Unauthenticated(f"the login at {context.server} has ended; log in again with 'penstock login'")
        from penstock.client.core import trust  # noqa: PLC0415 - it imports this package's client in turn

        login = DeviceLogin(context.client_id, trust=trust(context.ca))
        tokens = await login.renew(context.token_endpoint, context.refresh_token)
        return with_tokens(context, tokens)


def with_tokens(context: Context, tokens: Tokens) -> Context:
    """The context with new tokens."""
    return replace(
        context,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_s=tokens.expires_s,
    )


def _good(context: Context) -> bool:
    return bool(context.access_token) and (not context.expires_s or time.time() < context.expires_s - EARLY_S)


def _tokens(told: Mapping[str, Any]) -> Tokens:
    token = told.get("access_token")
    if not isinstance(token, str) or not token:
        raise Unauthenticated("the issuer gave no access token")
    lifetime = told.get("expires_in")
    return Tokens(
        access_token=token,
        refresh_token=str(told.get("refresh_token") or ""),
        expires_s=int(time.time() + float(lifetime)) if lifetime else 0,
    )


def _why(told: Mapping[str, Any]) -> str:
    text = str(told.get("error_description") or told.get("error") or "it says nothing")
    return text[:200]
