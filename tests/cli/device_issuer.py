"""The sign-on service of the tests, with OAuth's device flow and refresh tokens that rotate."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from penstock.client_login import DEVICE_GRANT
from tests.oscar.issuer import Issuer


class DeviceIssuer:
    """In front of an `Issuer`: its keys, its claims. `script` is what the token endpoint answers before it gives in."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.address = ""
        self.script: list[str] = ["authorization_pending"]
        self.lifetime_s = 600
        self.with_device_flow = True
        self.forms: list[dict[str, str]] = []
        self.refresh_tokens: set[str] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_post("/device", self._device)
        app.router.add_post("/token", self._token)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _discovery(self, _request: web.Request) -> web.Response:
        told = {"issuer": self.address, "token_endpoint": f"{self.address}/token"}
        if self.with_device_flow:
            told["device_authorization_endpoint"] = f"{self.address}/device"
        return web.json_response(told)

    async def _device(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        if form["client_id"] != "penstock":
            return web.json_response({"error": "invalid_client", "error_description": "who is that?"}, status=401)
        return web.json_response(
            {
                "device_code": "the-device-code",
                "user_code": "WDJB-MJHT",
                "verification_uri": f"{self.address}/confirm",
                "expires_in": 60,
                "interval": 0.01,
            }
        )

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        if form["grant_type"] == DEVICE_GRANT:
            assert form["device_code"] == "the-device-code"
            if self.script:
                return web.json_response({"error": self.script.pop(0)}, status=400)
            return self._given()
        assert form["grant_type"] == "refresh_token"
        if form["refresh_token"] not in self.refresh_tokens:
            return web.json_response({"error": "invalid_grant", "error_description": "used already"}, status=400)
        self.refresh_tokens.remove(form["refresh_token"])
        return self._given()

    def _given(self) -> web.Response:
        refresh = secrets.token_hex(8)
        self.refresh_tokens.add(refresh)
        given: dict[str, Any] = {
            "access_token": self.issuer.token(),
            "refresh_token": refresh,
            "expires_in": self.lifetime_s,
            "token_type": "Bearer",
        }
        return web.json_response(given)
