"""Whole pods on a real node: what only a container can show. Everything else of the handshake is in test_handshake."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from dispatcher.kubernetes import KubernetesRunner, StoreResults
from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.s3 import S3Store
from penstock.model import SYSTEM_BUCKET, BucketEvent, ErrorClass, JobPhase, JobPlan, JobStatus, Origin, Resources
from penstock.model.objects import log_key
from tests.kubernetes import bench
from tests.kubernetes.support import client, eventually, pods_path
from tests.process_runner.support import plan
from tests.testbed.images import PAUSE, PROJECT
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.minio import Minio
from tests.testbed.node import Node
from tests.testbed.node_images import Images

pytestmark = [pytest.mark.components, pytest.mark.slow]
COPY = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"'
_numbers = itertools.count()


class Cluster:
    """A runner in a namespace of the test's own, over the session's node and store."""

    def __init__(self, api: KubernetesClient, store: S3Store, namespace: str, runner: KubernetesRunner) -> None:
        self.api = api
        self.store = store
        self.namespace = namespace
        self.runner = runner
        self.watch = runner.watch()

    async def put(self, key: str, data: bytes = b"input") -> BucketEvent:
        return BucketEvent.of(await self.store.write("pictures", key, data), Origin.PUSH, hops=0)

    async def get(self, bucket: str, key: str) -> bytes:
        return b"".join([chunk async for chunk in self.store.read(bucket, key)])

    async def job(self, name: str, script: str, *keys: str, **changes: Any) -> JobPlan:
        made = plan(script, *[await self.put(key) for key in keys or (f"{name}.txt",)], name=name, **changes)
        return msgspec.structs.replace(made, function_uid="0" * 32)

    async def ended(self, *plans: JobPlan) -> dict[str, JobStatus]:
        for one in plans:
            await self.runner.submit(one)
        found: dict[str, JobStatus] = {}
        async with asyncio.timeout(240):
            while len(found) < len(plans):
                status = await anext(self.watch)
                if status.phase in {JobPhase.FINISHED, JobPhase.LOST}:
                    found[status.name] = status
        return found

    async def pod(self, job: str) -> dict[str, Any]:
        pods: list[dict[str, Any]] = (await self.api.get(pods_path(self.namespace)))["items"]
        return next(pod for pod in pods if pod["metadata"]["labels"]["penstock.dev/job"] == job)

    async def job_ends(self, name: str, how: str) -> None:
        """Until the Job itself says so: its controller sums up with a delay."""
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}"

        async def told() -> bool:
            return bool((await self.api.get(path))["status"].get(how) == 1)

        await eventually(told, seconds=60)

    async def running(self, job: str, key: str) -> None:
        """Until the script has put out its sign of life into the container's log."""
        async with asyncio.timeout(120):
            async for chunk in self.runner.log(job, key, follow=True):
                if chunk:
                    return


@pytest.fixture
async def cluster(kubernetes: Kubernetes, node: Node, images: Images, minio: Minio) -> AsyncIterator[Cluster]:
    await bench.prepare_node(kubernetes, node, images, minio)
    namespace = f"sidecar-{next(_numbers)}"
    async with client() as api, bench.emptied_store() as store:
        await bench.furnish(api, namespace)
        marks = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
        path = f"/api/v1/namespaces/{namespace}"
        await api.send("PATCH", path, marks, content_type="application/merge-patch+json")
        settings = bench.pod_settings(namespace, default_cpu_millis=50)
        runner = KubernetesRunner(client=api, settings=settings, results=StoreResults(store))
        try:
            await runner.start()
            yield Cluster(api, store, namespace, runner)
        finally:
            await runner.close()


async def test_jobs_end_as_their_items_ended(cluster: Cluster) -> None:
    found = await cluster.ended(
        await cluster.job("fine", f"{COPY}; echo fine"),
        await cluster.job("three", f"{COPY}; exit 3"),
        await cluster.job("slow", "sleep 1000", deadline_s=1),
        await cluster.job(
            "greedy", "echo eats; x=x; while :; do x=$x$x; done", resources=Resources(memory_bytes=2**25)
        ),
        await cluster.job("no-image", "true", image="penstock.test/never-made:1"),
        await cluster.job("no-shell", "true", image=PAUSE),
    )
    ends = {name: (status.results[0].error, status.results[0].exit_code) for name, status in found.items()}
    assert ends["fine"] == (None, 0)
    assert ends["three"] == (ErrorClass.SCRIPT, 3)
    assert ends["slow"] == (ErrorClass.DEADLINE, 124)
    assert ends["greedy"][0] is ErrorClass.OUT_OF_MEMORY
    assert ends["no-image"][0] is ErrorClass.UNSTARTABLE
    assert ends["no-shell"][0] is ErrorClass.UNSTARTABLE
    keys = [info.key async for page in cluster.store.list("results") for info in page]
    assert keys == ["out/fine.txt", "out/three.txt"]
    assert await cluster.get(SYSTEM_BUCKET, log_key("0" * 32, "fine-0", 1)) == b"fine\n"
    await cluster.job_ends("fine", "succeeded")
    await cluster.job_ends("three", "failed")
    users = (await cluster.pod("three"))["status"]["containerStatuses"]
    codes = {one["name"]: one["state"]["terminated"]["exitCode"] for one in users}
    assert codes == {"input": 0, "output": 0, "oscar-container": 3}


