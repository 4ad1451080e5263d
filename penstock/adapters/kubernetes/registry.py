"""The production registry: functions as custom resources, so that they are a cluster's own objects, seen by kubectl.

A replacement is one write of the resource; the secrets are in an immutable Secret of a new name that was there before,
so readers get the old definition or the new, never a mixture. Concurrent changes are settled by the API server's
resourceVersion. `revision` asks for the Table of all functions, which is read from the newest state and holds some
hundred bytes per function.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec
import structlog

from penstock.adapters.kubernetes.client import MERGE_PATCH, META_ONLY, KubernetesClient, encode
from penstock.adapters.kubernetes.resource import (
    API,
    KIND_SECRET,
    LABEL_KIND,
    LABEL_MANAGED,
    PLURAL,
    Hidden,
    Resource,
    SecretObject,
    document,
    function_of,
    hidden_of,
    links,
    owner,
    revision_word,
    secret_document,
    uid_of,
)
from penstock.adapters.kubernetes.trouble import NamespaceMissing
from penstock.adapters.kubernetes.watching import Follower, Snapshot
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, Closed, Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from penstock.model import Function
from penstock.ports import ChangeKind, FunctionChange

log = structlog.get_logger("penstock.kubernetes")

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
#: A read that meets a replacement under way finds the Secret gone and begins anew; each round is a change by others.
_ROUNDS = 20


class FunctionState(msgspec.Struct, frozen=True, kw_only=True):
    """What `kubectl get functions` shows."""

    state: str = "Ready"
    message: str = ""
    queued: int = 0
    running: int = 0
    failed: int = 0
    succeeded: int = 0
    updated_ms: int = 0


class KubernetesRegistry:
    """Implements `Registry`. The client is the caller's to close, after the registry."""

    def __init__(self, client: KubernetesClient, *, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._functions = f"/apis/{API}/namespaces/{namespace}/{PLURAL}"
        self._secrets = f"/api/v1/namespaces/{namespace}/secrets"
        self._resources: Follower[Resource] = Follower(client, self._functions, Resource)
        self._hidden: Follower[SecretObject] = Follower(
            client, self._secrets, SecretObject, selector=f"{LABEL_MANAGED}=penstock,{LABEL_KIND}={KIND_SECRET}"
        )
        self._decode = msgspec.json.Decoder(Resource).decode
        self._decode_secret = msgspec.json.Decoder(SecretObject).decode
        self._content = ""
        self._seen_changes = 0
        #: Functions that the last `list` could not read, with the reason; it gave stand-ins for them.
        self.unreadable: dict[str, str] = {}
        #: Ends the watches.
        self._closing = asyncio.Event()

    # Changes

    async def create(self, function: Function) -> Function:
        now = now_ms()
        hidden = Hidden.of(function, function.token or secrets.token_hex(32))
        new = msgspec.structs.replace(function, created_ms=now, updated_ms=now)
        name = _secret_name(function.name)
        change = _change()
        body = document(new, namespace=self._namespace, secret=name, change=change)
        self._check()
        await self._put_secret(name, function.name, hidden)
        try:
            data = await self._client.request("POST", self._functions, body)
        except AlreadyExists as error:
            made = await self._mine(function.name, change)
            if made is None:
                await self._drop_secret(name)
                raise AlreadyExists(
                    f"a function named {function.name} exists already: replace it or choose another name"
                ) from error
        except (NotFound, InvalidInput) as error:
            await self._drop_secret(name)
            if isinstance(error, InvalidInput):
                raise
            raise self._missing(error) from error
        else:
            made = self._decode(data)
        note = {"metadata": {"ownerReferences": [owner(function.name, made.metadata.uid)]}}
        await self._client.send("PATCH", f"{self._secrets}/{name}", note, content_type=MERGE_PATCH, accept=META_ONLY)
        return function_of(made, hidden)

    async def _mine(self, name: str, change: int) -> Resource | None:
        """The resource if it is as we just wrote it: the answer to our first try may have been lost."""
        try:
            found = await self._read(name)
        except NotFound:
            return None
        return found if links(found)[1] == change else None

    async def replace(self, function: Function, *, generation: int | None = None) -> Function:
        while True:
            resource, old = await self._get(function.name)
            if generation is not None and generation != old.generation:
                raise Conflict(
                    f"function {old.name} is at generation {old.generation}, not {generation}: somebody else changed "
                    "it; read it again and repeat your change"
                )
            new = msgspec.structs.replace(
                function, owner=old.owner, created_ms=old.created_ms, updated_ms=max(now_ms(), old.updated_ms)
            )
            try:
                return await self._put(resource, old, new)
            except Conflict:
                continue  # others changed it meanwhile: read again
            except NotFound as error:
                raise NotFound(f"there is no function named {function.name}") from error

    async def _put(self, resource: Resource, old: Function, new: Function) -> Function:
        """Write over exactly the resource that was read. Raises Conflict."""
        hidden = Hidden.of(new, old.token or secrets.token_hex(32))
        before, _ = links(resource)
        change = _change()
        name = before
        if not before or hidden != Hidden.of(old, old.token):
            name = _secret_name(new.name)
            await self._put_secret(name, new.name, hidden, owner_uid=resource.metadata.uid)
        body = document(
            new, namespace=self._namespace, secret=name, change=change, version=resource.metadata.resourceVersion
        )
        try:
            made = self._decode(await self._client.request("PUT", f"{self._functions}/{new.name}", body))
        except (Conflict, NotFound, InvalidInput):
            now = await self._mine(new.name, change)
            if now is None:
                if name != before:
                    await self._drop_secret(name)
                raise
            made = now
        if before and name != before:
            await self._drop_secret(before)
        return function_of(made, hidden)

    async def delete(self, name: str) -> Function:
        while True:
            resource, old = await self._get(name)
            meta = resource.metadata
            options = {
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "propagationPolicy": "Background",
                "preconditions": {"uid": meta.uid, "resourceVersion": meta.resourceVersion},
            }
            try:
                await self._client.request("DELETE", f"{self._functions}/{name}", encode(options), accept=META_ONLY)
            except Conflict:
                continue
            except NotFound as error:
                raise NotFound(f"there is no function named {name}") from error
            secret, _ = links(resource)
            if secret:
                await self._drop_secret(secret)
            return old

    async def adopt(self, name: str, *, definition: dict[str, Any] | None = None) -> Function:
        """Give a function that was written by hand its token, and a definition if it has none. One that has a token
        already is left as it is. Raises NotFound.
        """
        resource, function = await self._get(name)
        if links(resource)[0]:
            return function
        return await self.replace(
            msgspec.structs.replace(function, definition=function.definition or dict(definition or {}))
        )

    async def report(self, name: str, state: FunctionState) -> None:
        """Show a function's state in the cluster. One that is gone is no error. Raises Unavailable, Forbidden."""
        body = {"status": msgspec.to_builtins(state)}
        path = f"{self._functions}/{name}/status"
        try:
            await self._client.send("PATCH", path, body, content_type=MERGE_PATCH, accept=META_ONLY)
        except NotFound:
            return

    # Reads

    async def get(self, name: str) -> Function:
        return (await self._get(name))[1]

    async def _get(self, name: str) -> tuple[Resource, Function]:
        """Raises NotFound, Corrupt."""
        for _ in range(_ROUNDS):
            try:
                resource = await self._read(name)
            except NotFound as error:
                raise NotFound(f"there is no function named {name}") from error
            secret, _ = links(resource)
            try:
                return resource, function_of(resource, await self._unhide(secret))
            except NotFound:
                continue  # replaced between the two reads
        raise Corrupt(f"the Secret of the function {name} is gone; apply the function again")

    async def _read(self, name: str) -> Resource:
        self._check()
        return self._decode(await self._client.request("GET", f"{self._functions}/{name}"))

    async def _unhide(self, secret: str) -> Hidden:
        """Raises NotFound, Corrupt."""
        if not secret:
            return Hidden()
        return hidden_of(self._decode_secret(await self._client.request("GET", f"{self._secrets}/{secret}")))

    async def list(self) -> builtins.list[Function]:
        self._check()
        # The resources first: a Secret that they name and that is not listed was replaced since, with its resource.
        resources = (await self._resources.list()).items
        hidden = {secret.metadata.name: secret for secret in (await self._hidden.list()).items}
        functions: builtins.list[Function] = []
        unreadable: dict[str, str] = {}
        for resource in resources:
            try:
                functions.append(await self._listed(resource, hidden))
            except NotFound:
                continue  # deleted since
            except Corrupt as error:
                functions.append(_stand_in(resource))
                unreadable[resource.metadata.name] = error.message
        self.unreadable = unreadable
        return sorted(functions, key=lambda function: function.name)

    async def _listed(self, resource: Resource, hidden: Mapping[str, SecretObject]) -> Function:
        """Raises NotFound, Corrupt."""
        name, _ = links(resource)
        if not name:
            return function_of(resource, Hidden())
        if name in hidden:
            return function_of(resource, hidden_of(hidden[name]))
        return await self.get(resource.metadata.name)

    async def revision(self) -> str:
        self._check()
        table = await self._client.get(self._functions, accept=_TABLE, includeObject="None")
        content = hashlib.sha256(revision_word(table).encode()).hexdigest()
        if content != self._content:
            # A function made and deleted again leaves the same content, yet changes were seen on the way.
            self._content, self._seen_changes = content, self._seen_changes + 1
        return f"{content}-{self._seen_changes}"

    # Watch

    def watch(self) -> AsyncIterator[FunctionChange]:
        """As the port says. Ends when the registry is closed."""
        return self._watch()

    async def _watch(self) -> AsyncIterator[FunctionChange]:
        seen: dict[str, Function] = {}
        changes = self._follow(seen)
        closing = asyncio.create_task(self._closing.wait(), name="registry: closing")
        try:
            while not self._closing.is_set():
                step = asyncio.ensure_future(anext(changes, None))
                try:
                    await asyncio.wait({step, closing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not step.done():
                        step.cancel()
                        await asyncio.wait({step})
                if self._closing.is_set() or step.cancelled():
                    return
                change = step.result()
                if change is None:
                    return
                yield change
        except Closed:
            return
        finally:
            closing.cancel()
            await changes.aclose()  # type: ignore[attr-defined]

    async def _follow(self, seen: dict[str, Function]) -> AsyncIterator[FunctionChange]:
        first = True
        async for news in self._resources.follow():
            if isinstance(news, Snapshot):
                current = {resource.metadata.name: resource for resource in news.items}
                for change in _removed(seen, current):
                    yield change
                for resource in sorted(news.items, key=lambda one: one.metadata.name):
                    for change in await self._arrived(seen, resource):
                        yield change
                if first:
                    first = False
                    yield FunctionChange(ChangeKind.SYNCED)
            elif news.deleted:
                old = seen.pop(news.item.metadata.name, None)
                if old is not None:
                    yield FunctionChange(ChangeKind.DELETED, old)
            else:
                for change in await self._arrived(seen, news.item):
                    yield change

    async def _arrived(self, seen: dict[str, Function], resource: Resource) -> builtins.list[FunctionChange]:
        """What a resource's being so means after what was told of its name."""
        meta = resource.metadata
        old = seen.get(meta.name)
        if old is not None and (old.uid, old.generation) == (uid_of(meta.uid), meta.generation):
            return []  # its status changed
        secret, _ = links(resource)
        try:
            new = function_of(resource, await self._unhide(secret))
        except NotFound:
            return []  # replaced or deleted since, which will be told next
        except Corrupt as error:
            log.error("a function cannot be read", action="function_corrupt", function=meta.name, error=error.message)
            return []
        seen[meta.name] = new
        told = [FunctionChange(ChangeKind.PUT, new)]
        if old is not None and old.uid != new.uid:
            told.insert(0, FunctionChange(ChangeKind.DELETED, old))
        return told

    async def close(self) -> None:
        self._closing.set()

    # Secrets

    async def _put_secret(self, name: str, function: str, hidden: Hidden, *, owner_uid: str = "") -> None:
        body = secret_document(name, function, hidden, namespace=self._namespace, owner_uid=owner_uid)
        try:
            await self._client.request("POST", self._secrets, encode(body), accept=META_ONLY)
        except AlreadyExists:
            return  # our own first try, whose answer was lost: nobody else makes this name
        except NotFound as error:
            raise self._missing(error) from error

    async def _drop_secret(self, name: str) -> None:
        try:
            await self._client.request("DELETE", f"{self._secrets}/{name}", accept=META_ONLY)
        except NotFound:
            return
        except Unavailable as error:
            # It belongs to its function and goes with it at the latest.
            log.warning("an old Secret stays for now", action="secret_left", secret=name, error=error.message)

    def _check(self) -> None:
        if self._closing.is_set():
            raise Closed("the registry was closed")

    def _missing(self, error: NotFound) -> Exception:
        return NamespaceMissing(f"{self._namespace} cannot keep functions: {error.message}; install the chart's CRD")


def _stand_in(resource: Resource) -> Function:
    """For a function that is there and cannot be read: paused and without inputs, so that nothing of it starts and
    nobody takes it for deleted.
    """
    meta = resource.metadata
    return Function(name=meta.name, uid=uid_of(meta.uid), generation=meta.generation, paused=True)


def _change() -> int:
    """Marks one write as ours, and makes it a new generation even if it changes nothing else."""
    return secrets.randbits(52)


def _secret_name(function: str) -> str:
    return f"{function}-{secrets.token_hex(6)}"


def _removed(seen: dict[str, Function], current: dict[str, Resource]) -> Iterator[FunctionChange]:
    for name, old in list(seen.items()):
        resource = current.get(name)
        if resource is None or uid_of(resource.metadata.uid) != old.uid:
            del seen[name]
            yield FunctionChange(ChangeKind.DELETED, old)
