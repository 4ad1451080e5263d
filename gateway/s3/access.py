"""What a client needs to reach the buckets as S3, apart from the rest so that anybody may import it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

#: Signatures name a region, and clients refuse an empty one; the server does not look at it.
REGION = "us-east-1"


@dataclass(frozen=True, kw_only=True)
class S3Access:
    """Where the S3 server listens, and its key pair. The secret never shows in `repr`."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = REGION


class KeyPair(Protocol):
    """Where the key pair is kept beside other credentials."""

    @property
    def s3_access_key(self) -> str: ...
    @property
    def s3_secret_key(self) -> str: ...


def s3_access_of(endpoint: str, keys: KeyPair) -> S3Access | None:
    """What a client needs; None when nothing is served (no endpoint)."""
    if not endpoint:
        return None
    return S3Access(endpoint=endpoint, access_key=keys.s3_access_key, secret_key=keys.s3_secret_key)
