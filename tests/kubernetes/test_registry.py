"""Functions in the cluster beyond the port's contract: what kubectl shows and takes, and where secrets are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from penstock.adapters.kubernetes import FunctionState, KubernetesClient, KubernetesRegistry
from penstock.adapters.kubernetes.trouble import NamespaceMissing, Refused
from penstock.errors import InvalidInput, NotFound
from penstock.fdl.service import LONGEST_NAME
from penstock.model import Batch, BatchMode, Function, Resources, StorageIO, Volume
from penstock.ports import ChangeKind
from tests.kubernetes.support import eventually, exists
from tests.testbed.building import Words, output_of
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.lookup import obtain

pytestmark = pytest.mark.components

FULL = Function(
    name="classify",
    image="busybox",
    script="#!/bin/sh\n",
    inputs=(StorageIO(provider="minio", bucket="in", suffix=(".png",)),),
    environment={"A": "ünï"},
    secrets={"KEY": "s3cret-value"},
    resources=Resources(cpu_millis=1500, memory_bytes=2**31, gpu=True),
    batch=Batch(mode=BatchMode.LIST, max_items=5, linger_s=0.5),
    volume=Volume(name="v", mount_path="/v"),
    definition={"name": "classify", "nested": {"a": [1, None, 2.5, True, "x"], "empty": {}}},
)


@pytest.fixture
async def registry(api: KubernetesClient, namespace: str) -> AsyncIterator[KubernetesRegistry]:
    made = KubernetesRegistry(api, namespace=namespace)
    yield made
    await made.close()


def functions(namespace: str) -> str:
    return f"/apis/penstock.dev/v1/namespaces/{namespace}/functions"


async def test_no_secret_is_in_the_resource_and_the_secret_goes_with_it(
    registry: KubernetesRegistry, api: KubernetesClient, namespace: str
) -> None:
    made = await registry.create(FULL)
    assert await registry.get("classify") == made
    text = json.dumps(await api.get(f"{functions(namespace)}/classify"))
    assert "s3cret-value" not in text
    assert made.token not in text
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    (secret,) = (await api.get(secrets))["items"]
    assert secret["metadata"]["ownerReferences"][0]["name"] == "classify"
    # By kubectl, behind the registry's back: the cluster itself collects the Secret.
    await api.request("DELETE", f"{functions(namespace)}/classify")

    async def gone() -> bool:
        return not (await api.get(secrets))["items"]

    # The cluster's collector looks for new kinds of resources twice a minute, and waits longer after each failure.
    await eventually(gone, seconds=120)


async def test_only_a_change_of_secrets_makes_a_new_secret(
    registry: KubernetesRegistry, api: KubernetesClient, namespace: str
) -> None:
    async def names() -> list[str]:
        return [
            item["metadata"]["name"] for item in (await api.get(f"/api/v1/namespaces/{namespace}/secrets"))["items"]
        ]

    await registry.create(FULL)
    first = await names()
    await registry.replace(FULL)
    assert await names() == first
    changed = Function(name="classify", secrets={"KEY": "other"})
    assert (await registry.replace(changed)).secrets == {"KEY": "other"}
    second = await names()
    assert len(second) == 1
    assert second != first


async def test_kubectl_shows_the_state(kubernetes: Kubernetes, registry: KubernetesRegistry, namespace: str) -> None:
    made = await registry.create(FULL)
    revision = await registry.revision()
    await registry.report("classify", FunctionState(state="Waiting", message="no room", queued=12, running=3, failed=1))
    await registry.report("nobody", FunctionState())
    assert await registry.get("classify") == made
    assert await registry.revision() == revision
    argv: Words = [obtain("kubectl"), "--kubeconfig", kubernetes.kubeconfig, "-n", namespace, "get", "functions"]
    head, row = (await asyncio.to_thread(output_of, argv)).splitlines()
    assert head.split() == ["NAME", "STATE", "QUEUED", "RUNNING", "FAILED", "AGE"]
    assert row.split()[:5] == ["classify", "Waiting", "12", "3", "1"]


async def test_a_function_written_by_hand_is_one(
    registry: KubernetesRegistry, api: KubernetesClient, namespace: str
) -> None:
    spec = {"image": "busybox", "script": "true", "inputs": [{"bucket": "in", "folder": "a"}], "retries": 2}
    body = {"apiVersion": "penstock.dev/v1", "kind": "Function", "metadata": {"name": "mine"}, "spec": spec}
    async with aclosing(registry.watch()) as watch:  # type: ignore[type-var]
        assert (await anext(watch)).kind is ChangeKind.SYNCED
        await api.send("POST", functions(namespace), body)
        change = await asyncio.wait_for(anext(watch), 30)
    assert change.function is not None
    assert (change.function.name, change.function.retries, change.function.token) == ("mine", 2, "")
    assert change.function.inputs == (StorageIO(provider="minio", bucket="in", folder="a"),)
    assert change.function.start_ms == change.function.created_ms > 0
    adopted = await registry.adopt("mine")
    assert len(adopted.token) == 64
    assert await registry.adopt("mine") == adopted
    assert (await registry.list()) == [adopted]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"retries": -1}, "retries"),
        ({"limits": {"priority": 500}}, "priority"),
        ({"inputs": [{"folder": "x"}]}, "bucket"),
        ({"batch": {"mode": "many"}}, "mode"),
        ({"environment": {"A": 1}}, "environment"),
    ],
)
async def test_the_schema_refuses_what_is_no_function(
    api: KubernetesClient, namespace: str, spec: dict[str, Any], words: str
) -> None:
    body = {"apiVersion": "penstock.dev/v1", "kind": "Function", "metadata": {"name": "bad"}, "spec": spec}
    with pytest.raises(Refused, match=words):
        await api.send("POST", functions(namespace), body)


@pytest.mark.parametrize("name", ["a" * (LONGEST_NAME + 1), "a" * 63, "a" * 253, "two.parts", "a.b"])
async def test_a_name_that_no_client_could_deploy_is_refused_with_the_rule(
    api: KubernetesClient, registry: KubernetesRegistry, namespace: str, name: str
) -> None:
    body = {"apiVersion": "penstock.dev/v1", "kind": "Function", "metadata": {"name": name}, "spec": {"script": "true"}}
    words = f"metadata.name: .*the name of a function is 1 to {LONGEST_NAME} lower-case letters, digits and hyphens"
    with pytest.raises(Refused, match=words):
        await api.send("POST", functions(namespace), body)
    with pytest.raises(InvalidInput, match=words if len(name) <= 63 else "metadata.name"):
        await registry.create(Function(name=name, script="true"))
    assert await registry.list() == []
    assert (await api.get(f"/api/v1/namespaces/{namespace}/secrets"))["items"] == []


@pytest.mark.parametrize("name", ["a", "a" * LONGEST_NAME, "9-a"])
async def test_every_name_that_clients_may_use_is_taken(registry: KubernetesRegistry, name: str) -> None:
    made = await registry.create(Function(name=name, script="true"))
    assert await registry.get(name) == made
    assert (await registry.replace(Function(name=name, script="false"))).script == "false"


async def test_what_is_too_large_or_has_no_name_is_refused_and_leaves_nothing(
    registry: KubernetesRegistry, api: KubernetesClient, namespace: str
) -> None:
    with pytest.raises(InvalidInput, match="too large"):
        await registry.create(Function(name="big", script="x" * 2**20))
    with pytest.raises(InvalidInput):
        await registry.create(Function(name="Not_A_Name"))
    assert await registry.list() == []
    # Nearly a mebibyte is fine.
    made = await registry.create(Function(name="large", script="x" * (2**20 - 4096)))
    assert await registry.get("large") == made


async def test_a_namespace_that_is_not_there_is_named(api: KubernetesClient) -> None:
    registry = KubernetesRegistry(api, namespace="never-made")
    with pytest.raises(NamespaceMissing, match="never-made"):
        await registry.create(FULL)
    with pytest.raises(NotFound, match="no function named classify"):
        await registry.get("classify")
    assert not await exists(api, "/api/v1/namespaces/never-made")
