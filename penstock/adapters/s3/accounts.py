"""Store accounts: keys that open no more than one function's prefixes, made in MinIO by its admin API.

Each is a *service account* below the account that this process has: it can never do more than that one, its making
needs no right over other users, and its policy is part of it, so it is made, changed and removed in one step each.
MinIO keeps up to 4,096 bytes of such a policy and access keys of up to 20 characters. The client library blocks, so it
runs in threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import urllib3
from minio import MinioAdmin
from minio.credentials.credentials import Credentials as MinioCredentials
from minio.credentials.providers import Provider
from minio.error import MinioAdminException

from penstock.adapters.s3.sigv4 import Credentials
from penstock.errors import Forbidden, InvalidInput, Unavailable
from penstock.model import SYSTEM_BUCKET
from penstock.model.objects import Kept, kept_prefix

T = TypeVar("T")
Json = dict[str, Any]

POLICY_LIMIT = 4096
_TIMEOUT = urllib3.Timeout(connect=5, read=20)
_READ = ["s3:GetObject", "s3:GetObjectVersion"]
_WRITE = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
#: What a policy reads as a pattern, so that a folder of this name would open others.
_LIVE = ("*", "?", "${")


class Place(msgspec.Struct, frozen=True, order=True):
    """A bucket and the beginning of the keys in it ("" = all)."""

    bucket: str
    prefix: str = ""


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """What one function's sidecars may touch: its folders, and what is kept of it in the platform's bucket."""

    function_uid: str
    inputs: frozenset[Place]
    outputs: frozenset[Place]

    def __or__(self, other: Grants) -> Grants:
        """Both, for the time in which Jobs of two generations of one function run."""
        assert self.function_uid == other.function_uid
        return msgspec.structs.replace(self, inputs=self.inputs | other.inputs, outputs=self.outputs | other.outputs)

    def kept(self, kind: Kept) -> str:
        """The beginning of the keys of one kind."""
        return kept_prefix(kind, self.function_uid)


def input_policy(grants: Grants) -> Json:
    """Read inputs, the function's posted bodies, and the results of its items (one that has a result is not run again).
    Raises InvalidInput for a prefix that a policy cannot name.
    """
    statements = [
        *_on(grants.inputs, _READ),
        _listing(SYSTEM_BUCKET, [grants.kept(Kept.RESULTS)]),
        _allow(_READ[:1], _kept(grants, Kept.PAYLOADS, Kept.RESULTS)),
    ]
    return _document(statements, grants.inputs)


def output_policy(grants: Grants) -> Json:
    """Write outputs and the function's logs, answers and results; read back outputs and results alone. Raises
    InvalidInput.
    """
    statements = [
        *_on(grants.outputs, [*_WRITE, *_READ]),
        _listing(SYSTEM_BUCKET, [grants.kept(Kept.RESULTS)]),
        _allow(_READ[:1], _kept(grants, Kept.RESULTS)),
        _allow(_WRITE, _kept(grants, Kept.RESULTS, Kept.LOGS, Kept.ANSWERS)),
    ]
    return _document(statements, grants.outputs)


def _kept(grants: Grants, *kinds: Kept) -> list[str]:
    return [f"{SYSTEM_BUCKET}/{grants.kept(kind)}*" for kind in kinds]


def _document(statements: list[Json], places: Iterable[Place]) -> Json:
    buckets = sorted({SYSTEM_BUCKET, *(place.bucket for place in places)})
    # How a bucket is set up, which clients look at before they list it.
    setup = _allow(["s3:GetBucketVersioning", "s3:GetBucketLocation"], buckets)
    return {"Version": "2012-10-17", "Statement": [*statements, setup]}


def _on(places: Iterable[Place], actions: list[str]) -> list[Json]:
    """The actions on all objects at the places, and listing them: without that the store cannot say "not found"."""
    ordered = sorted(places)
    if not ordered:
        return []
    for place in ordered:
        if found := [mark for mark in _LIVE if mark in place.prefix]:
            raise InvalidInput(
                f"the folder {place.bucket}/{place.prefix.rstrip('/')} has {found[0]!r} in its name, which the policy "
                "of a store account reads as a pattern; use a folder of another name"
            )
    buckets = sorted({place.bucket for place in ordered})
    statements = [
        _allow(actions, [f"{place.bucket}/{place.prefix}*" for place in ordered]),
    ]
    for bucket in buckets:
        prefixes = [place.prefix for place in ordered if place.bucket == bucket]
        statements.append(_listing(bucket, [] if "" in prefixes else prefixes))
    return statements


def _listing(bucket: str, prefixes: list[str]) -> Json:
    """Listing what begins with one of the prefixes; none = all."""
    listing = _allow(["s3:ListBucket", "s3:ListBucketVersions"], [bucket])
    if prefixes:
        listing["Condition"] = {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}}
    return listing


def _allow(actions: list[str], resources: list[str]) -> Json:
    return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{resource}" for resource in resources]}


def policy_text(policy: Json) -> str:
    """As it is sent. Raises InvalidInput: too long for the store."""
    text = json.dumps(policy, separators=(",", ":"), sort_keys=True)
    if len(text.encode()) > POLICY_LIMIT:
        raise InvalidInput(
            f"its folders make a store account's policy of {len(text.encode())} bytes, and the store keeps "
            f"{POLICY_LIMIT}: use fewer or shorter inputs and outputs, or split the function"
        )
    return text


def access_key(parent: str, function_uid: str, role: str) -> str:
    """Name of the account of a function for a role (`in` or `out`): always the same, below the same parent."""
    digest = hashlib.sha256(f"{parent}/{function_uid}/{role}".encode()).hexdigest()
    return f"ps{role[:1]}{digest[:17]}"


class MinioAccounts:
    """Accounts below the one that `credentials` gives, which is asked for before each request."""

    def __init__(self, endpoint: str, credentials: Callable[[], Credentials], *, ca_file: Path | None = None) -> None:
        """Raises InvalidInput for an endpoint that is none."""
        parts = urlsplit(endpoint)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InvalidInput(f"{endpoint!r} is not the URL of an object store", where="s3.endpoint")
        self._credentials = credentials
        self._pool = urllib3.PoolManager(
            timeout=_TIMEOUT,
            retries=False,
            maxsize=4,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(ca_file) if ca_file is not None else None,
        )
        self._admin = MinioAdmin(
            endpoint=parts.netloc,
            credentials=_Asked(credentials),
            secure=parts.scheme == "https",
            http_client=self._pool,
        )

    @property
    def parent(self) -> str:
        """Access key of the account above them."""
        return self._credentials().access_key

    async def names(self) -> set[str]:
        """Access keys of all accounts below ours. Raises Unavailable, Forbidden."""
        told = json.loads(await self._ask("list", lambda: self._admin.list_service_account(self.parent)))
        return {str(account["accessKey"]) for account in told.get("accounts") or ()}

    async def put(self, key: str, secret: str, policy: Json, *, name: str) -> None:
        """Make the account, or give it this secret and policy; idempotent. Raises InvalidInput (policy too long),
        Forbidden, Unavailable.
        """
        text = policy_text(policy)
        document = json.loads(text)

        def make() -> str:
            return self._admin.add_service_account(access_key=key, secret_key=secret, name=name, policy=document)

        def change() -> str:
            return self._admin.update_service_account(access_key=key, secret_key=secret, policy=document)

        try:
            await self._ask("change", change)
        except _Missing:
            await self._ask("make", make)

    async def remove(self, key: str) -> None:
        """Idempotent. Raises Forbidden, Unavailable."""
        try:
            await self._ask("remove", lambda: self._admin.delete_service_account(key))
        except _Missing:
            return

    async def close(self) -> None:
        self._pool.clear()

    async def _ask(self, verb: str, request: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(request)
        except MinioAdminException as error:
            raise _translated(error, verb) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"the object store does not answer: it cannot {verb} a store account") from error


class _Missing(Exception):
    """There is no such account."""


def _translated(error: MinioAdminException, verb: str) -> Exception:
    text = str(error)
    if "Status: 404" in text and ("service account" in text or "ServiceAccount" in text):
        return _Missing()
    if "AccessDenied" in text or "SignatureDoesNotMatch" in text:
        return Forbidden(
            f"the object store does not let this service {verb} store accounts: give its account the rights"
        )
    return Unavailable(f"the object store cannot {verb} a store account now: {text[:200]}")


class _Asked(Provider):
    """The account of this process, as it is at each moment."""

    def __init__(self, credentials: Callable[[], Credentials]) -> None:
        self._credentials = credentials

    def retrieve(self) -> MinioCredentials:
        now = self._credentials()
        return MinioCredentials(now.access_key, now.secret_key, now.session_token)
