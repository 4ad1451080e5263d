"""The requests of the runner, each one call: what is sent, and what its answers mean to a Runner.

Creating a Job is one POST of bytes that are ready. Its answer is the whole Job, of which the uid is read: asking for
the metadata alone was measured to be no faster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime

import msgspec

from dispatcher.kubernetes.facts import Job, Pod
from dispatcher.kubernetes.files import items_of
from dispatcher.kubernetes.manifest import (
    KIND_JOB,
    LABEL_JOB,
    LABEL_KIND,
    LABEL_MANAGED,
    NOTE_DIGEST,
    Json,
    items_name,
    stores_name,
)
from penstock.adapters.kubernetes.client import MERGE_PATCH, META_ONLY, KubernetesClient, encode
from penstock.adapters.kubernetes.trouble import NamespaceMissing
from penstock.adapters.kubernetes.watching import Follower
from penstock.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound, Unavailable

SELECTOR = f"{LABEL_MANAGED}=penstock,{LABEL_KIND}={KIND_JOB}"


class _Meta(msgspec.Struct):
    uid: str = ""
    annotations: dict[str, str] = {}
    deletionTimestamp: str | None = None  # noqa: N815 - the API's name


class _Object(msgspec.Struct):
    metadata: _Meta


_decode_object = msgspec.json.Decoder(_Object).decode


class JobApi:
    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        self._client = client
        core = f"/api/v1/namespaces/{namespace}"
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._pods = f"{core}/pods"
        self._maps = f"{core}/configmaps"
        self._secrets = f"{core}/secrets"
        self._events = f"{core}/events"
        self._beside = {
            "ConfigMap": self._maps,
            "Secret": self._secrets,
            "PersistentVolumeClaim": f"{core}/persistentvolumeclaims",
        }
        self.jobs: Follower[Job] = Follower(client, self._jobs, Job, selector=SELECTOR)
        self.pods: Follower[Pod] = Follower(client, self._pods, Pod, selector=SELECTOR)

    async def create_job(self, name: str, body: bytes, digest: str) -> str:
        """Returns the Job's uid, also when the same Job was there already.

        Raises AlreadyExists (another Job has the name), Forbidden (QuotaExceeded, NamespaceMissing), InvalidInput
        (Refused), Unavailable.
        """
        try:
            data = await self._client.request("POST", self._jobs, body)
        except AlreadyExists as error:
            return await self._same(name, digest, error)
        except NotFound as error:
            raise NamespaceMissing(error.message) from error
        except Conflict as error:
            raise Unavailable(error.message) from error
        return _decode_object(data).metadata.uid

    async def _same(self, name: str, digest: str, taken: AlreadyExists) -> str:
        """The name is taken: by the same Job (a repeat, or an answer that was lost) or by another one."""
        try:
            data = await self._client.request("GET", f"{self._jobs}/{name}", accept=META_ONLY)
        except NotFound as error:
            raise Unavailable(f"the Job {name} has just been deleted: its name is free again") from error
        found = _decode_object(data).metadata
        if found.deletionTimestamp is not None:
            raise Unavailable(f"a Job named {name} is still being deleted")
        if found.annotations.get(NOTE_DIGEST) != digest:
            raise AlreadyExists(f"the Job name {name} is taken by another plan; forget that one first") from taken
        return found.uid

    async def put(self, document: Json) -> None:
        """Create a ConfigMap or Secret whose name stands for its content, or a volume's claim; one that is there
        already is the same. Raises as `create_job`.
        """
        try:
            await self._client.request("POST", self._beside[document["kind"]], encode(document), accept=META_ONLY)
        except AlreadyExists:
            return
        except NotFound as error:
            raise NamespaceMissing(error.message) from error

    async def read_items(self, job: str) -> bytes:
        """The list of a Job from its ConfigMap. Raises NotFound, Corrupt, Unavailable."""
        content = await self._client.get(f"{self._maps}/{items_name(job)}")
        try:
            return items_of(content)
        except (KeyError, ValueError, OSError, TypeError) as error:
            raise Corrupt(f"the ConfigMap {items_name(job)} holds no list of items") from error

    async def mark(self, name: str, notes: dict[str, str], *, suspend: bool) -> bool:
        """Annotate a Job; `suspend` also has its pods ended, each with its grace. False = it is gone. Raises
        Unavailable.
        """
        document: Json = {"metadata": {"annotations": notes}}
        if suspend:
            document["spec"] = {"suspend": True}
        try:
            await self._patch(f"{self._jobs}/{name}", document)
        except NotFound:
            return False
        except InvalidInput:  # a Job that has finished cannot be suspended any more: the note is enough
            return suspend and await self.mark(name, notes, suspend=False)
        return True

    async def mark_pod(self, pod: str, notes: dict[str, str]) -> None:
        """Annotate a pod; its sidecars see it as a file. One that is gone is no error. Raises Unavailable."""
        try:
            await self._patch(f"{self._pods}/{pod}", {"metadata": {"annotations": notes}})
        except NotFound:
            return

    async def _patch(self, path: str, document: Json) -> None:
        await self._client.request("PATCH", path, encode(document), content_type=MERGE_PATCH, accept=META_ONLY)

    async def delete_job(self, name: str, uid: str = "") -> None:
        """Delete a Job and, in the background, its pods; with `uid` only that one. Idempotent. Raises Unavailable."""
        await self._delete(f"{self._jobs}/{name}", uid)

    async def delete_items(self, job: str) -> None:
        await self._delete(f"{self._maps}/{items_name(job)}")

    async def _delete(self, path: str, uid: str = "") -> None:
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._client.request("DELETE", path, encode(options), accept=META_ONLY)
        except (NotFound, Conflict):
            return

    async def beside(self, kind: str) -> list[tuple[str, dict[str, str], float]]:
        """ConfigMaps of a kind (`function-files`, `items`): name, labels, and time of creation in seconds."""
        follower: Follower[_Labelled] = Follower(
            self._client, self._maps, _Labelled, selector=f"{LABEL_MANAGED}=penstock,{LABEL_KIND}={kind}"
        )
        found = (await follower.list()).items
        return [(one.metadata.name, one.metadata.labels, one.metadata.creationTimestamp.timestamp()) for one in found]

    async def drop_files(self, name: str) -> None:
        """Remove a generation's ConfigMap and Secrets. Idempotent."""
        await self._delete(f"{self._maps}/{name}")
        await self._delete(f"{self._secrets}/{name}")
        await self._delete(f"{self._secrets}/{stores_name(name)}")

    async def pods_of(self, job: str) -> list[Pod]:
        """The pods that bear a Job's name, asked for now. Raises Unavailable, Corrupt."""
        found: Follower[Pod] = Follower(self._client, self._pods, Pod, selector=f"{SELECTOR},{LABEL_JOB}={job}")
        return (await found.list()).items

    async def why_no_pod(self, job: str) -> str:
        """What the Job controller last complained about, "" = nothing. Raises Unavailable, Forbidden."""
        selector = f"involvedObject.kind=Job,involvedObject.name={job},type=Warning"
        events = (await self._client.get(self._events, fieldSelector=selector)).get("items") or []
        return str(events[-1].get("message", "")) if events else ""

    def log(self, pod: str, container: str, *, follow: bool) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A container's output in chunks. Raises NotFound, InvalidInput (not started yet), Unavailable."""
        params = {"container": container} | ({"follow": "true"} if follow else {})
        # A script may well be silent for hours.
        return self._client.stream(f"{self._pods}/{pod}/log", params, silence_s=0)


class _LabelledMeta(msgspec.Struct):
    name: str
    creationTimestamp: datetime  # noqa: N815
    labels: dict[str, str] = {}


class _Labelled(msgspec.Struct):
    metadata: _LabelledMeta
