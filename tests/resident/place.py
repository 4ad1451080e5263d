"""A gateway over a real node, with resident functions behind it: where tests and a benchmark run them synchronously."""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from dispatcher.sidecar.calls import frame
from penstock import settings as penstock_settings
from penstock.settings import Settings
from tests.kubernetes import bench
from tests.kubernetes.support import client, pods_path
from tests.oscar.test_production import Place, admin
from tests.resident.local import call
from tests.testbed.bed import Bed
from tests.testbed.images import BUSYBOX, PROJECT

ECHO = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/out"; echo said'
START_S = 180.0


class SyncPlace(Place):
    """A gateway whose pods find their images and their store account on the bed."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.sync: dict[str, Any] = {"idle_s": 3600, "look_s": 0.5, "start_timeout_s": START_S}

    def settings(self) -> Settings:
        settings = super().settings()
        settings = penstock_settings.override(settings, "gateway", oidc_issuers="")
        settings = penstock_settings.override(settings, "s3", pod_endpoint=bench.STORE[0][1])
        jobs = {
            "sidecar_image": PROJECT,
            "input_secret": bench.SECRET,
            "output_secret": bench.SECRET,
            "default_image": BUSYBOX,
            "default_cpu_millis": 20,
            "default_memory_mib": 32,
        }
        settings = settings.model_copy(update={"jobs": settings.jobs.model_copy(update=jobs)})
        return penstock_settings.override(settings, "sync", backend="resident", **self.sync)


@asynccontextmanager
async def placed(bed: Bed, folder: Path) -> AsyncIterator[SyncPlace]:
    """On a bed whose servers and node run."""
    await bench.prepare_node(bed.kubernetes, bed.node, bed.images, bed.minio)
    async with client() as api:
        made = SyncPlace(folder, bed.minio, bed.kafka, bed.kubernetes, f"sync-{time.time_ns() % 10**9}")
        await bench.furnish(api, made.namespace)
        try:
            yield made
        finally:
            # So that its pods leave the node to the next test.
            await api.request("DELETE", f"/api/v1/namespaces/{made.namespace}")


def service(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": BUSYBOX, "script": script, "cpu": "0.02", "memory": "32Mi", **more}


async def create(session: aiohttp.ClientSession, made: dict[str, Any], *, method: str = "POST") -> None:
    status, told = await admin(session).ask(method, "/system/services", made)
    assert status in {201, 204}, told


async def run(session: aiohttp.ClientSession, name: str, body: bytes = b"aGVsbG8=") -> tuple[int, bytes, Any]:
    # As OSCAR's clients label their base64.
    headers = {**admin(session)._headers, "Content-Type": "application/json"}
    async with session.post(f"/run/{name}", data=body, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


async def fine(session: aiohttp.ClientSession, name: str, body: bytes = b"aGVsbG8=") -> bytes:
    status, data, _ = await run(session, name, body)
    assert status == 200, data
    return data


async def pods(place: SyncPlace, *, ready: bool = False) -> list[dict[str, Any]]:
    async with client() as api:
        found = (await api.get(pods_path(place.namespace))).get("items") or []
    live = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    return [pod for pod in live if not ready or is_ready(pod)]


def is_ready(pod: dict[str, Any]) -> bool:
    wanted = {"type": "Ready", "status": "True"}.items()
    return any(wanted <= one.items() for one in pod["status"].get("conditions") or ())


async def parts(place: SyncPlace) -> str:
    """Where a start went, by the pod's own times."""
    (pod,) = await pods(place)
    states = {
        one["name"]: one["state"].get("running", {}).get("startedAt") for one in pod["status"]["containerStatuses"]
    }
    when = {one["type"]: one["lastTransitionTime"] for one in pod["status"]["conditions"]}
    return f"created {pod['metadata']['creationTimestamp']}, containers {states}, conditions {when}"


async def key_of(place: SyncPlace, name: str, session: aiohttp.ClientSession) -> str:
    async with client() as api:
        found = await api.get(
            f"/api/v1/namespaces/{place.namespace}/secrets", labelSelector="penstock.dev/kind=resident-key"
        )
    (secret,) = [one for one in found["items"] if name in one["metadata"]["name"]]
    return base64.b64decode(secret["data"]["token"]).decode()


async def warm(
    session: aiohttp.ClientSession, name: str, address: str, key: str, rounds: int = 40
) -> tuple[float, float]:
    """p50 of a run through the gateway and of the same run asked of the pod itself, in ms, in turns."""
    through: list[float] = []
    direct: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        await fine(session, name)
        through.append((time.perf_counter() - began) * 1000)
        data = frame(call(b"aGVsbG8=")) + b"aGVsbG8="
        began = time.perf_counter()
        async with session.post(f"{address}/run", data=data, headers={"Authorization": f"Bearer {key}"}) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        direct.append((time.perf_counter() - began) * 1000)
    return statistics.median(through), statistics.median(direct)
