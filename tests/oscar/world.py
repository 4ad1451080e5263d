"""What the tests of OSCAR's interface share: a platform with single sign-on, and callers of every kind."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from gateway.embedded import Embedded
from penstock import settings as penstock_settings
from penstock.settings import Settings
from tests.live import running, settings_for
from tests.oscar.issuer import AUDIENCE, Issuer

SCRIPT = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"\n'


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def service(name: str = "copy", **changes: Any) -> dict[str, Any]:
    """A service as OSCAR's clients post it."""
    return {
        "name": name,
        "image": "example/copy:1",
        "script": SCRIPT,
        "cpu": "0.1",
        "memory": "128Mi",
        "input": [{"storage_provider": "minio", "path": f"{name}/in"}],
        "output": [{"storage_provider": "minio.default", "path": f"{name}/out"}],
    } | changes


class World:
    """A platform and whoever talks to it."""

    def __init__(self, platform: Embedded, issuer: Issuer, session: aiohttp.ClientSession) -> None:
        self.platform = platform
        self.issuer = issuer
        self.session = session

    @property
    def password(self) -> str:
        return self.platform.services.credentials.token

    def basic(self, user: str = "oscar", password: str | None = None) -> str:
        word = f"{user}:{self.password if password is None else password}"
        return f"Basic {base64.b64encode(word.encode()).decode()}"

    def bearer(self, subject: str = "alice", **claims: Any) -> str:
        return f"Bearer {self.issuer.token(subject, **claims)}"

    async def ask(self, method: str, path: str, body: Any = None, *, who: str | None = None, **headers: str) -> Reply:
        """`who` = an Authorization header, "" = none, None = the administrator's. Bodies that are no bytes go as JSON,
        without a label, as OSCAR's clients send them.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        credential = self.basic() if who is None else who
        if credential:
            sent["Authorization"] = credential
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.request(
            method, path, data=data, headers=sent, skip_auto_headers=("Content-Type",), allow_redirects=False
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def create(self, name: str = "copy", *, who: str | None = None, **changes: Any) -> dict[str, Any]:
        """A service, and how its maker reads it back."""
        made = await self.ask("POST", "/system/services", service(name, **changes), who=who)
        assert made.status == 201, made.text
        shown = await self.ask("GET", f"/system/services/{name}", who=who)
        assert shown.status == 200, shown.text
        found: dict[str, Any] = shown.json
        return found

    async def job(self, name: str = "copy", body: bytes = b"aGVsbG8=", *, who: str | None = None) -> str:
        sent = await self.ask("POST", f"/job/{name}", body, who=who)
        assert sent.status == 201, sent.text
        return str(sent.json["job_id"])

    async def jobs(self, name: str = "copy", query: str = "", *, who: str | None = None) -> dict[str, Any]:
        listed = await self.ask("GET", f"/system/logs/{name}{query}", who=who)
        assert listed.status == 200, listed.text
        found: dict[str, Any] = listed.json
        return found


def settings_with(data: Path, issuer: Issuer, *, http: dict[str, Any] | None = None, **gateway: Any) -> Settings:
    wanted = {"oidc_issuers": issuer.address, "oidc_audience": AUDIENCE, "oidc_groups": "researchers"} | gateway
    return penstock_settings.override(settings_for(data, **(http or {})), "gateway", **wanted)


@asynccontextmanager
async def world_of(data: Path, *, http: dict[str, Any] | None = None, **gateway: Any) -> AsyncIterator[World]:
    issuer = Issuer()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(issuer.serving())
        platform = await stack.enter_async_context(running(settings_with(data, issuer, http=http, **gateway)))
        session = await stack.enter_async_context(aiohttp.ClientSession(base_url=platform.address))
        yield World(platform, issuer, session)
