"""`/system/info`, `/system/config`, `/system/status`: what the cluster is, how to reach its store, how it fares."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from aiohttp import web

from gateway.api import wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.cluster import ClusterFacts, NodeFacts
from gateway.oscar import bodies
from penstock import __version__
from penstock.clock import now_ms
from penstock.errors import PenstockError
from penstock.model import SYSTEM_BUCKET

routes = web.RouteTableDef()

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_NAME = "penstock"


@routes.get("/system/info")
async def info(request: web.Request) -> web.Response:
    facts = await _facts(request.app[SERVICES])
    machine = platform.machine()
    return wire.json_answer(
        bodies.Info(
            version=bodies.API_LEVEL,
            git_commit="",
            architecture=_MACHINES.get(machine, machine),
            kubernetes_version=facts.kubernetes_version,
            serverless_backend=bodies.Backend(name=_NAME, version=__version__),
            penstock_version=__version__,
        )
    )


@routes.get("/system/config")
@routes.get("/system/config/")
async def config(request: web.Request) -> web.Response:
    """The caller's own account of the store, never the store's root."""
    services = request.app[SERVICES]
    account = await services.storage.account(request[CALLER])
    facts, group = await _facts(services), services.settings.gateway
    return wire.json_answer(
        bodies.Config(
            config=bodies.ClusterConfig(
                name=_NAME,
                namespace=facts.namespace,
                services_namespace=facts.namespace,
                gpu_available=any(node.gpus for node in facts.nodes),
                interLink_available=any(node.virtual for node in facts.nodes),
                oidc_groups=group.words(group.oidc_groups),
            ),
            minio_provider=bodies.MinioProvider(
                endpoint=account.endpoint,
                verify=account.verify,
                access_key=account.access_key,
                secret_key=account.secret_key,
                region=account.region or "us-east-1",
            ),
            allowed_image_repositories=group.words(group.allowed_images),
        )
    )


@routes.get("/system/status")
async def status(request: web.Request) -> web.Response:
    """Machines for everybody; jobs, pods and buckets for the administrator."""
    services, admin = request.app[SERVICES], request[CALLER].admin
    facts = await services.cluster.facts()
    jobs = await _unfinished(services) if admin else 0
    buckets = [name for name in await services.store.buckets() if name != SYSTEM_BUCKET] if admin else []
    ready = not services.waiting_for() and not services.stopping()
    pods = facts.pods if admin else {}
    oidc = services.oidc
    began = now_ms() - int(services.uptime() * 1000)
    return wire.json_answer(
        bodies.Status(
            cluster=_cluster(facts.nodes),
            oscar=bodies.OscarStatus(
                deployment_name=_NAME,
                ready=ready,
                deployment=bodies.OscarDeployment(
                    available_replicas=int(ready),
                    ready_replicas=int(ready),
                    replicas=1,
                    creation_timestamp=bodies.moment(began),
                    strategy="RollingUpdate",
                    labels={"app.kubernetes.io/name": _NAME},
                ),
                jobs_count=jobs,
                pods=bodies.Pods(total=sum(pods.values()), states=pods),
                oidc=bodies.Oidc(
                    enabled=oidc is not None,
                    issuers=oidc.issuers if oidc is not None else (),
                    groups=oidc.groups if oidc is not None else (),
                ),
            ),
            minio=bodies.MinioStatus(buckets_count=len(buckets), total_objects=await _objects(services, buckets)),
        )
    )


#: Objects that are counted before the status gives up: counting a million takes minutes in any store.
MOST_COUNTED = 10_000


async def _objects(services: Services, buckets: Sequence[str]) -> int:
    """How many objects there are, up to a bound."""
    count = 0
    for bucket in buckets:
        async for page in services.browse.list(bucket):
            count += len(page)
            if count >= MOST_COUNTED:
                return count
    return count


async def _unfinished(services: Services) -> int:
    counts = await services.ledger.counts()
    return sum(number for phases in counts.values() for phase, number in phases.items() if not phase.final)


async def _facts(services: Services) -> ClusterFacts:
    """An absent API server must not keep clients from signing in."""
    try:
        return await services.cluster.facts()
    except PenstockError:
        return ClusterFacts(namespace=services.settings.kubernetes.namespace)


def _cluster(nodes: Sequence[NodeFacts]) -> bodies.ClusterStatus:
    up = [node for node in nodes if node.ready]
    free_cpu = [max(0, node.cpu_millis - max(node.cpu_millis_used, node.cpu_millis_requested)) for node in up]
    free_memory = [max(0, one.memory_bytes - max(one.memory_bytes_used, one.memory_bytes_requested)) for one in up]
    spare_cpu = [max(0, node.cpu_millis - node.cpu_millis_requested) for node in up]
    spare_memory = [max(0, node.memory_bytes - node.memory_bytes_requested) for node in up]
    return bodies.ClusterStatus(
        nodes_count=len(nodes),
        metrics=bodies.ClusterMetrics(
            cpu=bodies.CpuMetrics(
                total_free_cores=sum(free_cpu),
                max_free_on_node_cores=max(free_cpu, default=0),
                total_schedulable_cores=sum(spare_cpu),
                total_schedulable_on_node_cores=max(spare_cpu, default=0),
            ),
            memory=bodies.MemoryMetrics(
                total_free_bytes=sum(free_memory),
                max_free_on_node_bytes=max(free_memory, default=0),
                total_schedulable_bytes=sum(spare_memory),
                max_schedulable_on_node_bytes=max(spare_memory, default=0),
            ),
            gpu=bodies.GpuMetrics(total_gpu=sum(node.gpus for node in up)),
        ),
        nodes=tuple(map(_node, nodes)),
    )


def _node(node: NodeFacts) -> bodies.Node:
    return bodies.Node(
        name=node.name,
        cpu=bodies.NodeCpu(
            capacity_cores=node.cpu_millis, usage_cores=node.cpu_millis_used, request_cores=node.cpu_millis_requested
        ),
        memory=bodies.NodeMemory(
            capacity_bytes=node.memory_bytes,
            usage_bytes=node.memory_bytes_used,
            request_bytes=node.memory_bytes_requested,
        ),
        gpu=node.gpus,
        is_interlink=node.virtual,
        status="Ready" if node.ready else "NotReady",
        conditions=tuple(bodies.Condition(type=kind, status=value) for kind, value in node.conditions),
    )
