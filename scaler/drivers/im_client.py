"""The REST interface of an Infrastructure Manager: requests with deadlines, answers by meaning.

It answers 400 to nearly everything, expired credentials included, so a 400 is held against the one call that says 401
when it means it. Bodies of answers hold passwords of machines: nothing of them but the server's own message goes into
an error.
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp

from penstock.errors import Closed, Forbidden, InvalidInput, NotFound, PenstockError, Unavailable

_SHOWN = 300
#: Words by which the server's clouds say that there is no room.
_FULL = ("quota", "capacity", "limit exceeded", "insufficient", "no valid host", "not enough", "max_instances")
_WRONG = ("parse", "invalid value", "does not have", "radl", "no correct vmrc", "unsupported")


class Rejected(PenstockError):
    """The server or its cloud did not do it: `full` = for want of room, `wrong` = as it was asked."""

    code = "rejected"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        text = message.lower()
        self.full = any(word in text for word in _FULL)
        self.wrong = not self.full and any(word in text for word in _WRONG)


def read_authorization(file: Path) -> str:
    """The Authorization header from a file of authorisation lines. Raises InvalidInput."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(f"cannot be read: {reason}", where=str(file)) from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InvalidInput("holds no authorisation line", where=str(file))
    # The server's own way to say "next line" inside a header.
    return "\\n".join(lines)


class ImClient:
    """`call_s` bounds reading calls, `launch_s` those that launch and delete machines."""

    def __init__(
        self, url: str, authorization_file: Path, *, ca_file: str = "", call_s: float = 20.0, launch_s: float = 840.0
    ) -> None:
        """Raises InvalidInput (the certificates)."""
        self._url = url.rstrip("/")
        self._file = authorization_file
        self._call_s, self._launch_s = call_s, launch_s
        try:
            self._tls = ssl.create_default_context(cafile=ca_file or None) if url.startswith("https:") else None
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput("holds no certificates that can be used", where=ca_file) from error
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def get(self, path: str) -> Any:
        """Raises NotFound, Forbidden, Unavailable, Rejected."""
        return await self._request("GET", path, seconds=self._call_s)

    async def launch(self, path: str, radl: str) -> Any:
        """POST a RADL document; may take minutes. Raises as `get`."""
        return await self._request("POST", path, radl, seconds=self._launch_s)

    async def send(self, method: str, path: str) -> Any:
        """PUT or DELETE without a body. Raises as `get`."""
        return await self._request(method, path, seconds=self._launch_s)

    async def _request(self, method: str, path: str, body: str | None = None, *, seconds: float) -> Any:
        status, answer = await self._attempt(method, path, body, seconds)
        if status < 400:
            return answer
        message = str(answer.get("message") or answer.get("detail") or "") if isinstance(answer, dict) else ""
        told = f"{method} {path} was answered with {status}: {message[:_SHOWN]}"
        if status in {401, 403}:
            raise Forbidden(told)
        if status == 404:
            raise NotFound(told)
        if status >= 500 or status in {408, 429}:
            raise Unavailable(told)
        if path != "/infrastructures":
            # Expired credentials look like any trouble here, but not on this call.
            probe, _ = await self._attempt("GET", "/infrastructures", None, self._call_s)
            if probe in {401, 403}:
                raise Forbidden(told)
        raise Rejected(told)

    async def _attempt(self, method: str, path: str, body: str | None, seconds: float) -> tuple[int, Any]:
        headers = {"Authorization": self._authorization(), "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "text/plain"
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._open().request(
                method, self._url + path, data=body, headers=headers, timeout=timeout
            ) as response:
                text = await response.text()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as error:
            said = str(error) or type(error).__name__
            raise Unavailable(f"{method} {path}: the Infrastructure Manager does not answer ({said})") from error
        try:
            return status, json.loads(text) if text.strip() else {}
        except ValueError as error:
            if status < 400:
                raise Unavailable(f"{method} {path}: the answer is not JSON") from error
            return status, {"message": text}

    def _authorization(self) -> str:
        try:
            return read_authorization(self._file)
        except InvalidInput as error:
            raise Forbidden(error.message) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Closed("the driver was closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()
