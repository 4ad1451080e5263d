"""A real node: real containers, their logs through the API server, and what happens when it loses its power."""

from __future__ import annotations

import pytest

from tests.components.helpers import job, pod, until
from tests.testbed import Bed
from tests.testbed.images import BUSYBOX
from tests.testbed.kube_api import ApiError
from tests.testbed.kubernetes import NODE_NAME
from tests.testbed.node import Node

pytestmark = pytest.mark.components

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"


async def test_a_job_of_three_containers_runs_and_its_logs_are_read(node: Node) -> None:
    async with node.bed.kubernetes.api() as api:
        document = job("three", BUSYBOX, "echo from zero", "echo from one", "echo from two")
        await api.create(JOBS, document)

        async def complete() -> bool:
            return bool((await api.get(f"{JOBS}/three"))["status"].get("succeeded") == 1)

        await until("the Job is complete", complete, 60)
        (found,) = (await api.get(PODS, labelSelector="app=three"))["items"]
        assert found["spec"]["nodeName"] == NODE_NAME
        name = found["metadata"]["name"]
        logs = [await api.logs("default", name, f"c{number}") for number in range(3)]
        await api.delete(f"{JOBS}/three")
    assert logs == ["from zero\n", "from one\n", "from two\n"]


async def test_an_exit_code_and_a_memory_limit_are_honoured(node: Node) -> None:
    greedy = pod("greedy", BUSYBOX, "x=x; while :; do x=$x$x; done")
    greedy["spec"]["containers"][0]["resources"] = {"limits": {"memory": "20Mi"}}
    async with node.bed.kubernetes.api() as api:
        seven = await node.run_pod(api, pod("seven", BUSYBOX, "exit 7"))
        killed = await node.run_pod(api, greedy)
        for name in ("seven", "greedy"):
            await api.delete(f"{PODS}/{name}", grace=0)
    assert seven["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7
    ended = killed["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


async def test_a_pod_reaches_a_server_of_the_bed(node: Node) -> None:
    await node.bed.minio.start()
    url = await node.bed.minio.url_for_pods()
    host, port = url.removeprefix("http://").split(":")
    ask = f"printf 'GET /minio/health/live HTTP/1.0\\r\\nHost: minio\\r\\n\\r\\n' | nc {host} {port}"
    async with node.bed.kubernetes.api() as api:
        await node.run_pod(api, pod("asks", BUSYBOX, ask))
        said = await api.logs("default", "asks", "c0")
        await api.delete(f"{PODS}/asks", grace=0)
    assert said.startswith("HTTP/1.0 200 OK")


async def test_power_loss_ends_pods_and_the_node_comes_back(fault_bed: Bed) -> None:
    node = fault_bed.node
    await node.start()
    cluster = fault_bed.kubernetes
    document = pod("lasting", BUSYBOX, "trap 'exit 0' TERM; echo started; while :; do sleep 1; done")
    document["spec"]["restartPolicy"] = "Always"
    async with cluster.api() as api:
        before = await node.start_pod(api, document)
        await node.kill()
        await node.start()

        async def restarted() -> bool:
            status = (await api.get(f"{PODS}/lasting"))["status"]["containerStatuses"][0]
            return bool(status["ready"]) and status["restartCount"] > 0

        await until("the pod was started again", restarted, 90)
        after = await api.get(f"{PODS}/lasting")
        assert after["metadata"]["uid"] == before["metadata"]["uid"]

        # With the wire between node and API server cut, nothing new is started until it is mended.
        await node.cut()
        await api.create(PODS, pod("waits", BUSYBOX, "true"))
        with pytest.raises(ApiError):
            await api.get(f"{PODS}/waits/nothing")
        await node.mend()

        async def done() -> bool:
            return bool((await api.get(f"{PODS}/waits"))["status"]["phase"] == "Succeeded")

        await until("the pod has run", done, 60)

        await node.fill()
        full = await node.run_pod(api, pod("full", BUSYBOX, "dd if=/dev/zero of=/tmp/x bs=1M count=8"))
        assert full["status"]["phase"] == "Failed"
        await node.drain()
