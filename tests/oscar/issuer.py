"""A sign-on service on this machine: discovery, keys that can be changed, user information, and tokens of any kind.

It signs with another library than the one that the gateway verifies with, so that both have to be right.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC, RSA
from Crypto.Signature import DSS, pkcs1_15

AUDIENCE = "penstock-tests"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, length: int = 0) -> str:
    return encoded(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


class SigningKey:
    """RSA or EC, with its public half as a JWK."""

    def __init__(self, identity: str, *, elliptic: bool = False) -> None:
        self.id = identity
        self.algorithm = "ES256" if elliptic else "RS256"
        self._key: Any = ECC.generate(curve="P-256") if elliptic else RSA.generate(2048)

    @property
    def public(self) -> dict[str, Any]:
        head = {"kid": self.id, "use": "sig", "alg": self.algorithm}
        if self.algorithm == "ES256":
            point = self._key.pointQ
            return {
                **head,
                "kty": "EC",
                "crv": "P-256",
                "x": number(int(point.x), 32),
                "y": number(int(point.y), 32),
            }
        return {**head, "kty": "RSA", "n": number(self._key.n), "e": number(self._key.e)}

    def sign(self, text: bytes) -> bytes:
        digest = SHA256.new(text)
        if self.algorithm == "ES256":
            signature: bytes = DSS.new(self._key, "fips-186-3", encoding="binary").sign(digest)
        else:
            signature = pkcs1_15.new(self._key).sign(digest)
        return signature

    def token(self, claims: dict[str, Any], **head: Any) -> str:
        header = {"alg": self.algorithm, "kid": self.id, "typ": "JWT"} | head
        text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        return f"{text}.{encoded(self.sign(text.encode()))}"


class Issuer:
    def __init__(self) -> None:
        self.address = ""
        self.keys = [SigningKey("first")]
        self.user_info: dict[str, Any] = {}
        self.silent = False
        self.asked: list[str] = []

    def claims(self, subject: str = "alice", **changes: Any) -> dict[str, Any]:
        """Valid ones; None leaves a claim out."""
        now = int(time.time())
        valid = {
            "iss": self.address,
            "sub": subject,
            "aud": AUDIENCE,
            "exp": now + 600,
            "iat": now,
            "name": subject.title(),
            "groups": ["researchers"],
        }
        return {name: value for name, value in (valid | changes).items() if value is not None}

    def token(self, subject: str = "alice", **changes: Any) -> str:
        return self.keys[0].token(self.claims(subject, **changes))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        app.router.add_get("/me", self._me)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"
        try:
            yield
        finally:
            await runner.cleanup()

    def _answer(self, request: web.Request, document: dict[str, Any]) -> web.Response:
        self.asked.append(request.path)
        return web.Response(status=503) if self.silent else web.json_response(document)

    async def _discovery(self, request: web.Request) -> web.Response:
        found = {
            "issuer": self.address,
            "jwks_uri": f"{self.address}/keys",
            "userinfo_endpoint": f"{self.address}/me",
        }
        return self._answer(request, found)

    async def _keys(self, request: web.Request) -> web.Response:
        return self._answer(request, {"keys": [key.public for key in self.keys]})

    async def _me(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"].startswith("Bearer ")
        return self._answer(request, self.user_info)
