"""One real installation of the chart on the test bed: install, upgrade, look at its pods, uninstall.

The bed has no provisioner of volumes, so a release gets folders of the host as volumes, as an administrator without one
would prepare them. MinIO runs from an image that is made here of the bed's own program, because there is no registry.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.helm.rendering import CHART, Json, arguments, helm
from tests.testbed import images
from tests.testbed.bed import Bed
from tests.testbed.kube_api import ApiError, KubeApi
from tests.testbed.lookup import obtain
from tests.testbed.oci import Entry, layer, write_image

MINIO_IMAGE = "penstock.test/minio:1"
SECONDS = 300.0
FUNCTIONS = "penstock-functions"


async def load_minio(bed: Bed, folder: Path) -> None:
    """Give the node an image with the bed's MinIO program and nothing else."""
    program = await asyncio.to_thread(obtain("minio").read_bytes)
    target = folder / "minio.tar"
    content = layer([Entry("bin", folder=True), Entry("bin/minio", program), Entry("tmp", mode=0o1777, folder=True)])
    await asyncio.to_thread(write_image, target, MINIO_IMAGE, content, {"Cmd": ["/bin/minio"]})
    await bed.node.load_image(target)
    target.unlink()


#: Values that the bed needs and a user does not: its own images, which no registry has.
OF_THE_BED = {
    "image.repository": images.PROJECT.rpartition(":")[0],
    "image.tag": images.PROJECT.rpartition(":")[2],
    "bundled.minio.image": MINIO_IMAGE,
    "bundled.minio.command[0]": "/bin/minio",
}


@dataclass
class Release:
    bed: Bed
    folder: Path
    namespace: str
    profile: str = "default"
    values: Mapping[str, str] = field(default_factory=dict)
    name: str = "p"

    async def helm(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "KUBECONFIG": str(self.bed.kubernetes.kubeconfig), "HOME": str(self.folder)}
        argv = [str(helm()), *words, "--namespace", self.namespace]
        done = await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, env=env, timeout=900, check=False
        )
        assert not check or done.returncode == 0, f"helm {' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    async def prepare(self, volumes: int) -> None:
        """Volumes that any claim may take."""
        async with self.bed.kubernetes.api() as api:
            for number in range(volumes):
                place = self.folder / f"volume-{number}"
                place.mkdir()
                self.folder.chmod(0o755)
                # Pods write here as the number of their own user.
                place.chmod(0o777)
                await api.create(
                    "/api/v1/persistentvolumes",
                    {
                        "metadata": {"name": f"{self.namespace}-{number}"},
                        "spec": {
                            "capacity": {"storage": "100Gi"},
                            "accessModes": ["ReadWriteOnce"],
                            "persistentVolumeReclaimPolicy": "Retain",
                            "hostPath": {"path": str(place)},
                        },
                    },
                )

    async def forget_volumes(self) -> None:
        async with self.bed.kubernetes.api() as api:
            for volume in (await api.get("/api/v1/persistentvolumes"))["items"]:
                if volume["metadata"]["name"].startswith(f"{self.namespace}-"):
                    await api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")

    async def install(self) -> subprocess.CompletedProcess[str]:
        given = arguments(self.profile, {**OF_THE_BED, **self.values})
        return await self.helm("install", self.name, str(CHART), "--create-namespace", *given)

    async def upgrade(self, values: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        given = arguments(self.profile, {**OF_THE_BED, **self.values, **values})
        return await self.helm("upgrade", self.name, str(CHART), *given)

    async def pods(self, api: KubeApi) -> list[Json]:
        found: list[Json] = (await api.get(f"/api/v1/namespaces/{self.namespace}/pods"))["items"]
        return found

    async def until_ready(self, api: KubeApi, components: set[str], *, seconds: float = SECONDS) -> list[Json]:
        """Wait until all pods of every workload are Ready, these among them; a failure says what each waits for."""

        async def check() -> bool:
            pods = [pod for pod in await self.pods(api) if component(pod) != "test"]
            there = {component(pod) for pod in pods}
            return components <= there and all(map(is_ready, pods)) and await self._settled(api)

        try:
            await api.until(f"all pods of {self.name} are Ready", check, seconds=seconds, pause=0.5)
        except Exception as error:
            raise AssertionError(f"{error}\n{await self.describe(api)}") from error
        return await self.pods(api)

    async def _settled(self, api: KubeApi) -> bool:
        base = f"/apis/apps/v1/namespaces/{self.namespace}"
        for kind in ("deployments", "statefulsets"):
            for one in (await api.get(f"{base}/{kind}"))["items"]:
                status, wanted = one["status"], one["spec"]["replicas"]
                fresh = status.get("observedGeneration", 0) >= one["metadata"]["generation"]
                updated = status.get("updatedReplicas", 0) == wanted
                if not (fresh and updated and status.get("readyReplicas", 0) == wanted):
                    return False
        return True

    async def describe(self, api: KubeApi) -> str:
        """What a person would look at: states, and the last lines of what is not Ready."""
        told = []
        for pod in await self.pods(api):
            name = pod["metadata"]["name"]
            told.append(f"{name}: {pod['status']['phase']} {'Ready' if is_ready(pod) else 'not Ready'}")
            if not is_ready(pod):
                told += [f"  {one.get('state')}" for one in pod["status"].get("containerStatuses", ())]
                told += [f"  {one.get('message', '')}" for one in pod["status"].get("conditions", ())]
                told.append(await self._tail(api, name, pod["spec"]["containers"][0]["name"]))
        return "\n".join(told)

    async def _tail(self, api: KubeApi, pod: str, container: str) -> str:
        try:
            return "\n".join((await api.logs(self.namespace, pod, container)).splitlines()[-15:])
        except ApiError as error:
            return f"  no log: {error}"

    async def uninstall(self) -> None:
        """Returns when its pods have ended too: Helm waits for what it made, not for those."""
        await self.helm("uninstall", self.name, "--wait")
        async with self.bed.kubernetes.api() as api:

            async def ended() -> bool:
                return all(component(pod) == "test" for pod in await self.pods(api))

            await api.until(f"the pods of {self.name} have ended", ended, seconds=SECONDS, pause=0.5)

    async def secret(self, api: KubeApi, name: str) -> dict[str, str]:
        found: dict[str, str] = (await api.get(f"/api/v1/namespaces/{self.namespace}/secrets/{name}"))["data"]
        return found


def component(pod: Json) -> str:
    return str(pod["metadata"]["labels"].get("app.kubernetes.io/component", ""))


def is_ready(pod: Json) -> bool:
    wanted = {"type": "Ready", "status": "True"}.items()
    return any(wanted <= condition.items() for condition in pod["status"].get("conditions", ()))
