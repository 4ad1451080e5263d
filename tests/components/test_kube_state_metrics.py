"""kube-state-metrics: it tells of a pod that the control plane has."""

from __future__ import annotations

import uuid

import aiohttp
import pytest

from tests.components.helpers import until
from tests.testbed.kube_state_metrics import KubeStateMetrics
from tests.testbed.kubernetes import Kubernetes

pytestmark = pytest.mark.components


async def test_a_pod_without_a_node_is_told(kubernetes: Kubernetes, kube_state_metrics: KubeStateMetrics) -> None:
    name = f"told-{uuid.uuid4().hex[:8]}"
    nowhere = {"containers": [{"name": "c", "image": "none"}], "nodeSelector": {"there": "is-none"}}
    async with kubernetes.api() as api:
        await api.create("/api/v1/namespaces/default/pods", {"metadata": {"name": name}, "spec": nowhere})

        async def told() -> bool:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{kube_state_metrics.address}/metrics") as answer,
            ):
                lines = (await answer.text()).splitlines()
            found = [line for line in lines if line.startswith("kube_pod_status_phase{") and f'pod="{name}"' in line]
            return any('phase="Pending"' in line and line.endswith(" 1") for line in found)

        await until("the pod is told as Pending", told)
        await api.delete(f"/api/v1/namespaces/default/pods/{name}", grace=0)
