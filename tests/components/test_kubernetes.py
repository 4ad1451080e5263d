"""The control plane: Jobs become pods, rights are checked, and each of its programs can be injured alone."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.components.helpers import job, until
from tests.testbed import Bed, BedError
from tests.testbed.building import Words, output_of
from tests.testbed.kube_api import ApiError
from tests.testbed.kubernetes import KUBECONFIG_VARIABLE, Kubernetes
from tests.testbed.links import Cut
from tests.testbed.lookup import obtain

pytestmark = pytest.mark.components

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"


async def test_a_job_gets_its_pod(kubernetes: Kubernetes) -> None:
    async with kubernetes.api() as api:
        await api.create(JOBS, job("made", "image", "true"))

        async def has_pod() -> bool:
            return bool((await api.get(PODS, labelSelector="app=made"))["items"])

        await until("the Job has a pod", has_pod)
        with pytest.raises(ApiError) as refused:
            await api.create(JOBS, job("made", "image", "true"))
        assert refused.value.status == 409
        await api.delete(f"{JOBS}/made")


async def test_somebody_without_rights_is_refused(kubernetes: Kubernetes) -> None:
    async with kubernetes.api("nobody") as api:
        with pytest.raises(ApiError) as refused:
            await api.get(PODS)
    assert refused.value.status == 403


async def test_kubectl_works_with_its_kubeconfig(kubernetes: Kubernetes) -> None:
    words = ["get", "namespaces", "-o", "name"]
    argv: Words = [obtain("kubectl"), "--kubeconfig", kubernetes.kubeconfig, *words]
    told = await asyncio.to_thread(output_of, argv)
    assert "namespace/default" in told.split()


async def test_a_watch_tells_about_what_is_created(kubernetes: Kubernetes) -> None:
    async with kubernetes.api() as api:
        version = (await api.get(MAPS))["metadata"]["resourceVersion"]
        await api.create(MAPS, {"metadata": {"name": "watched"}})
        events = api.watch(MAPS, resourceVersion=version)
        async with asyncio.timeout(10):
            event = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        await api.delete(f"{MAPS}/watched")
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "watched")


async def test_an_existing_cluster_takes_its_place(kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KUBECONFIG_VARIABLE, str(kubernetes.kubeconfig))
    async with Bed() as other:
        await other.kubernetes.start()
        assert other.kubernetes.kubeconfig == kubernetes.kubeconfig
        async with other.kubernetes.api() as api:
            assert (await api.get("/api/v1/namespaces/default"))["metadata"]["name"] == "default"
        with pytest.raises(BedError, match="was not started"):
            await other.kubernetes.kill()


async def test_every_fault_of_a_control_plane(fault_bed: Bed) -> None:
    cluster = fault_bed.kubernetes
    cluster.options.etcd_quota_mb = 16  # Quickly filled, and needs no disk of its own.
    await cluster.start()
    async with cluster.api() as api:
        await api.create(MAPS, {"metadata": {"name": "kept"}})

        await cluster.kill("kube-apiserver")
        with pytest.raises(aiohttp.ClientError):
            await api.get(f"{MAPS}/kept")
        await cluster.start()
        assert await api.get(f"{MAPS}/kept")

        await cluster.stop("kube-controller-manager")
        await api.create(JOBS, job("while-stopped", "image", "true"))
        await asyncio.sleep(1)  # Absence of work is only seen over time.
        assert (await api.get(PODS))["items"] == []
        await cluster.resume("kube-controller-manager")

        async def has_pod() -> bool:
            return bool((await api.get(PODS, labelSelector="app=while-stopped"))["items"])

        await until("the Job has a pod", has_pod)

        await cluster.slow(0.3)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await api.get(f"{MAPS}/kept")
        assert loop.time() - started >= 0.6
        await cluster.cut(Cut.REFUSE)
        with pytest.raises(aiohttp.ClientError):
            await api.get(f"{MAPS}/kept")
        await cluster.mend()
        assert await api.get(f"{MAPS}/kept")

        await cluster.fill()
        with pytest.raises(ApiError, match="space exceeded"):
            await api.create(MAPS, {"metadata": {"name": "refused"}})
        assert await api.get(f"{MAPS}/kept")
        await cluster.drain()
        assert await api.create(MAPS, {"metadata": {"name": "taken"}})

        await cluster.restart()
        assert await api.get(f"{MAPS}/kept")
    with pytest.raises(BedError, match="but no kube-nothing"):
        await cluster.kill("kube-nothing")
