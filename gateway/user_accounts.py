"""Store accounts of callers in production: each opens the buckets that the caller may use, and nothing else.

Accounts are made below the gateway's own, when somebody asks for his configuration, and changed when what he may use
has changed. The secret follows from the gateway's own and the caller's id, so nothing is stored and every replica gives
the same; a new secret of the gateway's account changes all of them. Nobody ever gets the gateway's account itself.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

from gateway.access import Caller
from gateway.bucket_book import BucketBook, BucketEntry, may_delete, may_manage, may_read
from gateway.storage import StoreAccount
from penstock.adapters.s3 import Credentials, S3Config
from penstock.adapters.s3.accounts import POLICY_LIMIT, MinioAccounts, policy_text
from penstock.adapters.s3.presign import presigned_url
from penstock.errors import Forbidden, InvalidInput
from penstock.model import SYSTEM_BUCKET
from penstock.ports import ObjectStore

#: Accounts whose policy is remembered, so that it is not sent again each time.
REMEMBERED = 10_000
_READ = ["s3:GetObject"]
_WRITE = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
_LIST = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]


def policy_of(caller: Caller, buckets: Mapping[str, BucketEntry]) -> dict[str, Any]:
    """What the caller's account opens. `buckets` = all there are, with their entries. Pure."""
    seen = sorted(name for name, entry in buckets.items() if name != SYSTEM_BUCKET and may_read(caller, entry))
    erased = [name for name in seen if may_delete(caller, buckets[name])]
    statements: list[dict[str, Any]] = []
    if caller.admin:
        statements.append(_allow([*_READ, *_WRITE, "s3:DeleteObject"], ["*"]))
        statements.append(_allow([*_LIST, "s3:ListAllMyBuckets"], ["*"]))
        own = [f"arn:aws:s3:::{SYSTEM_BUCKET}", f"arn:aws:s3:::{SYSTEM_BUCKET}/*"]
        statements.append({"Effect": "Deny", "Action": ["s3:*"], "Resource": own})
        return {"Version": "2012-10-17", "Statement": statements}
    if seen:
        statements.append(_allow(_LIST, seen))
        statements.append(_allow([*_READ, *_WRITE], [f"{name}/*" for name in seen]))
    if erased:
        statements.append(_allow(["s3:DeleteObject"], [f"{name}/*" for name in erased]))
    if not statements:
        statements.append({"Effect": "Deny", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]})
    return {"Version": "2012-10-17", "Statement": statements}


def fitting(caller: Caller, buckets: Mapping[str, BucketEntry]) -> dict[str, Any]:
    """The policy; a caller of very many buckets gets his own first, and then none of others. Pure."""
    policy = policy_of(caller, buckets)
    if len(str(policy)) <= POLICY_LIMIT:
        return policy
    own = {name: entry for name, entry in buckets.items() if may_manage(caller, entry)}
    while own and len(str(policy := policy_of(caller, own))) > POLICY_LIMIT:
        own.popitem()
    return policy


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{one}" for one in resources]}


class MinioUsers:
    """A `StorageAccess` over MinIO's service accounts."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        book: BucketBook,
        admin: MinioAccounts | None,
        credentials: Callable[[], Credentials],
        public: S3Config,
    ) -> None:
        """`public` = the store as users reach it, with our own account. `admin` None = no accounts are made."""
        self._store = store
        self._book = book
        self._admin = admin
        self._credentials = credentials
        self._public = public
        self._sent: dict[str, str] = {}

    @property
    def place(self) -> StoreAccount:
        public = self._public
        return StoreAccount(endpoint=public.endpoint, region=public.region)

    async def account(self, caller: Caller) -> StoreAccount:
        if self._admin is None or not caller.uid:
            return self.place
        key, secret = self._keys(caller.uid)
        entries = await self._book.all()
        buckets = {name: entries.get(name, BucketEntry()) for name in await self._store.buckets()}
        policy = fitting(caller, buckets)
        digest = hashlib.sha256(f"{secret}{policy_text(policy)}".encode()).hexdigest()
        if self._sent.get(key) != digest:
            await self._admin.put(key, secret, policy, name="penstock user")
            if len(self._sent) >= REMEMBERED:
                self._sent.pop(next(iter(self._sent)))
            self._sent[key] = digest
        place = self.place
        return StoreAccount(endpoint=place.endpoint, region=place.region, access_key=key, secret_key=secret)

    def _keys(self, uid: str) -> tuple[str, str]:
        own = self._credentials()
        key = hashlib.sha256(f"{own.access_key}/user/{uid}".encode()).hexdigest()
        secret = hmac.new(own.secret_key.encode(), f"penstock/user/{uid}".encode(), hashlib.sha256)
        return f"psu{key[:17]}", secret.hexdigest()[:40]

    def link(self, method: str, bucket: str, key: str, *, expires_s: int, headers: Mapping[str, str]) -> str:
        if bucket == SYSTEM_BUCKET:
            raise Forbidden(f"the bucket {SYSTEM_BUCKET} is the platform's own")
        if not key:
            raise InvalidInput("is empty; name the object", where="object_key")
        return presigned_url(self._public, method, bucket, key, expires_s=expires_s, headers=dict(headers))
