"""AWS Signature Version 4, pure: no input or output, and the time is an argument.

Standard library alone, so that the sidecars, which must start fast, can share it. S3's two particulars are kept: the
path is escaped once and never normalised (`a//b` and `..` are keys like any other), and the payload's hash, or the word
that says there is none, is a header of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
#: Longest life of a presigned URL, in seconds.
MAX_EXPIRES_S = 7 * 24 * 3600

Query = Iterable[tuple[str, str]]


class Credentials(NamedTuple):
    """Keys of one store account. The secret parts never show in `repr`."""

    access_key: str
    secret_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(access_key={self.access_key!r})"


class Scope(NamedTuple):
    """What a signature is valid for, beside the request itself."""

    region: str = "us-east-1"
    service: str = "s3"


def escape(text: str, *, safe: str = "") -> str:
    """Percent-escape all but letters, digits and `-._~`. Raises UnicodeEncodeError for what is no text."""
    return quote(text, safe=safe)


def escape_path(path: str) -> str:
    """The same, slashes kept: the form of a key in a URL and in the canonical request."""
    return quote(path, safe="/")


def query_string(query: Query) -> str:
    """Escape and order a query as the canonical request wants it; also what goes over the wire."""
    return "&".join(f"{name}={value}" for name, value in sorted((escape(n), escape(v)) for n, v in query))


@lru_cache(maxsize=8)
def timestamp(second: int) -> str:
    """`YYYYMMDDThhmmssZ` of seconds since the epoch."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


def canonical_request(
    method: str, path: str, query: str, headers: Mapping[str, str], payload_hash: str
) -> tuple[str, str]:
    """Return the canonical request and the list of signed header names.

    `path` is escaped, `query` as from `query_string`, and `headers` have lower-case names.
    """
    ordered = sorted(headers.items())
    signed = ";".join([name for name, _ in ordered])
    lines = "".join([f"{name}:{' '.join(value.split())}\n" for name, value in ordered])
    return f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{payload_hash}", signed


def string_to_sign(canonical: str, stamp: str, scope: Scope) -> str:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f"{ALGORITHM}\n{stamp}\n{stamp[:8]}/{scope.region}/{scope.service}/aws4_request\n{digest}"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """Four of the five hashes of a signature, the same all day long."""
    return _hmac(_hmac(_hmac(_hmac(f"AWS4{secret}".encode(), day), region), service), "aws4_request")


def signature(credentials: Credentials, scope: Scope, stamp: str, text: str) -> str:
    key = _signing_key(credentials.secret_key, stamp[:8], scope.region, scope.service)
    return _hmac(key, text).hex()


def sign(
    credentials: Credentials,
    scope: Scope,
    now_s: float,
    *,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload_hash: str,
) -> dict[str, str]:
    """Return all headers of a signed request to S3: those given and the signature's own, with lower-case names.

    Every given header is signed; `host` must be among them. `path` and `query` as in `canonical_request`.
    """
    stamp = timestamp(int(now_s))
    signed = {name.lower(): value for name, value in headers.items()}
    signed["x-amz-date"] = stamp
    signed["x-amz-content-sha256"] = payload_hash
    if credentials.session_token is not None:
        signed["x-amz-security-token"] = credentials.session_token
    canonical, names = canonical_request(method, path, query, signed, payload_hash)
    proof = signature(credentials, scope, stamp, string_to_sign(canonical, stamp, scope))
    where = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    signed["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key}/{where}, SignedHeaders={names}, Signature={proof}"
    )
    return signed


def presign(
    credentials: Credentials,
    scope: Scope,
    now_s: float,
    *,
    method: str,
    path: str,
    query: Query,
    headers: Mapping[str, str],
    expires_s: int,
) -> str:
    """Return the query string that carries the signature itself, for whoever holds the URL.

    `headers` (lower-case names, `host` among them) must be sent as they are; the payload is not signed.
    """
    stamp = timestamp(int(now_s))
    fields = [
        *query,
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{credentials.access_key}/{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(expires_s)),
        ("X-Amz-SignedHeaders", ";".join(sorted(headers))),
    ]
    if credentials.session_token is not None:
        fields.append(("X-Amz-Security-Token", credentials.session_token))
    text = query_string(fields)
    canonical, _ = canonical_request(method, path, text, headers, UNSIGNED)
    return f"{text}&X-Amz-Signature={signature(credentials, scope, stamp, string_to_sign(canonical, stamp, scope))}"
