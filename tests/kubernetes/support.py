"""What the tests on a cluster share: the bed's control plane, namespaces of one's own, a runner over it.

Contract suites open their adapters without pytest's fixtures at hand, so the session's control plane is noted in
`CLUSTER` by a fixture. Without one the adapters are made for an address that nobody answers at, which is enough for the
suite that only asks of what class they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from dispatcher.kubernetes import KubernetesRunner, KubernetesSettings, PodResults, ResultSource
from penstock.adapters.kubernetes import Access, ClientSettings, KubernetesClient, KubernetesRegistry, from_kubeconfig
from penstock.adapters.kubernetes.access import tls
from penstock.adapters.kubernetes.trouble import NamespaceMissing
from penstock.errors import AlreadyExists, NotFound
from penstock.model import JobPhase, JobPlan, JobStatus
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.paths import REPOSITORY

PATIENCE_S = 30.0
CRD = REPOSITORY / "helm" / "penstock" / "crds" / "functions.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NOWHERE = Access(server="http://127.0.0.1:9")

#: The session's control plane; set by the fixtures of this folder's conftest and of the contract suites.
CLUSTER: list[Kubernetes] = []


def access() -> Access:
    return from_kubeconfig(CLUSTER[0].kubeconfig) if CLUSTER else NOWHERE


@contextlib.asynccontextmanager
async def client(**settings: Any) -> AsyncIterator[KubernetesClient]:
    made = KubernetesClient(access(), ClientSettings(**settings))
    try:
        yield made
    finally:
        await made.close()


async def use(cluster: Kubernetes) -> None:
    """Note the control plane and install our resource in it, once."""
    if cluster in CLUSTER:
        return
    CLUSTER[:] = [cluster]
    async with client() as api:
        with contextlib.suppress(AlreadyExists):
            await api.send("POST", DEFINITIONS, yaml.safe_load(await asyncio.to_thread(CRD.read_text)))

        async def established() -> bool:
            found = await api.get(f"{DEFINITIONS}/functions.penstock.dev")
            conditions = found.get("status", {}).get("conditions") or ()
            return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)

        await eventually(established)


async def make_namespace(api: KubernetesClient, name: str, *, pods: bool = False) -> str:
    """`pods` = wait until pods can be made in it."""
    with contextlib.suppress(AlreadyExists):
        await api.send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    if pods:
        await eventually(lambda: exists(api, f"/api/v1/namespaces/{name}/serviceaccounts/default"))
    return name


async def exists(api: KubernetesClient, path: str) -> bool:
    try:
        await api.get(path)
    except (NotFound, NamespaceMissing):
        return False
    return True


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = PATIENCE_S) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def bare_posts(server: Access, path: str) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """Posts bodies as they are, with an open watch that nobody decodes: the API server's own speed."""
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(ssl=tls(server), limit=0)
    async with aiohttp.ClientSession(server.server, connector=connector, headers=headers) as session:

        async def post(body: bytes) -> None:
            async with session.post(path, data=body) as response:
                assert response.status == 201, await response.text()
                await response.read()

        async def drain() -> None:
            async with session.get(path, params={"watch": "true"}, timeout=aiohttp.ClientTimeout()) as response:
                async for _ in response.content.iter_any():
                    pass

        watch = asyncio.create_task(drain())
        try:
            yield post
        finally:
            watch.cancel()
            await asyncio.wait({watch})


@contextlib.asynccontextmanager
async def kubernetes_registry(folder: Path) -> AsyncIterator[KubernetesRegistry]:
    """A registry whose namespace stands for the folder: the same folder is the same registry."""
    namespace = f"r-{hashlib.sha256(str(folder).encode()).hexdigest()[:20]}"
    async with client() as api:
        if CLUSTER:
            await make_namespace(api, namespace)
        registry = KubernetesRegistry(api, namespace=namespace)
        try:
            yield registry
        finally:
            await registry.close()


@contextlib.asynccontextmanager
async def runner(
    namespace: str, *, results: ResultSource | None = None, api: KubernetesClient | None = None, **settings: Any
) -> AsyncIterator[KubernetesRunner]:
    async with contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(client()) if api is None else api
        made = KubernetesRunner(
            client=connection,
            settings=KubernetesSettings(namespace=namespace, **settings),
            results=results or PodResults(),
        )
        stack.push_async_callback(made.close)
        if CLUSTER:
            await made.start()
        yield made


async def until(
    watch: AsyncIterator[JobStatus], wanted: Callable[[JobStatus], bool], *, seconds: float = PATIENCE_S
) -> JobStatus:
    async with asyncio.timeout(seconds):
        async for status in watch:
            if wanted(status):
                return status
    raise AssertionError("the watch ended")


def over(name: str) -> Callable[[JobStatus], bool]:
    return lambda status: status.name == name and status.phase in {JobPhase.FINISHED, JobPhase.LOST}


def jobs_path(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


async def job_names(api: KubernetesClient, namespace: str) -> list[str]:
    found = await api.get(jobs_path(namespace))
    return [item["metadata"]["name"] for item in found["items"]]


async def post(api: KubernetesClient, path: str, document: object) -> Any:
    return await api.send("POST", path, document)


def numbered(plan: JobPlan, number: int) -> JobPlan:
    """The same plan under another name and with other invocations."""
    name = f"{plan.name}-{number}"
    items = tuple(msgspec.structs.replace(item, invocation=f"{name}-{index}") for index, item in enumerate(plan.items))
    return msgspec.structs.replace(plan, name=name, id=name, items=items)
