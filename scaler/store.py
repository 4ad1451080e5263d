"""Where the scaler's state lives: one ConfigMap of the cluster it scales, fenced by its resource version.

Why not a database on a volume: without the API server the scaler can decide nothing anyway, so keeping the state there
adds no dependency; a pod that moves to another machine finds it; and the API server refuses a write of a version that
is no longer the newest, so a scaler that slept through a change of leadership cannot overwrite its successor's orders
(C19). The records are compressed: 5,000 nodes are some 200 KB of the 1 MiB that an object may have.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import zlib
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from penstock.adapters.kubernetes import KubernetesClient
from penstock.errors import AlreadyExists, Conflict, Corrupt, Fenced, NotFound, OutOfSpace
from scaler.records import State

#: The API server takes 1 MiB of data in a ConfigMap; base64 makes four bytes of three.
SIZE_LIMIT = 2**20
_KEY = "state"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode


class Store(Protocol):
    """One writer. What `save` returned from survives a crash at any later point."""

    async def load(self) -> State:
        """What was saved last; an empty state when nothing ever was. From then on this is the writer.

        Raises Unavailable, Corrupt, Forbidden.
        """
        ...

    async def save(self, state: State) -> None:
        """Raises Unavailable (it may or may not have been saved: load again), Fenced (another writer), OutOfSpace."""
        ...


def packed(state: State) -> bytes:
    """Without what the cluster tells again at once: shape, labels and taints of nodes."""
    nodes = tuple(replace(node, allocatable=(), labels=(), taints=()) for node in state.nodes)
    # Level 1: a tenth of the time of the default for a tenth more bytes. No time in it: the same state, the same bytes.
    return gzip.compress(_encode(replace(state, nodes=nodes)), compresslevel=1, mtime=0)


def unpacked(data: bytes) -> State:
    """Raises Corrupt."""
    try:
        return _decode(gzip.decompress(data))
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise Corrupt(f"the scaler's stored state cannot be read: {error}") from error


class ConfigMapStore:
    def __init__(self, client: KubernetesClient, *, namespace: str, name: str) -> None:
        self._client = client
        self._collection = f"/api/v1/namespaces/{namespace}/configmaps"
        self._namespace = namespace
        self._name = name
        self._version = ""

    async def load(self) -> State:
        """As `Store.load`; makes the object when there is none."""
        found = await self._read()
        if found is None:
            try:
                made = await self._client.send("POST", self._collection, self._document(State()))
            except AlreadyExists:
                return await self.load()
            self._version = made["metadata"]["resourceVersion"]
            return State()
        self._version = found["metadata"]["resourceVersion"]
        return self._state(found)

    async def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._client.get(f"{self._collection}/{self._name}")
        except NotFound:
            return None
        return found

    def _state(self, found: dict[str, Any]) -> State:
        try:
            return unpacked(base64.b64decode(found["binaryData"][_KEY], validate=True))
        except (KeyError, TypeError, binascii.Error) as error:
            raise Corrupt(
                f"the ConfigMap {self._namespace}/{self._name} holds no state of a scaler; delete it to begin anew"
            ) from error

    async def save(self, state: State) -> None:
        """As `Store.save`."""
        document = self._document(state)
        try:
            # Decisions wait for it, and thousands of requests of removals under way would be before it.
            made = await self._client.send("PUT", f"{self._collection}/{self._name}", document, urgent=True)
        except Conflict as error:
            # A first try may have got through although its answer was lost: then what is there is ours.
            found = await self._read()
            if found is None or found.get("binaryData") != document["binaryData"]:
                raise Fenced(
                    f"another scaler writes to the ConfigMap {self._namespace}/{self._name}; this one stops"
                ) from error
            made = found
        except NotFound as error:
            raise Fenced(f"the ConfigMap {self._namespace}/{self._name} was deleted while the scaler ran") from error
        self._version = made["metadata"]["resourceVersion"]

    def _document(self, state: State) -> dict[str, Any]:
        text = base64.b64encode(packed(state)).decode()
        if len(text) > SIZE_LIMIT:
            raise OutOfSpace(f"the scaler's state of {len(state.nodes)} nodes takes {len(text)} of {SIZE_LIMIT} bytes")
        metadata: dict[str, Any] = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {"app.kubernetes.io/managed-by": "penstock"},
        }
        if self._version:
            metadata["resourceVersion"] = self._version
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": {_KEY: text}}
