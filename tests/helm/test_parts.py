"""A real installation, as far as it needs no work to flow: objects accepted, volumes bound, secrets kept, what stays.

The whole product is installed in `test_install`; this one is quick, and says more exactly what is wrong with a chart.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.helm.release import FUNCTIONS, Release, load_minio
from tests.testbed.kafka import Kafka
from tests.testbed.kube_api import ApiError
from tests.testbed.network import Network
from tests.testbed.node_images import Images

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.endurance]


@pytest.fixture
async def release(network: Network, images: Images, kafka: Kafka, tmp_path: Path) -> AsyncIterator[Release]:
    """The watcher with a bundled object store and the bed's Kafka."""
    bed = network.bed
    await images.project()
    await load_minio(bed, tmp_path)
    values = {
        "bundled.kafka.enabled": "false",
        "settings.kafka.servers": str(await kafka.address_in_pods()),
        "settings.kafka.prefix": "parts-",
        "dispatcher.enabled": "false",
        "gateway.enabled": "false",
    }
    release = Release(bed, tmp_path, "parts", profile="trial", values=values)
    await release.prepare(2)
    yield release
    await release.helm("uninstall", release.name, "--wait", "--ignore-not-found")
    async with bed.kubernetes.api() as api:
        for namespace in (release.namespace, FUNCTIONS):
            await api.delete(f"/api/v1/namespaces/{namespace}")

            async def gone(namespace: str = namespace) -> bool:
                names = {one["metadata"]["name"] for one in (await api.get("/api/v1/namespaces"))["items"]}
                return namespace not in names

            await api.until(f"the namespace {namespace} is gone", gone, seconds=120)
    await release.forget_volumes()


async def test_it_installs_keeps_its_secrets_and_leaves_what_it_says(release: Release) -> None:
    said = (await release.install()).stdout
    assert "helm test p --namespace parts" in said
    async with release.bed.kubernetes.api() as api:
        pods = await release.until_ready(api, {"watcher", "minio"})
        assert len(pods) == 2
        before = {name: await release.secret(api, f"p-penstock-{name}") for name in ("s3", "admin", "webhook")}
        assert all(
            len(base64.b64decode(before[name][key])) == 48
            for name, key in (("s3", "secret_key"), ("admin", "password"))
        )

        await release.upgrade({"settings.dispatcher.window": "100", "watcher.podAnnotations.changed": "yes"})
        await release.until_ready(api, {"watcher", "minio"})
        assert before == {name: await release.secret(api, f"p-penstock-{name}") for name in before}

        await release.uninstall()
        left = await names(release, "parts")
        assert left == {
            "secrets": {"p-penstock-admin", "p-penstock-s3", "p-penstock-webhook"},
            "persistentvolumeclaims": {"data-p-penstock-minio-0"},
        }
        assert (await api.get(f"/api/v1/namespaces/{FUNCTIONS}"))["status"]["phase"] == "Active"
        assert await names(release, FUNCTIONS) == {}
        await api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/functions.penstock.dev")
        for kind in ("flowschemas", "prioritylevelconfigurations"):
            found = (await api.get(f"/apis/flowcontrol.apiserver.k8s.io/v1/{kind}"))["items"]
            assert not [one for one in found if "penstock" in one["metadata"]["name"]]


async def test_a_pod_that_breaks_pod_security_is_refused_among_functions(release: Release) -> None:
    await release.install()
    pod = {"metadata": {"name": "host"}, "spec": {"hostNetwork": True, "containers": [{"name": "a", "image": "a:1"}]}}
    async with release.bed.kubernetes.api() as api:
        with pytest.raises(ApiError, match="violates PodSecurity"):
            await api.create(f"/api/v1/namespaces/{FUNCTIONS}/pods", pod)


async def names(release: Release, namespace: str) -> dict[str, set[str]]:
    """What is left in a namespace, by kind, without what Kubernetes itself puts into each."""
    places = {
        f"/api/v1/namespaces/{namespace}": (
            "configmaps",
            "secrets",
            "serviceaccounts",
            "services",
            "persistentvolumeclaims",
            "pods",
            "resourcequotas",
        ),
        f"/apis/apps/v1/namespaces/{namespace}": ("deployments", "statefulsets", "replicasets"),
        f"/apis/batch/v1/namespaces/{namespace}": ("jobs",),
        f"/apis/networking.k8s.io/v1/namespaces/{namespace}": ("networkpolicies", "ingresses"),
        f"/apis/policy/v1/namespaces/{namespace}": ("poddisruptionbudgets",),
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}": ("roles", "rolebindings"),
    }
    own = {"kube-root-ca.crt", "default"}
    left: dict[str, set[str]] = {}
    async with release.bed.kubernetes.api() as api:
        for base, kinds in places.items():
            for kind in kinds:
                found = {one["metadata"]["name"] for one in (await api.get(f"{base}/{kind}"))["items"]} - own
                if found:
                    left[kind] = found
    return left
