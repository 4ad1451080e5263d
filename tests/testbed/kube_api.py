"""A small client of the Kubernetes API: JSON in, JSON out, errors as words.

The bed's own needs are few (create, read, wait, delete, logs), and a typed page of code that shows each request is
easier to debug a cluster with than a generated client of thousands.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from tests.testbed.errors import BedError

Json = dict[str, Any]
WAIT_SECONDS = 60.0
REQUEST_SECONDS = 60.0


class ApiError(BedError):
    """The API server refused; `status` is the HTTP code."""

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what} was answered with {status}: {text[:500]}")
        self.status = status


class KubeApi:
    """One connection pool to one API server; used as an async context manager."""

    def __init__(self, server: str, token: str, tls: ssl.SSLContext) -> None:
        self.server = server
        self._token = token
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path) -> KubeApi:
        """The current context of a kubeconfig with a token or client certificate in files or inline."""
        config = yaml.safe_load(path.read_text())
        contexts = {one["name"]: one["context"] for one in config["contexts"]}
        context = contexts[config["current-context"]]
        cluster = next(one["cluster"] for one in config["clusters"] if one["name"] == context["cluster"])
        user = next(one["user"] for one in config["users"] if one["name"] == context["user"])
        return cls(cluster["server"], user.get("token", ""), tls_of(cluster, user))

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=64)
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        self._session = aiohttp.ClientSession(self.server, connector=connector, headers=headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def text(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        params: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> str:
        """One request; a refusal is an `ApiError`."""
        assert self._session is not None, "use `async with`"
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        async with self._session.request(method, path, data=data, params=params, headers=headers) as response:
            text = await response.text()
            if not response.ok:
                raise ApiError(f"{method} {path}", response.status, text)
            return text

    async def get(self, path: str, **params: str) -> Json:
        """Read an object or a list."""
        found: Json = json.loads(await self.text("GET", path, params=params))
        return found

    async def create(self, path: str, body: Json) -> Json:
        """POST an object to its collection."""
        made: Json = json.loads(await self.text("POST", path, body))
        return made

    async def patch(self, path: str, body: Json) -> Json:
        """Merge-patch an object."""
        patched: Json = json.loads(await self.text("PATCH", path, body, kind="application/merge-patch+json"))
        return patched

    async def delete(self, path: str, *, grace: int | None = None, propagation: str = "Background") -> None:
        """Delete an object; one that is gone already is fine."""
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            await self.text("DELETE", path, body)
        except ApiError as error:
            if error.status != 404:
                raise

    async def logs(self, namespace: str, pod: str, container: str) -> str:
        """A container's log, through the API server and the kubelet."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return await self.text("GET", path, params={"container": container})

    async def watch(self, path: str, **params: str) -> AsyncIterator[Json]:
        """Events of a collection, until the server ends the watch."""
        assert self._session is not None, "use `async with`"
        query = {"watch": "true", **params}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path, params=query, timeout=timeout) as response:
            async for line in response.content:
                yield json.loads(line)

    async def until(
        self,
        what: str,
        check: Callable[[], Awaitable[bool]],
        *,
        seconds: float = WAIT_SECONDS,
        pause: float = 0.1,
    ) -> None:
        """Ask again until the answer is yes; one that cannot be had counts as no."""
        deadline = time.monotonic() + seconds
        last = ""
        while True:
            try:
                if await check():
                    return
            except (ApiError, aiohttp.ClientError) as error:
                last = f" ({error})"
            if time.monotonic() > deadline:
                raise BedError(f"After {seconds:.0f} s still not so: {what}{last}.")
            await asyncio.sleep(pause)


def tls_of(cluster: Json, user: Json) -> ssl.SSLContext:
    """What a kubeconfig says about certificates."""
    authority = cluster.get("certificate-authority-data")
    context = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"),
        cadata=base64.b64decode(authority).decode() if authority else None,
    )
    if "client-certificate" in user:
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    elif "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as folder:
            pair = [Path(folder, name) for name in ("certificate", "key")]
            for file, key in zip(pair, ("client-certificate-data", "client-key-data"), strict=True):
                file.touch(mode=0o600)
                file.write_bytes(base64.b64decode(user[key]))
            context.load_cert_chain(pair[0], pair[1])
    return context
