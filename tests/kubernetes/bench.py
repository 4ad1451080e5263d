"""The runner for the contract suite: real pods on a real node, our own image for the sidecars, a real object store.

Each bench has a namespace, a Secret with the store's account, and a volume that shows the test's folder to its scripts
under the same path, so that they can wait for each other as local processes do.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from dispatcher.kubernetes import KubernetesRunner, KubernetesSettings, StoreResults
from dispatcher.sidecar.launcher import launcher_text
from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.errors import NotFound
from penstock.model import SYSTEM_BUCKET, JobPlan, Volume
from penstock.ports import ObjectStore, Runner
from tests.kubernetes.support import CLUSTER, client, make_namespace, post, use
from tests.process_runner.support import Bench, opened_store
from tests.testbed.images import BUSYBOX, PROJECT
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.minio import Minio
from tests.testbed.node import Node
from tests.testbed.node_images import Images

SECRET, CLAIM = "store", "shared"
#: A busy machine takes its time over pods.
POD_PATIENCE_S = 120.0
#: The session's object store and its address in pods; noted like `support.CLUSTER`, for the same reason.
STORE: list[tuple[Minio, str]] = []


async def prepare_node(kubernetes: Kubernetes, node: Node, images: Images, minio: Minio) -> None:
    """Have everything there that a pod of ours needs."""
    await use(kubernetes)
    assert node.bed is images.bed
    if not STORE:
        await images.project()
        STORE.append((minio, await minio.url_for_pods()))


def pod_settings(namespace: str, **changes: Any) -> KubernetesSettings:
    """Settings with which a Job runs whole on the bed's node."""
    settings: dict[str, Any] = {
        "namespace": namespace,
        "sidecar_image": PROJECT,
        "sidecar_env": {"PENSTOCK_S3_ENDPOINT": STORE[0][1], "PENSTOCK_POD_GRACE_S": "1"} if STORE else {},
        "input_secret": SECRET,
        "output_secret": SECRET,
        "launcher": launcher_text(),
        "default_image": BUSYBOX,
        "default_memory_bytes": 64 * 2**20,
        "pull_policy": "IfNotPresent",
        "grace_s": 10,
        "start_limit_s": 10.0,
    }
    return KubernetesSettings(**(settings | changes))


async def furnish(api: KubernetesClient, namespace: str, folder: Path | None = None) -> None:
    """A namespace with the account's Secret and, for a folder, the volume that shows it."""
    await make_namespace(api, namespace, pods=True)
    minio, _ = STORE[0]
    account = {"access_key": minio.user, "secret_key": minio.password}
    core = f"/api/v1/namespaces/{namespace}"
    await post(api, f"{core}/secrets", {"metadata": {"name": SECRET}, "stringData": account})
    if folder is None:
        return
    common: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        **common,
        "capacity": {"storage": "1Gi"},
        "hostPath": {"path": str(folder)},
        "claimRef": {"namespace": namespace, "name": CLAIM},
    }
    await post(api, "/api/v1/persistentvolumes", {"metadata": {"name": namespace}, "spec": volume})
    claim = {**common, "volumeName": namespace, "resources": {"requests": {"storage": "1Gi"}}}
    await post(api, f"{core}/persistentvolumeclaims", {"metadata": {"name": CLAIM}, "spec": claim})


@contextlib.asynccontextmanager
async def emptied_store() -> AsyncIterator[S3Store]:
    """The session's store with the suite's buckets, and nothing in them of the case before."""
    minio, _ = STORE[0]
    store = S3Store(S3Config(endpoint=minio.url, credentials=Credentials(minio.user, minio.password)))
    try:
        for bucket in ("pictures", "results", SYSTEM_BUCKET):
            await store.create_bucket(bucket)
            keys = [info.key async for page in store.list(bucket) for info in page]
            for key in keys:
                with contextlib.suppress(NotFound):
                    await store.delete(bucket, key)
        yield store
    finally:
        await store.close()


class _Runner(KubernetesRunner):
    """Shows each plan the folder of the test."""

    def __init__(self, folder: Path, **parts: Any) -> None:
        super().__init__(**parts)
        self._folder = folder

    async def submit(self, plan: JobPlan) -> None:
        shown = plan.volume or Volume(name=CLAIM, mount_path=str(self._folder))
        await super().submit(msgspec.structs.replace(plan, volume=shown))


class _Bench(Bench):
    own_folder = False
    outlived = True
    node = ""
    prompt = False
    item_cpu_millis = 100
    patience_s = POD_PATIENCE_S


@contextlib.asynccontextmanager
async def kubernetes_bench(folder: Path) -> AsyncIterator[Bench]:
    namespace = f"j-{hashlib.sha256(str(folder).encode()).hexdigest()[:20]}"
    async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as runners:
        store: ObjectStore = await stack.enter_async_context(emptied_store() if STORE else opened_store(folder))
        api = await stack.enter_async_context(client())
        if CLUSTER:
            await furnish(api, namespace, folder)
        settings = pod_settings(namespace, default_cpu_millis=_Bench.item_cpu_millis)

        async def reopen() -> Runner:
            await runners.aclose()
            made = _Runner(folder, client=api, settings=settings, results=StoreResults(store))
            runners.push_async_callback(made.close)
            if CLUSTER:
                await made.start()
            return made

        yield _Bench(await reopen(), store, folder, reopen)
