"""KWOK: a thousand nodes that the real scheduler and Job controller take for real."""

from __future__ import annotations

import pytest

from tests.components.helpers import job, until
from tests.testbed.kube_api import ApiError
from tests.testbed.kwok import Kwok, ready_nodes

pytestmark = pytest.mark.components

NODES = 1000
JOBS = "/apis/batch/v1/namespaces/default/jobs"


async def test_a_thousand_nodes_are_ready_and_run_a_job(kwok: Kwok) -> None:
    names = await kwok.add_nodes(NODES)
    async with kwok.bed.kubernetes.api() as api:
        assert len(await ready_nodes(api) & set(names)) == NODES
        document = job("on-kwok", "image", "true")
        document["spec"]["template"]["spec"]["nodeSelector"] = {"type": "kwok"}
        await api.create(JOBS, document)

        async def complete() -> bool:
            return bool((await api.get(f"{JOBS}/on-kwok"))["status"].get("succeeded") == 1)

        await until("the Job is complete", complete, 60)
        (pod,) = (await api.get("/api/v1/namespaces/default/pods", labelSelector="app=on-kwok"))["items"]
        assert pod["spec"]["nodeName"] in names
        await api.delete(f"{JOBS}/on-kwok")
        await kwok.remove_nodes(names)
        with pytest.raises(ApiError) as gone:
            await api.get(f"/api/v1/nodes/{names[0]}")
        assert gone.value.status == 404


async def test_new_nodes_wait_for_a_stopped_kwok(kwok: Kwok) -> None:
    await kwok.kill()
    async with kwok.bed.kubernetes.api() as api:
        body = {
            "metadata": {"name": "late", "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "status": {"allocatable": {"cpu": "1"}, "capacity": {"cpu": "1"}},
        }
        await api.create("/api/v1/nodes", body)
        assert "late" not in await ready_nodes(api)
        await kwok.start()

        async def ready() -> bool:
            return "late" in await ready_nodes(api)

        await until("the late node is Ready", ready)
        await kwok.remove_nodes(["late"])
