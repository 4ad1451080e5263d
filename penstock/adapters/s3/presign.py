"""URLs that let their holder read or write one object for a while, without an account. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.adapters.s3 import names
from penstock.adapters.s3.config import S3Config
from penstock.adapters.s3.endpoint import parse_endpoint
from penstock.adapters.s3.sigv4 import MAX_EXPIRES_S, Scope, presign
from penstock.errors import InvalidInput
from penstock.model.buckets import check_bucket

METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})


def presigned_url(
    config: S3Config,
    method: str,
    bucket: str,
    key: str,
    *,
    expires_s: int,
    version_id: str | None = None,
    query: Iterable[tuple[str, str]] = (),
    headers: dict[str, str] | None = None,
) -> str:
    """Return a URL valid for `expires_s` seconds (1 to 604,800) from `config.clock()` on.

    `query` may hold the store's `response-...` fields; `headers` must be sent exactly as given. The URL is a secret, as
    whoever has it may use it. Raises InvalidInput.
    """
    if method not in METHODS:
        raise InvalidInput(f"{method!r} cannot be presigned: use one of {', '.join(sorted(METHODS))}", where="method")
    if not 1 <= expires_s <= MAX_EXPIRES_S:
        raise InvalidInput(f"{expires_s} s is no possible life of a URL: use 1 to {MAX_EXPIRES_S}", where="expires_s")
    check_bucket(bucket)
    if why := names.objection(key, any_key=config.any_key):
        raise InvalidInput(f"the key {key[:200]!r} is impossible: {why}", where="key")
    endpoint = parse_endpoint(config.endpoint, config.style)
    host, path = endpoint.place(bucket, key)
    text = presign(
        config.account(),
        Scope(config.region),
        config.clock(),
        method=method,
        path=path,
        query=[*query, *([("versionId", version_id)] if version_id is not None else [])],
        headers={"host": host, **{name.lower(): value for name, value in (headers or {}).items()}},
        expires_s=expires_s,
    )
    return f"{endpoint.scheme}://{host}{path}?{text}"
