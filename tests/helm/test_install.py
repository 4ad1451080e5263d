"""The whole life of an installation on a real cluster: installed, tested, used, upgraded under load, taken away.

Real are the API server with its controllers, the scheduler, a node with containerd and the kubelet, cluster DNS, Kafka,
MinIO, and the image from the Dockerfile. It is one story, told in order, since each part needs the one before.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from penstock.client import Client
from penstock.errors import PenstockError
from tests.helm import digits_image
from tests.helm.release import FUNCTIONS, Release, load_minio
from tests.helm.rendering import ROOT
from tests.helm.test_parts import names
from tests.testbed.kafka import Kafka
from tests.testbed.kube_api import KubeApi
from tests.testbed.network import Network
from tests.testbed.node_images import Images

pytestmark = [pytest.mark.components, pytest.mark.slow]

PICTURES = 6
LOAD = 24
FINAL = {"succeeded", "failed", "dead", "cancelled", "superseded", "skipped"}
LOAD_FDL = """
functions:
  oscar:
  - penstock:
      name: load
      image: {image}
      cpu: 0.05
      memory: 32Mi
      script: load.sh
      input:
      - storage_provider: minio
        path: load/in
      output:
      - storage_provider: minio
        path: load/out
"""
LOAD_SH = '#!/bin/sh\ncp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"\n'


@pytest.fixture
async def bed_of_images(network: Network, images: Images, tmp_path: Path) -> Path:
    """Images on the node, and a folder with pictures of digits."""
    await images.project()
    await load_minio(network.bed, tmp_path)
    archive, pictures = await asyncio.to_thread(digits_image.make, tmp_path, pictures=PICTURES)
    await network.bed.node.load_image(archive)
    return pictures


@pytest.fixture
async def release(bed_of_images: Path, network: Network, kafka: Kafka, tmp_path: Path) -> AsyncIterator[Release]:
    values = {
        "bundled.kafka.enabled": "false",
        "settings.kafka.servers": str(await kafka.address_in_pods()),
        "settings.kafka.prefix": "install-",
        "dispatcher.replicas": "2",
    }
    release = Release(network.bed, tmp_path, "install", profile="trial", values=values)
    # Watcher, two dispatchers, gateway, MinIO, and the chart function's own.
    await release.prepare(6)
    yield release
    await clean(release)


@pytest.fixture
async def edge(bed_of_images: Path, network: Network, tmp_path: Path) -> AsyncIterator[Release]:
    release = Release(network.bed, tmp_path, "edge", profile="edge")
    await release.prepare(2)
    yield release
    await clean(release)


async def clean(release: Release) -> None:
    await release.helm("uninstall", release.name, "--wait", "--ignore-not-found")
    async with release.bed.kubernetes.api() as api:
        for one in (await api.get(f"/apis/penstock.dev/v1/namespaces/{FUNCTIONS}/functions"))["items"]:
            await api.delete(f"/apis/penstock.dev/v1/namespaces/{FUNCTIONS}/functions/{one['metadata']['name']}")
        for namespace in (release.namespace, FUNCTIONS):
            await api.delete(f"/api/v1/namespaces/{namespace}")

            async def gone(namespace: str = namespace) -> bool:
                there = {one["metadata"]["name"] for one in (await api.get("/api/v1/namespaces"))["items"]}
                return namespace not in there

            await api.until(f"the namespace {namespace} is gone", gone, seconds=180)
    await release.forget_volumes()


async def address(api: KubeApi, release: Release, service: str, port: int) -> str:
    found = await api.get(f"/api/v1/namespaces/{release.namespace}/services/p-penstock-{service}")
    return f"{found['spec']['clusterIP']}:{port}"


async def client_of(api: KubeApi, release: Release) -> Client:
    password = base64.b64decode((await release.secret(api, "p-penstock-admin"))["password"]).decode()
    return Client(f"http://{await address(api, release, 'gateway', 80)}", password)


async def store_of(api: KubeApi, release: Release) -> Minio:
    account = {
        name: base64.b64decode(value).decode() for name, value in (await release.secret(api, "p-penstock-s3")).items()
    }
    where = await address(api, release, "minio", 9000)
    return Minio(endpoint=where, access_key=account["access_key"], secret_key=account["secret_key"], secure=False)


async def ended(client: Client, function: str, count: int, *, seconds: float) -> list[Any]:
    """The invocations of a function once so many have ended."""
    last: list[Any] = []

    async def look() -> bool:
        nonlocal last
        try:
            last = list((await client.invocations(function=function, limit=1000)).invocations)
        except PenstockError:
            return False  # the gateway is being started anew
        return sum(one.phase in FINAL for one in last) >= count

    async with asyncio.timeout(seconds):
        while not await look():
            await asyncio.sleep(0.5)
    return last


async def test_from_install_to_uninstall(release: Release, bed_of_images: Path) -> None:
    await release.install()
    async with release.bed.kubernetes.api() as api:
        pods = await release.until_ready(api, {"watcher", "dispatcher", "gateway", "minio"})
        assert len(pods) == 5
        assert "result is right" in (await release.helm("test", release.name, "--logs", "--timeout", "8m")).stdout
        async with await client_of(api, release) as client:
            await digits(client, bed_of_images)
            await upgrade_under_load(api, release, client)
        await release.uninstall()
        await what_is_left(release, api)


async def digits(client: Client, pictures: Path) -> None:
    """The example of the documentation, chain and chart included."""
    folder = ROOT / "examples" / "digits"
    text = (folder / "digits.yaml").read_text().replace("penstock-examples/digits", digits_image.NAME)
    await client.apply(text, {name: (folder / name).read_text() for name in ("classify.sh", "chart.sh")})
    shown = await asyncio.to_thread(lambda: sorted(pictures.glob("*.png")))
    for picture in shown:
        await client.put("digits", f"in/{picture.name}", picture.read_bytes())
    read = await ended(client, "digits-classify", len(shown), seconds=300)
    assert Counter(one.phase for one in read) == {"succeeded": len(shown)}, read
    charted = await ended(client, "digits-chart", len(shown), seconds=300)
    assert Counter(one.phase for one in charted) == {"succeeded": len(shown)}, charted
    async with client.get("digits", "report/confusion.csv") as (_, chunks):
        table = b"".join([chunk async for chunk in chunks]).decode()
    assert table


async def upgrade_under_load(api: KubeApi, release: Release, client: Client) -> None:
    """Files keep coming while every pod of Penstock is replaced: each has one result, and each ran once."""
    await client.apply(LOAD_FDL.format(image="penstock.test/busybox:1"), {"load.sh": LOAD_SH})
    store = await store_of(api, release)
    before = {pod["metadata"]["uid"] for pod in await release.pods(api)}

    async def put(number: int) -> None:
        data = f"file {number}\n".encode()
        await asyncio.to_thread(store.put_object, "load", f"in/{number}.txt", io.BytesIO(data), len(data))

    for number in range(LOAD // 3):
        await put(number)
    changing = asyncio.create_task(release.upgrade({"settings.dispatcher.window": "128"}))
    for number in range(LOAD // 3, LOAD):
        await put(number)
        # Spread over the time that the upgrade takes.
        await asyncio.wait({changing}, timeout=0.5)
    await changing
    await release.until_ready(api, {"watcher", "dispatcher", "gateway", "minio"})
    after = {pod["metadata"]["uid"] for pod in await release.pods(api)}
    # All but MinIO, of which nothing changed, and the test's own.
    assert len(before & after) <= 2
    done = await ended(client, "load", LOAD, seconds=400)
    assert Counter(one.key for one in done) == {f"in/{number}.txt": 1 for number in range(LOAD)}
    assert {one.phase for one in done} == {"succeeded"}, [one for one in done if one.phase != "succeeded"]
    found = await asyncio.to_thread(lambda: list(store.list_objects("load", prefix="out/")))
    # Beside them lies the marker of the folder, which the platform makes for OSCAR's clients.
    files = {str(one.object_name) for one in found if not str(one.object_name).endswith("/")}
    assert files == {f"out/{number}.txt" for number in range(LOAD)}


async def what_is_left(release: Release, api: KubeApi) -> None:
    """The definition of functions and the functions, credentials, and the volume of the object store."""
    left = await names(release, release.namespace)
    assert left["persistentvolumeclaims"] == {"data-p-penstock-minio-0"}
    assert left["secrets"] == {"p-penstock-admin", "p-penstock-s3", "p-penstock-webhook"}
    # Of `helm test`, whose log is read after it has ended.
    assert left["pods"] == {"p-penstock-test"}
    assert set(left) == {"persistentvolumeclaims", "secrets", "pods"}
    functions = (await api.get(f"/apis/penstock.dev/v1/namespaces/{FUNCTIONS}/functions"))["items"]
    assert {one["metadata"]["name"] for one in functions} >= {"digits-classify", "digits-chart", "load"}


async def test_the_edge_is_one_pod_that_does_it_all(edge: Release) -> None:
    await edge.install()
    async with edge.bed.kubernetes.api() as api:
        pods = await edge.until_ready(api, {"edge", "minio"})
        assert len(pods) == 2
        assert "result is right" in (await edge.helm("test", edge.name, "--logs", "--timeout", "8m")).stdout
        await edge.uninstall()
        left = await names(edge, edge.namespace)
        assert left["persistentvolumeclaims"] == {"data-p-penstock-minio-0", "state-p-penstock-edge-0"}
        assert left["pods"] == {"p-penstock-test"}
        assert set(left) == {"persistentvolumeclaims", "secrets", "pods"}
