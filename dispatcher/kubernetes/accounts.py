"""The store accounts of functions, and the Secrets by which their sidecars get the keys.

The Secret is the record: it is made first, with keys that were just drawn, then the account with those keys, then the
Secret is marked with a digest of the policy; taking away goes the other way round, the Secret last. So a crash at any
step leaves what the next turn finds and finishes, and no account is ever without a Secret that names it.

While Jobs of an older generation still run, the account may do what either definition needs.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import structlog

from dispatcher.kubernetes.manifest import LABEL_FUNCTION, LABEL_KIND, LABEL_MANAGED, LABEL_UID, label_value
from penstock.adapters.kubernetes.client import MERGE_PATCH, META_ONLY, KubernetesClient
from penstock.adapters.kubernetes.trouble import NamespaceMissing
from penstock.adapters.kubernetes.watching import Follower
from penstock.adapters.s3.accounts import (
    Grants,
    MinioAccounts,
    Place,
    access_key,
    input_policy,
    output_policy,
    policy_text,
)
from penstock.errors import AlreadyExists, NotFound, Unavailable
from penstock.model import Function, StorageIO

log = structlog.get_logger("dispatcher.accounts")

Json = dict[str, Any]

KIND_ACCOUNT = "store-account"
LABEL_ROLE = "penstock.dev/role"
NOTE_POLICY = "penstock.dev/policy"
#: File names in the sidecars' mount.
ACCESS, SECRET, AUTHORITIES = "access_key", "secret_key", "ca.crt"
ROLES = {"in": input_policy, "out": output_policy}


class _Meta(msgspec.Struct):
    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] = {}

    def text(self, name: str) -> str:
        return base64.b64decode(self.data.get(name, "")).decode()


def grants_of(function: Function) -> Grants:
    """What a definition needs. Pure."""

    def places(entries: tuple[StorageIO, ...]) -> frozenset[Place]:
        return frozenset(Place(entry.bucket, entry.key_prefix) for entry in entries if entry.own_store)

    return Grants(function_uid=function.uid, inputs=places(function.inputs), outputs=places(function.outputs))


class FunctionAccounts:
    """`names` = the Secrets' names by role, with `{uid}` in them."""

    def __init__(
        self,
        *,
        admin: MinioAccounts,
        client: KubernetesClient,
        namespace: str,
        names: Mapping[str, str],
        authorities: str = "",
    ) -> None:
        self._admin = admin
        self._client = client
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self._namespace = namespace
        self._names = names
        self._authorities = authorities
        self._secrets: Follower[_Secret] = Follower(
            client, self._path, _Secret, selector=f"{LABEL_MANAGED}=penstock,{LABEL_KIND}={KIND_ACCOUNT}"
        )
        self._decode = msgspec.json.Decoder(_Secret).decode
        #: Grants of each generation that may have Jobs, by function uid.
        self._grants: dict[str, dict[int, Grants]] = {}
        self._functions: dict[str, Function] = {}
        #: Accounts that are known to be there; None = not asked yet.
        self._there: set[str] | None = None
        self._looked = False

    async def ensure(self, function: Function) -> None:
        """Make or widen both accounts of a function; idempotent. Raises InvalidInput, Forbidden, Unavailable."""
        self._grants.setdefault(function.uid, {})[function.generation] = grants_of(function)
        self._functions[function.uid] = function
        await self._apply(function)

    async def tidy(self, running: Mapping[str, Collection[int]], known: Collection[str]) -> None:
        """Narrow the accounts of functions whose older Jobs have ended, and remove those of functions that are gone
        and have no Job. Raises Unavailable, Forbidden.
        """
        for uid, generations in list(self._grants.items()):
            if uid not in known:
                continue
            newest = max(generations)
            old = [one for one in generations if one != newest and one not in running.get(uid, ())]
            for generation in old:
                del generations[generation]
            if old:
                await self._apply(self._functions[uid])
        gone = {uid for uid in self._grants if uid not in known and uid not in running}
        if gone or not self._looked:
            await self._remove_orphans(running, known)
            for uid in gone:
                del self._grants[uid]
                del self._functions[uid]
            self._looked = True

    async def _remove_orphans(self, running: Mapping[str, Collection[int]], known: Collection[str]) -> None:
        """Also what a life before ours left: told by the Secrets."""
        for secret in (await self._secrets.list()).items:
            uid = secret.metadata.labels.get(LABEL_UID, "")
            if uid in known or uid in running:
                continue
            key = secret.text(ACCESS)
            await self._admin.remove(key)
            if self._there is not None:
                self._there.discard(key)
            await self._drop(secret.metadata.name)
            log.info("a store account was removed", action="account_removed", function_uid=uid)

    async def _apply(self, function: Function) -> None:
        grants: Grants | None = None
        for one in self._grants[function.uid].values():
            grants = one if grants is None else grants | one
        assert grants is not None
        policies = {role: policy(grants) for role, policy in ROLES.items()}
        if self._there is None:
            self._there = await self._admin.names()
        for role, policy in policies.items():
            digest = hashlib.sha256(policy_text(policy).encode()).hexdigest()
            secret = await self._secret(function, role)
            key = secret.text(ACCESS)
            if secret.metadata.annotations.get(NOTE_POLICY) == digest and key in self._there:
                continue
            name = f"penstock {function.name} {role}"[:32]
            await self._admin.put(key, secret.text(SECRET), policy, name=name)
            self._there.add(key)
            await self._mark(secret.metadata.name, digest)

    async def _secret(self, function: Function, role: str) -> _Secret:
        """The Secret with the account's keys, made if it is missing or has keys of another parent."""
        name = self._names[role].replace("{uid}", function.uid)
        key = access_key(self._admin.parent, function.uid, role)
        for _ in range(3):
            try:
                found = self._decode(await self._client.request("GET", f"{self._path}/{name}"))
            except NotFound:
                found = None
            if found is not None and found.text(ACCESS) == key and found.text(SECRET):
                return found
            if found is not None:
                await self._drop(name)
            try:
                body = msgspec.json.encode(self._document(function, role, name, key))
                return self._decode(await self._client.request("POST", self._path, body))
            except AlreadyExists:
                continue  # our own first try, whose answer was lost
            except NotFound as error:
                raise NamespaceMissing(f"the namespace {self._namespace} is not there") from error
        raise Unavailable(f"the Secret {name} changes all the time: somebody else writes it too")

    def _document(self, function: Function, role: str, name: str, key: str) -> Json:
        values = {ACCESS: key, SECRET: secrets.token_hex(20)}
        if self._authorities:
            values[AUTHORITIES] = self._authorities
        # Without an owner: the cluster would collect it before the account in the store is removed.
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": name,
                "namespace": self._namespace,
                "labels": {
                    LABEL_MANAGED: "penstock",
                    LABEL_KIND: KIND_ACCOUNT,
                    LABEL_FUNCTION: label_value(function.name),
                    LABEL_UID: label_value(function.uid),
                    LABEL_ROLE: role,
                },
            },
            "data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()},
        }

    async def _mark(self, name: str, digest: str) -> None:
        note = {"metadata": {"annotations": {NOTE_POLICY: digest}}}
        await self._client.send("PATCH", f"{self._path}/{name}", note, content_type=MERGE_PATCH, accept=META_ONLY)

    async def _drop(self, name: str) -> None:
        try:
            await self._client.request("DELETE", f"{self._path}/{name}", accept=META_ONLY)
        except NotFound:
            return
