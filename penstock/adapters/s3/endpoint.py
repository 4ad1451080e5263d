"""Where a bucket lives: path style (MinIO and most others) or virtual-host style (AWS), as pure text.

The escaped path made here is the one that is signed and the one that goes over the wire, byte for byte.
"""

from __future__ import annotations

import enum
from urllib.parse import urlsplit

import msgspec

from penstock.adapters.s3.sigv4 import escape_path
from penstock.errors import InvalidInput

_PORTS = {"http": 80, "https": 443}


class Style(enum.StrEnum):
    """How a request names its bucket."""

    PATH = "path"
    VIRTUAL = "virtual"


class Endpoint(msgspec.Struct, frozen=True):
    """An S3 endpoint. `base` is a path in front of all buckets, escaped, usually empty."""

    scheme: str
    host: str
    style: Style = Style.PATH
    base: str = ""

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    def place(self, bucket: str, key: str) -> tuple[str, str]:
        """Host (with its port unless it is the default one) and escaped path of a request."""
        if not bucket:
            return self.host, f"{self.base}/"
        if self.style is Style.VIRTUAL:
            return f"{bucket}.{self.host}", f"{self.base}/{escape_path(key)}"
        return self.host, f"{self.base}/{bucket}/{escape_path(key)}" if key else f"{self.base}/{bucket}"


def parse_endpoint(url: str, style: Style = Style.PATH) -> Endpoint:
    """Read `http[s]://HOST[:PORT][/BASE]`. Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(_wrong(url), where="endpoint") from error
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("the URL must not hold a user or password; give the keys apart from it", where="endpoint")
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise InvalidInput(_wrong(url), where="endpoint")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != _PORTS[parts.scheme]:
        host += f":{port}"
    return Endpoint(scheme=parts.scheme, host=host, style=style, base=parts.path.rstrip("/"))


def _wrong(url: str) -> str:
    return f"{url!r} is not the URL of an object store: use http://HOST:PORT or https://HOST:PORT"