async def test_a_list_with_a_bad_item_and_a_cancelled_one(cluster: Cluster) -> None:
    script = f"case $INPUT_FILE_PATH in */07.txt) exit 9;; */00.txt) echo up; exec sleep 1000;; esac; {COPY}"
    made = await cluster.job("list", script, *(f"{number:02}.txt" for number in range(20)))
    await cluster.runner.submit(made)
    await cluster.running("list", "list-0")
    await cluster.runner.cancel("list", invocation="list-0", reason="not wanted")
    status = (await cluster.ended(made))["list"]
    errors = [result.error for result in status.results]
    assert errors == [ErrorClass.CANCELLED] + [None] * 6 + [ErrorClass.SCRIPT] + [None] * 12
    assert status.results[0].message == "not wanted"


@pytest.mark.parametrize("victim", ["oscar-container", "input", "output"])
async def test_a_killed_container_is_noticed(cluster: Cluster, node: Node, victim: str) -> None:
    made = await cluster.job("job", "echo up; exec sleep 1000", "0.txt", "1.txt", "2.txt", deadline_s=20)
    await cluster.runner.submit(made)
    await cluster.running("job", "job-0")
    pod = await cluster.pod("job")
    (status,) = [one for one in pod["status"]["containerStatuses"] if one["name"] == victim]
    await kill_container(node, status["containerID"].removeprefix("containerd://"))
    found = (await cluster.ended(made))["job"]
    errors = {result.invocation: result.error for result in found.results}
    if victim == "oscar-container":
        assert errors["job-0"] is ErrorClass.KILLED
    elif victim == "input":  # what was staged runs, to its deadline here; the rest is left to another pod
        assert errors == dict.fromkeys(("job-0", "job-1"), ErrorClass.DEADLINE)
    else:
        assert not errors
    assert found.phase is JobPhase.LOST
    await cluster.job_ends("job", "failed")


async def kill_container(node: Node, container: str) -> None:
    done = await node._ctr("--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", "--all", container)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("user", [0, 65532])
async def test_user_code_sees_no_credential_and_any_user_can_write(cluster: Cluster, user: int) -> None:
    """Environment, files, mounts and processes; as root and as somebody else, whatever the umask."""
    script = """umask 077; cd "$TMP_OUTPUT_DIR"; id -u >id; env >env; cat /proc/mounts >mounts; ls /proc >processes
        mkdir deep; find /oscar -type f >deep/files; ls -la /oscar /oscar/run >ls
        mv "$INPUT_FILE_PATH" "$INPUT_FILE_PATH.moved" """
    made = await cluster.job("look", script, secrets={"KEY": "mine"}, token="t" * 64)
    if user:
        # Our own image as a user's: it runs as this number. The sidecars have another one here.
        made = msgspec.structs.replace(made, image=PROJECT)
        cluster.runner = await restricted(cluster)
        cluster.watch = cluster.runner.watch()
    (result,) = (await cluster.ended(made))["look"].results
    assert (result.error, result.message) == (None, "")
    seen = {name: (await cluster.get("results", f"out/{name}")).decode() for name in ("id", "env", "mounts", "ls")}
    files = (await cluster.get("results", "out/deep/files")).decode().split()
    assert seen["id"].strip() == str(user)
    everything = "".join(seen.values())
    minio = bench.STORE[0][0]
    assert minio.password not in everything
    assert minio.user not in seen["env"]
    assert "PENSTOCK" not in seen["env"]
    assert "KEY=mine" in seen["env"]
    assert "/oscar/store" not in everything
    assert "/var/run/secrets" not in seen["mounts"]
    assert not [name for name in files if name.startswith(("/oscar/store", "/oscar/job"))]
    processes = (await cluster.get("results", "out/processes")).decode().split()
    assert len([name for name in processes if name.isdigit()]) < 8  # its own alone
    if user:
        await cluster.runner.close()


async def restricted(cluster: Cluster) -> KubernetesRunner:
    """A runner of a namespace that enforces the restricted profile."""
    namespace = f"{cluster.namespace}-restricted"
    await bench.furnish(cluster.api, namespace)
    marks = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    path = f"/api/v1/namespaces/{namespace}"
    await cluster.api.send("PATCH", path, marks, content_type="application/merge-patch+json")
    settings = bench.pod_settings(namespace, restricted=True, sidecar_uid=1234, default_cpu_millis=50)
    made = KubernetesRunner(client=cluster.api, settings=settings, results=StoreResults(cluster.store))
    await made.start()
    return made
