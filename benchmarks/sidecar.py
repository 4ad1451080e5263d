"""What the platform adds to a Job inside its pod: processor time of both sidecars, time of a Job, cost of a long log.

The first and the last are measured with the two programs and the launcher as processes against a real MinIO, where the
kernel accounts each one exactly; the Job as a whole on a real node, beside the same three containers with plain shell.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import Report, main, median
from dispatcher.kubernetes import files, manifest
from penstock.adapters.kubernetes import KubernetesClient
from penstock.errors import NotFound
from penstock.model import BucketEvent, JobPlan, Origin
from tests.kubernetes import bench
from tests.kubernetes.support import client, post
from tests.process_runner.support import plan as make_plan
from tests.sidecar.pods import LocalPod, Shop, opened_shop
from tests.testbed.bed import Bed
from tests.testbed.lookup import obtain

TRIVIAL = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"'
LINE = "x" * 99
TALK = f"yes {LINE} | head -n 100000"


def run(report: Report) -> None:
    asyncio.run(_run(report))


async def _run(report: Report) -> None:
    async with Bed() as bed:
        await bed.start("minio")
        with tempfile.TemporaryDirectory() as folder:
            async with opened_shop(bed.minio, "bench") as shop:
                await _processor_time(report, shop, Path(folder), 5 if report.small else 25)
                await _long_log(report, shop, Path(folder), 3 if report.small else 9)
        report.add("image_mb", obtain("project-image").stat().st_size / 1e6, "MB", beside="the archive, not compressed")
        await bed.start("node", "images")
        await bench.prepare_node(bed.kubernetes, bed.node, bed.images, bed.minio)
        await _jobs(report, 3 if report.small else 7)


async def _pod(shop: Shop, folder: Path, name: str, script: str) -> LocalPod:
    event = await shop.put(f"{name}.txt")
    return LocalPod(folder / name, shop, shop.plan(event, name=name), script)


async def _processor_time(report: Report, shop: Shop, folder: Path, times: int) -> None:
    spent: dict[str, list[float]] = {"input": [], "output": []}
    for number in range(times):
        pod = await _pod(shop, folder, f"cpu-{number}", TRIVIAL)
        pod.start()
        for name, values in spent.items():
            _, status, usage = os.wait4(pod.processes[name].pid, 0)  # noqa: ASYNC222 - nothing else runs here
            assert status == 0, f"{name} ended with {status}"
            pod.processes[name].returncode = 0
            values.append((usage.ru_utime + usage.ru_stime) * 1000)
        pod.end()
    both = [sum(pair) for pair in zip(*spent.values(), strict=True)]
    told = ", ".join(f"{name} {median(values):.0f}" for name, values in spent.items())
    report.add("sidecars_cpu_ms", median(both), "ms", target="< 200", beside=f"{told}; best {min(both):.0f}")


async def _long_log(report: Report, shop: Shop, folder: Path, times: int) -> None:
    """10 MB of lines to the output against the same lines to nowhere."""
    took: dict[str, list[float]] = {"quiet": [], "talks": []}
    for number in range(times):
        for name, script in (("quiet", f"{TALK} >/dev/null"), ("talks", TALK)):
            pod = await _pod(shop, folder, f"log-{name}-{number}", script)
            began = time.perf_counter()
            pod.start()
            pod.end()
            took[name].append((time.perf_counter() - began) * 1000)
    quiet, talks = median(took["quiet"]), median(took["talks"])
    report.add(
        "log_10mb_extra_ms", talks - quiet, "ms", target="< 100", beside=f"{talks:.0f} with, {quiet:.0f} without"
    )


async def _jobs(report: Report, times: int) -> None:
    """One trivial Job at a time, from the POST to Complete, ours and plain ones in turn."""
    namespace = "bench-sidecar"
    settings = bench.pod_settings(namespace, default_cpu_millis=50)
    took: dict[str, list[float]] = {"ours": [], "plain": []}
    async with client() as api, bench.emptied_store() as store:
        await bench.furnish(api, namespace)
        for number in range(times):
            for kind, values in took.items():
                name = f"{kind}-{number}"
                event = BucketEvent.of(await store.write("pictures", f"{name}.txt", b"input"), Origin.PUSH, hops=0)
                made = msgspec.structs.replace(make_plan(TRIVIAL, event, name=name), function_uid="0" * 32)
                document = await _document(api, made, settings, plain=kind == "plain")
                values.append(await _complete(api, namespace, document))
    ours, plain = median(took["ours"]), median(took["plain"])
    report.add("job_s", ours, "s")
    report.add("plain_job_s", plain, "s", beside="the same three containers with plain shell")
    report.add("job_extra_s", ours - plain, "s", target="< 0.5")


async def _document(api: KubernetesClient, plan: JobPlan, settings: Any, *, plain: bool) -> dict[str, Any]:
    try:
        await api.get(
            f"/api/v1/namespaces/{settings.namespace}/configmaps/{manifest.files_name(manifest.common(plan))}"
        )
    except NotFound:
        await post(api, f"/api/v1/namespaces/{settings.namespace}/configmaps", files.function_files(plan, settings))
    document = manifest.job_manifest(plan, settings)
    if plain:
        for container in document["spec"]["template"]["spec"]["containers"]:
            container["command"] = ["/bin/sh", "-c", "exit 0"]
    return document


async def _complete(api: KubernetesClient, namespace: str, document: dict[str, Any]) -> float:
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    began = time.perf_counter()
    await post(api, path, document)
    async with asyncio.timeout(180):
        while True:
            status = (await api.get(f"{path}/{document['metadata']['name']}")).get("status", {})
            conditions = {one["type"] for one in status.get("conditions") or () if one["status"] == "True"}
            assert "Failed" not in conditions, document["metadata"]["name"]
            if "Complete" in conditions:
                return time.perf_counter() - began
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    main("sidecar", run)
