"""An issuer's public keys: found through its discovery document, kept for a while, fetched anew when one is missing.

An unknown key id makes us ask again, at most once per pause, so strangers cannot make us hammer the issuer. When it
does not answer, the keys that are known stay good; there are none that ever expire by an outage.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from gateway.oidc.jws import BadToken, Key, keys_of
from penstock.errors import InvalidInput, Unavailable

log = structlog.get_logger("gateway.oidc")

#: Seconds that keys are used without asking again, and between two questions because of an unknown key.
KEEP_S, PAUSE_S = 3600.0, 10.0
DEADLINE_S = 10.0
LARGEST_BYTES = 256 * 1024
WELL_KNOWN = "/.well-known/openid-configuration"


class IssuerKeys:
    def __init__(self, issuer: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises InvalidInput for an issuer that is not reached by HTTPS (HTTP is taken for this machine alone)."""
        check_address(issuer, where="gateway.oidc_issuers")
        self.issuer = issuer
        self._clock = clock
        self._keys: list[Key] = []
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._discovery: dict[str, Any] = {}
        self._session: aiohttp.ClientSession | None = None
        self._lock = asyncio.Lock()

    async def current(self) -> list[Key]:
        """Raises Unavailable when there is none and the issuer does not answer."""
        if self._clock() - self._fetched > KEEP_S:
            await self.renewed()
        return self._keys

    async def renewed(self) -> list[Key]:
        """As `current`, asked for anew unless that was a moment ago."""
        async with self._lock:
            if self._clock() - self._tried < PAUSE_S:
                return self._keys
            self._tried = self._clock()
            try:
                self._discovery = await self._discovered()
                self._keys = keys_of(await self._document(self._address("jwks_uri")))
                self._fetched = self._clock()
            except (Unavailable, BadToken) as error:
                log.warning("an issuer's keys cannot be read", action="issuer_silent", error=error.message)
                if not self._keys:
                    raise Unavailable(f"the sign-on service does not answer now: {error.message}") from error
            return self._keys

    async def _discovered(self) -> dict[str, Any]:
        found = await self._document(self.issuer.rstrip("/") + WELL_KNOWN)
        if found.get("issuer") != self.issuer:
            raise Unavailable(f"{self.issuer} calls itself by another name in its discovery document")
        return found

    async def user_info(self, token: str) -> dict[str, Any]:
        """What the issuer tells about the token's holder, {} where it has no such service. Raises BadToken (refused),
        Unavailable.
        """
        if not self._discovery.get("userinfo_endpoint"):
            return {}
        return await self._document(self._address("userinfo_endpoint"), token=token)

    def _address(self, name: str) -> str:
        address = self._discovery.get(name)
        if not isinstance(address, str):
            raise Unavailable(f"the discovery document of {self.issuer} has no {name}")
        try:
            check_address(address, where=name)
        except InvalidInput as error:
            raise Unavailable(error.message) from error
        return address

    async def _document(self, address: str, *, token: str = "") -> dict[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with self._session.get(address, headers=headers, allow_redirects=False) as answer:
                if token and answer.status in {401, 403}:
                    raise BadToken("the issuer refuses it")
                if answer.status != 200:
                    raise Unavailable(f"{address} answered {answer.status}")
                data = await answer.content.read(LARGEST_BYTES + 1)
                while len(data) <= LARGEST_BYTES and (more := await answer.content.read(LARGEST_BYTES)):
                    data += more
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{address}: {str(error) or 'no answer in time'}") from error
        if len(data) > LARGEST_BYTES:
            raise Unavailable(f"{address} answered more than {LARGEST_BYTES} bytes")
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise Unavailable(f"{address} did not answer with a JSON object") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def check_address(address: str, *, where: str) -> None:
    """Raises InvalidInput for what is not HTTPS; HTTP only where it does not leave the machine."""
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _is_here(parts.hostname):
        return
    raise InvalidInput(f"{address[:200]!r} is not an https:// address", where=where)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
