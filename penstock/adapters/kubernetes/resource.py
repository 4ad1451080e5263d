"""Between a `Function` and its two objects: the custom resource that people see, and the Secret beside it. Pure.

The field names of `spec` are those of `Function`, so one struct reads what the registry wrote and what a person wrote
by hand. The uid is the API server's own, so that a function that is deleted and made anew is another one whoever does
it, and the generation is the API server's too.
"""

from __future__ import annotations

import base64
import uuid
from datetime import datetime
from typing import Any

import msgspec

from penstock.errors import Corrupt, InvalidInput
from penstock.model import Function

GROUP = "penstock.dev"
API = f"{GROUP}/v1"
PLURAL = "functions"
LABEL_MANAGED = "app.kubernetes.io/managed-by"
LABEL_KIND = "penstock.dev/kind"
LABEL_FUNCTION = "penstock.dev/function"
KIND_SECRET = "function-secret"  # noqa: S105 - a label's value
#: etcd takes 1.5 MiB; a mebibyte leaves room for what the API server adds.
SIZE_LIMIT = 2**20
_KEY = "function.json"

Json = dict[str, Any]

#: Not in the spec: the API server's own, or the Secret's.
_ELSEWHERE = ("name", "uid", "generation", "token", "secrets", "storage_providers")


class Meta(msgspec.Struct):
    name: str
    uid: str = ""
    generation: int = 1
    resourceVersion: str = ""  # noqa: N815 - the API's name
    creationTimestamp: datetime | None = None  # noqa: N815


class Resource(msgspec.Struct):
    """The custom resource as it is read: the spec stays bytes until it is known to be new."""

    metadata: Meta
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class _Links(msgspec.Struct):
    secretName: str = ""  # noqa: N815 - in the style of the API's own specs
    change: int = 0


class SecretObject(msgspec.Struct):
    metadata: Meta
    data: dict[str, str] = {}


class Hidden(msgspec.Struct, frozen=True):
    """What is in the Secret."""

    token: str = ""
    secrets: dict[str, str] = {}
    storage_providers: dict[str, dict[str, dict[str, Any]]] = {}

    @classmethod
    def of(cls, function: Function, token: str) -> Hidden:
        return cls(token, function.secrets, function.storage_providers)


_decode_spec = msgspec.json.Decoder(dict[str, Any]).decode
_decode_links = msgspec.json.Decoder(_Links).decode
_decode_hidden = msgspec.json.Decoder(Hidden).decode


def links(resource: Resource) -> tuple[str, int]:
    """Name of its Secret ("" = none), and the mark of its last write. Raises Corrupt."""
    try:
        found = _decode_links(resource.spec)
    except msgspec.DecodeError as error:
        raise Corrupt(f"the function {resource.metadata.name} cannot be read: {error}") from error
    return found.secretName, found.change


def document(function: Function, *, namespace: str, secret: str, change: int, version: str = "") -> bytes:
    """The resource to send; `version` makes it a replacement of exactly that one. Raises InvalidInput (too large)."""
    spec = msgspec.to_builtins(function)
    for name in _ELSEWHERE:
        spec.pop(name)
    if spec["volume"] is None:
        del spec["volume"]
    spec |= {"secretName": secret, "change": change}
    metadata: Json = {"name": function.name, "namespace": namespace}
    if version:
        metadata["resourceVersion"] = version
    try:
        body = msgspec.json.encode({"apiVersion": API, "kind": "Function", "metadata": metadata, "spec": spec})
    except UnicodeEncodeError as error:
        raise InvalidInput("has characters that are no valid text", where=f"function {function.name}") from error
    if len(body) > SIZE_LIMIT:
        raise InvalidInput(
            f"is too large: {len(body)} bytes with its script, and a cluster keeps {SIZE_LIMIT}; put data and models "
            "into the image or a bucket",
            where=f"function {function.name}",
        )
    return body


def function_of(resource: Resource, hidden: Hidden) -> Function:
    """Raises Corrupt for a spec that the schema should not have let in."""
    metadata = resource.metadata
    try:
        spec = _decode_spec(resource.spec)
        created = 0 if metadata.creationTimestamp is None else int(metadata.creationTimestamp.timestamp() * 1000)
        # By hand one writes no times: what was there before the function does not trigger it.
        given = {"created_ms": created, "updated_ms": created, "start_ms": created, **spec}
        own = {
            "name": metadata.name,
            "uid": uid_of(metadata.uid),
            "generation": metadata.generation,
            "token": hidden.token,
            "secrets": hidden.secrets,
            "storage_providers": hidden.storage_providers,
        }
        return msgspec.convert({**given, **own}, Function)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        raise Corrupt(f"the function {metadata.name} cannot be read: {error}; apply it again") from error


def uid_of(given: str) -> str:
    return uuid.UUID(given).hex


def secret_document(name: str, function: str, hidden: Hidden, *, namespace: str, owner_uid: str = "") -> Json:
    """The Secret of a function. It never changes: another content has another name, so that a replacement takes effect
    with the resource, at once and as a whole.
    """
    metadata: Json = {
        "name": name,
        "namespace": namespace,
        "labels": {LABEL_MANAGED: "penstock", LABEL_KIND: KIND_SECRET, LABEL_FUNCTION: function},
    }
    if owner_uid:
        metadata["ownerReferences"] = [owner(function, owner_uid)]
    data = base64.b64encode(msgspec.json.encode(hidden)).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": metadata,
        "data": {_KEY: data},
    }


def owner(function: str, uid: str) -> Json:
    """Deleted with the function by the cluster itself. `uid` as the API server writes it."""
    return {"apiVersion": API, "kind": "Function", "name": function, "uid": uid}


def hidden_of(secret: SecretObject) -> Hidden:
    """Raises Corrupt."""
    try:
        return _decode_hidden(base64.b64decode(secret.data[_KEY]))
    except (KeyError, ValueError, msgspec.DecodeError):
        # Without the cause: its text could hold a part of the secret.
        raise Corrupt(
            f"the Secret {secret.metadata.name} of a function cannot be read; apply the function again"
        ) from None


def revision_word(table: Json) -> str:
    """What a Table of all functions comes to: its rows are a few words each. Raises Corrupt."""
    names = [column.get("name") for column in table.get("columnDefinitions", ())]
    try:
        wanted = [names.index(name) for name in ("Name", "Generation", "UID")]
        rows = sorted(tuple(str(row["cells"][at]) for at in wanted) for row in table.get("rows") or ())
    except (ValueError, KeyError, IndexError) as error:
        raise Corrupt("the installed definition of functions.penstock.dev is an older one: install it again") from error
    return "\n".join("\t".join(row) for row in rows)
