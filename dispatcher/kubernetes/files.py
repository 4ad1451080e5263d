"""The objects beside the Job: a function's files and secrets, once per generation, and long lists of items. Pure."""

from __future__ import annotations

import base64
import gzip
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from dispatcher.kubernetes.manifest import (
    KIND_FILES,
    KIND_ITEMS,
    LABEL_JOB,
    LABEL_KIND,
    LABEL_MANAGED,
    Json,
    common,
    encode_items,
    files_name,
    items_name,
    labels,
    secret_values,
    stores_name,
)
from dispatcher.kubernetes.settings import KubernetesSettings
from penstock.errors import InvalidInput
from penstock.model import JobPlan, StorageIO

#: Data of one ConfigMap or Secret, keys included.
DATA_LIMIT = 2**20
FUNCTION_API = "penstock.dev/v1"


def function_files(plan: JobPlan, settings: KubernetesSettings) -> Json:
    """The ConfigMap that every Job of this generation mounts. Raises InvalidInput when the script is too long."""
    shared = common(plan)
    data = {
        "script.sh": plan.script,
        "function_config.yaml": scrubbed(plan),
        "launcher.sh": settings.launcher,
        "plan.json": encode_items(told_sidecars(shared)).decode(),
    }
    size = sum(len(key) + len(text.encode()) for key, text in data.items())
    if size > DATA_LIMIT:
        raise InvalidInput(
            f"the script and definition are too large: {size} bytes together, and a cluster takes {DATA_LIMIT}; put "
            "data and models into the image or a bucket",
            where=f"function {plan.function}",
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(plan, settings),
        "immutable": True,
        "data": data,
    }


def told_sidecars(shared: JobPlan) -> JobPlan:
    """The plan that the sidecars read: no secret, and of the script only whether there is one."""
    return msgspec.structs.replace(shared, script="-" if shared.script.strip() else "", secrets={}, token="", stores={})


def function_secret(plan: JobPlan, settings: KubernetesSettings) -> Json | None:
    """The Secret of the user's container: the function's own secrets and token. None = there are none."""
    values = secret_values(plan)
    if not values:
        return None
    return secret_of(_metadata(plan, settings), {name: value.encode() for name, value in values.items()})


def stores_secret(plan: JobPlan, settings: KubernetesSettings) -> Json | None:
    """The Secret of `output`: the keys of the other stores that outputs go to. None = there are none."""
    if not plan.stores:
        return None
    metadata = _metadata(plan, settings)
    named = {**metadata, "name": stores_name(metadata["name"])}
    return secret_of(named, {"stores.json": encode_items(plan.stores)})


def secret_of(metadata: Json, values: Mapping[str, bytes]) -> Json:
    """A Secret that never changes."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": metadata,
        "immutable": True,
        "data": {name: base64.b64encode(value).decode() for name, value in values.items()},
    }


def _metadata(plan: JobPlan, settings: KubernetesSettings) -> Json:
    shared = common(plan)
    metadata: Json = {
        "name": files_name(shared),
        "namespace": settings.namespace,
        "labels": labels(plan, KIND_FILES),
    }
    if settings.owned_by_function:
        metadata["ownerReferences"] = [
            {
                "apiVersion": FUNCTION_API,
                "kind": "Function",
                "name": plan.function,
                "uid": str(uuid.UUID(plan.function_uid)),
            }
        ]
    return metadata


def items_map(plan: JobPlan, settings: KubernetesSettings, items: bytes) -> Json:
    """The ConfigMap with a list that is too long for an annotation. Raises InvalidInput when it is too long for any."""
    content: Json = {"data": {"items.json": items.decode()}}
    if len(items) > DATA_LIMIT - 64:
        # mtime 0: the same list always gives the same bytes.
        packed = gzip.compress(items, mtime=0)
        if len(packed) > DATA_LIMIT - 64:
            raise InvalidInput(
                f"the list of {len(plan.items)} items is too large: {len(packed)} bytes packed, and a cluster takes "
                f"{DATA_LIMIT}; lower `batch.max_items`",
                where=f"function {plan.function}",
            )
        content = {"binaryData": {"items.json.gz": base64.b64encode(packed).decode()}}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": items_name(plan.name),
            "namespace": settings.namespace,
            "labels": {LABEL_MANAGED: "penstock", LABEL_KIND: KIND_ITEMS, LABEL_JOB: plan.name},
        },
        "immutable": True,
        **content,
    }


def items_of(content: Json) -> bytes:
    """The list of items back from its ConfigMap. Raises KeyError, ValueError for what is none."""
    if "items.json" in content.get("data", {}):
        text: str = content["data"]["items.json"]
        return text.encode()
    return gzip.decompress(base64.b64decode(content["binaryData"]["items.json.gz"]))


def scrubbed(plan: JobPlan) -> str:
    """The definition as OSCAR's scripts may read it in function_config.yaml, without a secret or credential."""
    document: dict[str, Any] = {
        "name": plan.function,
        "image": plan.image,
        "log_level": plan.log_level,
        "file_stage_in": plan.file_stage_in,
        "environment": {"variables": dict(plan.environment)},
        "output": [_output(output) for output in plan.outputs],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _output(output: StorageIO) -> Json:
    entry: Json = {"storage_provider": output.reference, "path": output.path}
    for name, words in (("prefix", output.prefix), ("suffix", output.suffix)):
        if words:
            entry[name] = list(words)
    return entry
