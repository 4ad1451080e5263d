"""On the real API server and scheduler, with nodes that KWOK plays: nothing is lost, killed or made twice."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from scaler.model import Taint
from scaler.pools import Fleet
from tests.scaler.building import GIB, make_fleet, make_pool
from tests.scaler.cluster.whole import Life, Watcher, create_pods, delete_pods, life, until, watching
from tests.testbed.bed import Bed
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.kwok import Kwok
from tests.testbed.links import Cut

pytestmark = [pytest.mark.components, pytest.mark.slow]


def fleet_of(prefix: str, largest: int, **changes: Any) -> Fleet:
    fields: dict[str, Any] = {
        "driver": "kwok",
        "name_pattern": f"{prefix}-{{n}}",
        "max": largest,
        "resources": (("cpu", 32_000), ("memory", 64 * GIB), ("pods", 110)),
        "labels": (("penstock.test/scaled", "yes"),),
        "taints": (Taint("penstock.test/scaler"),),
        "idle_ms": 2_000,
        "boot_ms": 1_000,
        "boot_timeout_ms": 120_000,
        "stop_timeout_ms": 120_000,
    }
    return make_fleet(make_pool("scaled", **(fields | changes)))


@contextlib.asynccontextmanager
async def stage(
    kubernetes: Kubernetes, namespace: str, *, start: bool = True, **changes: Any
) -> AsyncIterator[tuple[Life, Watcher, KubernetesClient, Fleet]]:
    await kubernetes.make_namespace(namespace)
    config = kubernetes.kubeconfig
    fleet = fleet_of(namespace, **changes)
    client = KubernetesClient(from_kubeconfig(config))
    try:
        async with (
            watching(config, namespace=namespace, driver=namespace) as watcher,
            life(config, fleet, namespace=namespace, driver=namespace) as one,
        ):
            yield one, watcher, client, fleet
    finally:
        with contextlib.suppress(Exception):
            await delete_pods(client, namespace)
            await client.request(
                "DELETE", "/api/v1/nodes", params={"labelSelector": f"penstock.dev/driver={namespace}"}
            )
        await client.close()


async def test_a_few_nodes_come_for_pods_and_go_when_these_end(kubernetes: Kubernetes, kwok: Kwok) -> None:
    async with stage(kubernetes, "few", largest=5) as (one, watcher, client, _):
        await create_pods(client, "few", 70)
        await until("all pods run", lambda: len(watcher.bound) == 70)
        assert len(watcher.nodes) == 3
        await delete_pods(client, "few")
        await until("no node is left", lambda: not watcher.nodes)
        assert watcher.killed == []
        assert len(watcher.ever) == 3
        await until("no record is left", lambda: one.service.journal.state.nodes == ())


async def test_c13_a_disruption_budget_keeps_a_node_and_its_end_lets_it_go(kubernetes: Kubernetes, kwok: Kwok) -> None:
    """Two nodes with work; what is movable on the second goes to the first only when the budget allows it."""
    async with stage(kubernetes, "budget", largest=3) as (one, watcher, client, _):
        await create_pods(client, "budget", 20)
        await until("the first node works", lambda: len(watcher.bound) == 20)
        movable = {"metadata": {"name": "movable", "labels": {"app": "m"}}}
        movable["metadata"]["annotations"] = {"penstock.dev/evictable": "true"}
        await create_pods(client, "budget", 1, prefix="big", cpu="20")
        await until("the second node works", lambda: len(watcher.bound) == 21)
        second = next(node for uid, node in watcher.bound.items() if watcher.pods[uid].metadata.name == "big-0")
        tolerations = [{"key": "penstock.test/scaler", "operator": "Exists"}]
        spec = {"containers": [{"name": "m", "image": "none"}], "nodeName": second, "tolerations": tolerations}
        path = "/api/v1/namespaces/budget/pods"
        await client.send("POST", path, {"apiVersion": "v1", "kind": "Pod", **movable, "spec": spec})
        rule = {"minAvailable": 1, "selector": {"matchLabels": {"app": "m"}}}
        budgets = "/apis/policy/v1/namespaces/budget/poddisruptionbudgets"
        await client.send("POST", budgets, {"metadata": {"name": "keep"}, "spec": rule})

        async def budget_counts() -> bool:
            status = (await client.get(f"{budgets}/keep")).get("status", {})
            return bool(status.get("expectedPods") == 1)

        await until("the budget counts its pod", budget_counts)
        await client.request("DELETE", f"{path}/big-0", b'{"gracePeriodSeconds": 0}')
        await until("it is being evicted", lambda: bool(one.service._sender._evicting))
        assert second in watcher.nodes
        assert any(pod.metadata.name == "movable" for pod in watcher.pods.values())
        await client.request("DELETE", f"{budgets}/keep")
        await until("the second node is gone", lambda: second not in watcher.nodes)
        assert len(watcher.bound) == 20


async def test_c1_c3_the_api_server_is_cut_and_the_scaler_killed_and_nothing_is_lost_or_doubled(fault_bed: Bed) -> None:
    await fault_bed.start("kwok")
    kubernetes = fault_bed.kubernetes
    direct = kubernetes.kubeconfig_of("admin", kubernetes.direct_url)
    await kubernetes.make_namespace("cut")
    config, fleet = kubernetes.kubeconfig, fleet_of("cut", 12)
    client = KubernetesClient(from_kubeconfig(direct))
    one = Life(config, fleet, namespace="cut", driver="cut")
    try:
        async with watching(direct, namespace="cut", driver="cut") as watcher:
            one.start()
            await create_pods(client, "cut", 150)
            await until("nodes are being made", lambda: len(watcher.nodes) > 0)
            await kubernetes.cut(Cut.DROP)
            await one.kill()
            one = Life(config, fleet, namespace="cut", driver="cut")
            one.start()
            before = dict(watcher.nodes)
            await until("it waited in the dark", lambda: one.service.decisions == 0 and one.service.blocked() != "")
            assert watcher.nodes == before
            await kubernetes.mend()
            await until("all pods run", lambda: len(watcher.bound) == 150)
            assert len(watcher.nodes) == len(watcher.ever) == 5, "neither lost nor made twice"

            await kubernetes.cut(Cut.DROP)
            await delete_pods(client, "cut")
            await until("the view is known to be old", lambda: one.service.blocked() != "", seconds=120)
            assert len(watcher.nodes) == 5
            await kubernetes.mend()
            await until("all go when it sees again", lambda: not watcher.nodes)
            assert watcher.killed == []
            assert len(watcher.ever) == 5
    finally:
        await one.kill()
        await client.close()


async def test_a_hundred_nodes_for_three_thousand_pods_and_back(kubernetes: Kubernetes, kwok: Kwok) -> None:
    async with stage(kubernetes, "hundred", largest=100) as (one, watcher, client, _):
        await create_pods(client, "hundred", 3000)
        await until("all pods run", lambda: len(watcher.bound) == 3000, seconds=600)
        assert len(watcher.nodes) == 94
        one.client.asked.clear()
        await delete_pods(client, "hundred")
        await until("no node is left", lambda: not watcher.nodes, seconds=600)
        assert watcher.killed == []
        assert len(watcher.ever) == 94, "no node was made twice"
        asked = one.client.asked
        # Two to steer, two to cordon, two of the driver; its lists and the journal are shared.
        assert asked.total() < 94 * 10, asked
        # Each is looked at afresh, and those that are ready at the same time share a list.
        assert asked["GET pods"] <= 94 + 10, asked
