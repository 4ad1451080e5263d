"""How callers reach the object store without us: the account that `/system/config` tells, and links that need none.

Where the store speaks S3 a link is a presigned URL of the store itself. Where it is a folder on this machine, the link
leads to this server and is sealed with a key that is made anew at each start.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import quote

import msgspec

from gateway.access import Caller
from gateway.s3.access import S3Access
from penstock.clock import now_ms
from penstock.errors import InvalidInput

LONGEST_LINK_S = 604_800
#: Query parameters of our own links.
EXPIRES, SEAL = "penstock-expires", "penstock-seal"


class StoreAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store is and as whom the caller may talk to it; the five fields that OSCAR's clients insist on."""

    endpoint: str = ""
    verify: bool = True
    access_key: str = ""
    secret_key: str = ""
    region: str = "us-east-1"


class StorageAccess(Protocol):
    @property
    def place(self) -> StoreAccount:
        """The store without any key."""
        ...

    async def account(self, caller: Caller) -> StoreAccount:
        """The caller's own account; empty keys where callers have none."""
        ...

    def link(self, method: str, bucket: str, key: str, *, expires_s: int, headers: Mapping[str, str]) -> str:
        """A URL for one object (GET or PUT) that needs no credential. Raises InvalidInput."""
        ...


class FixedAccount:
    """One S3 account for everybody who may know it: the administrator. Others get the place alone."""

    def __init__(self, account: StoreAccount, link: Callable[[str, str, str, int, Mapping[str, str]], str]) -> None:
        self._account = account
        self._link = link

    @property
    def place(self) -> StoreAccount:
        return msgspec.structs.replace(self._account, access_key="", secret_key="")

    async def account(self, caller: Caller) -> StoreAccount:
        return self._account if caller.admin else self.place

    def link(self, method: str, bucket: str, key: str, *, expires_s: int, headers: Mapping[str, str]) -> str:
        return self._link(method, bucket, key, expires_s, headers)


def open_storage(access: S3Access | None, address: Callable[[], str]) -> StorageAccess:
    """Embedded mode: the buckets' own S3 where it is served, else links to this server (`address`: its URL)."""
    if access is None:
        return LocalLinks(address)
    account = StoreAccount(
        endpoint=access.endpoint, access_key=access.access_key, secret_key=access.secret_key, region=access.region
    )
    return FixedAccount(account, presigner(account))


def presigner(account: StoreAccount) -> Callable[[str, str, str, int, Mapping[str, str]], str]:
    """Makes presigned URLs of an S3 store under its address for users."""
    from penstock.adapters.s3.config import S3Config  # noqa: PLC0415 - the adapter is an extra
    from penstock.adapters.s3.presign import presigned_url  # noqa: PLC0415
    from penstock.adapters.s3.sigv4 import Credentials  # noqa: PLC0415

    keys = Credentials(account.access_key, account.secret_key)
    config = S3Config(endpoint=account.endpoint, credentials=keys, region=account.region)

    def link(method: str, bucket: str, key: str, expires_s: int, headers: Mapping[str, str]) -> str:
        return presigned_url(config, method, bucket, key, expires_s=expires_s, headers=dict(headers))

    return link


class LocalLinks:
    """A store without S3: there is no account, and links lead to this server."""

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address
        self._key = secrets.token_bytes(32)

    @property
    def place(self) -> StoreAccount:
        return StoreAccount()

    async def account(self, caller: Caller) -> StoreAccount:  # noqa: ARG002 - the protocol's signature
        return StoreAccount()

    def link(self, method: str, bucket: str, key: str, *, expires_s: int, headers: Mapping[str, str]) -> str:
        if headers:
            raise InvalidInput("links of this store cannot demand headers; leave them out", where="extra_headers")
        expires = now_ms() // 1000 + expires_s
        path = f"/v1/buckets/{bucket}/objects/{quote(key, safe='/', errors='surrogateescape')}"
        return f"{self._address()}{path}?{EXPIRES}={expires}&{SEAL}={self._seal(method, bucket, key, expires)}"

    def opens(self, method: str, bucket: str, key: str, query: Mapping[str, str]) -> bool:
        """Whether the query's seal is ours, for this object and method, and still good."""
        expires = query.get(EXPIRES, "")
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            return False
        told = self._seal("GET" if method == "HEAD" else method, bucket, key, int(expires))
        sealed = hmac.compare_digest(told.encode(), query.get(SEAL, "").encode("utf-8", "replace"))
        return sealed and now_ms() < int(expires) * 1000

    def _seal(self, method: str, bucket: str, key: str, expires: int) -> str:
        told = "\0".join((method, bucket, key, str(expires))).encode("utf-8", "surrogatepass")
        return hmac.new(self._key, told, hashlib.sha256).hexdigest()
