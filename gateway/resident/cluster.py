"""The requests to the API server for resident functions, each one call that may be repeated."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import structlog

from dispatcher.kubernetes.manifest import LABEL_KIND, LABEL_MANAGED, LABEL_UID
from dispatcher.kubernetes.settings import KubernetesSettings
from gateway.resident import manifest
from gateway.resident.facts import Deployment, Pod
from gateway.resident.manifest import KIND, KIND_FILES, NOTE_MADE, Json, Shape
from penstock.adapters.kubernetes.client import MERGE_PATCH, META_ONLY, KubernetesClient, encode
from penstock.adapters.kubernetes.watching import Follower
from penstock.errors import AlreadyExists, Conflict, NotFound
from penstock.model import Function

log = structlog.get_logger("gateway.resident")

SELECTOR = f"{LABEL_MANAGED}=penstock,{LABEL_KIND}={KIND}"


class ResidentApi:
    """`settings` are those of Jobs, whose pods these are made like."""

    def __init__(self, client: KubernetesClient, settings: KubernetesSettings, shape: Shape) -> None:
        self._client = client
        self._settings = settings
        self._shape = shape
        core = f"/api/v1/namespaces/{settings.namespace}"
        self._paths = {"ConfigMap": f"{core}/configmaps", "Secret": f"{core}/secrets"}
        self._deployments = f"/apis/apps/v1/namespaces/{settings.namespace}/deployments"
        self.pods: Follower[Pod] = Follower(client, f"{core}/pods", Pod, selector=SELECTOR)
        self.deployments: Follower[Deployment] = Follower(client, self._deployments, Deployment, selector=SELECTOR)

    async def key(self, function: Function) -> str:
        """The key of a function's pods, made if there is none. Raises Unavailable, Forbidden."""
        path = f"{self._paths['Secret']}/{manifest.key_name(function)}"
        try:
            found = await self._client.get(path)
        except NotFound:
            await self._create(manifest.key_secret(function, self._settings, secrets.token_hex(32)))
            found = await self._client.get(path)
        return base64.b64decode(found["data"]["token"]).decode()

    async def ensure(self, function: Function, *, replicas: int) -> None:
        """Have a Deployment of this generation, whose pods are made as we would make them. An existing one keeps its
        number of pods, but for what `replicas` asks more. Raises InvalidInput, Unavailable, Forbidden.
        """
        wanted = manifest.deployment(function, self._settings, self._shape, replicas=replicas)
        path = f"{self._deployments}/{wanted['metadata']['name']}"
        try:
            found = await self._client.get(path)
        except NotFound:
            found = None
        if found is not None and not _outdated(found, wanted):
            await self.scale(function, replicas, only_from=int(found["spec"].get("replicas", 0)))
            return
        await self.key(function)
        await self.put_files(function)
        if found is None:
            await self._create(wanted)
            return
        wanted["spec"]["replicas"] = max(replicas, int(found["spec"].get("replicas", 0)))
        wanted["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        try:
            await self._client.request("PUT", path, encode(wanted), accept=META_ONLY)
        except (Conflict, NotFound):
            return  # another gateway's; the next look decides anew
        log.info("a new generation is rolled out", action="resident_updated", function=function.name)

    async def put_files(self, function: Function) -> None:
        """Have what the pods of this generation mount. Raises InvalidInput, Unavailable, Forbidden."""
        for document in manifest.files(function, self._settings):
            await self._create(document)

    async def scale(self, function: Function, replicas: int, *, only_from: int) -> None:
        """Set the number of pods. Raises Unavailable, Forbidden."""
        if replicas <= only_from:
            return
        await self.set_replicas(manifest.base_name(function), replicas)

    async def set_replicas(self, name: str, replicas: int) -> None:
        """One that is gone is no error. Raises Unavailable, Forbidden."""
        body = encode({"spec": {"replicas": replicas}})
        try:
            await self._client.request(
                "PATCH", f"{self._deployments}/{name}", body, content_type=MERGE_PATCH, accept=META_ONLY
            )
        except NotFound:
            return

    async def drop_old_files(self, uid: str, kept: set[str]) -> None:
        """Remove the files of generations that no pod is of. `kept` = generations. Raises Unavailable, Forbidden."""
        selector = f"{LABEL_MANAGED}=penstock,{LABEL_KIND}={KIND_FILES},{LABEL_UID}={uid}"
        for path in self._paths.values():
            found = await self._client.get(path, labelSelector=selector)
            for one in found.get("items") or ():
                if one["metadata"]["labels"].get("penstock.dev/generation", "") not in kept:
                    await self._delete(f"{path}/{one['metadata']['name']}")

    async def _create(self, document: Json) -> None:
        path = self._paths.get(document["kind"], self._deployments)
        try:
            await self._client.request("POST", path, encode(document), accept=META_ONLY)
        except AlreadyExists:
            return

    async def _delete(self, path: str) -> None:
        try:
            await self._client.request("DELETE", path, accept=META_ONLY)
        except NotFound:
            return


def _outdated(found: dict[str, Any], wanted: Json) -> bool:
    """Whether it is to be replaced: by a later generation, or by the same one made in another way."""
    there, here = manifest.generation_of(found), manifest.generation_of(wanted)
    if there != here:
        return there < here
    return bool(
        (found["metadata"].get("annotations") or {}).get(NOTE_MADE) != wanted["metadata"]["annotations"][NOTE_MADE]
    )
