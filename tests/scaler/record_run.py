"""`python -m tests.scaler.record_run FILE`: a load on a real API server and scheduler, recorded as a trace.

KWOK plays the kubelets: a pod runs for as long as its annotation says. The load is made up (seed 1): waves of pods with
lognormal run times, more than the nodes hold at once, so that pods also wait.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random
from typing import NamedTuple

from penstock.adapters.kubernetes import from_kubeconfig
from scaler.simulate.record import record
from tests.testbed.bed import Bed
from tests.testbed.kube_api import Json, KubeApi

STAGE = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-runs-as-told}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: '.metadata.deletionTimestamp', operator: DoesNotExist}
    - {key: '.status.phase', operator: In, values: [Running]}
    - {key: '.metadata.annotations["run"]', operator: Exists}
  delay:
    durationMilliseconds: 1000
    durationFrom: {expressionFrom: '.metadata.annotations["run"]'}
  next:
    statusTemplate: |
      {{ $now := Now }}
      phase: Succeeded
      containerStatuses:
      {{ range $index, $item := .spec.containers }}
      - name: {{ $item.name | Quote }}
        image: {{ $item.image | Quote }}
        ready: false
        restartCount: 0
        state: {terminated: {exitCode: 0, reason: Completed, finishedAt: {{ $now | Quote }}}}
      {{ end }}
"""


class Planned(NamedTuple):
    at_s: float
    run_s: float
    cpu: int


def waves(seconds: float, *, count: int, seed: int = 1) -> list[Planned]:
    """Pods in four waves over so many seconds, the last third of each wave quiet."""
    rng = Random(seed)
    each = seconds / 4
    planned = [
        Planned(
            wave * each + rng.random() * each * 2 / 3, min(60.0, rng.lognormvariate(2.3, 0.8)), rng.choice([1, 1, 2, 4])
        )
        for wave in range(4)
        for _ in range(count // 4)
    ]
    return sorted(planned)


def pod(number: int, planned: Planned) -> Json:
    requests = {"cpu": str(planned.cpu), "memory": f"{2 * planned.cpu}Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"load-{number}", "annotations": {"run": f"{planned.run_s:.3f}s"}},
        "spec": {
            "nodeSelector": {"type": "kwok"},
            "restartPolicy": "Never",
            "containers": [{"name": "work", "image": "none", "resources": {"requests": requests}}],
        },
    }


async def submit(api: KubeApi, planned: list[Planned]) -> None:
    """Create each pod in its time and wait until all have ended."""
    began = asyncio.get_running_loop().time()
    for number, one in enumerate(planned):
        await asyncio.sleep(max(0.0, began + one.at_s - asyncio.get_running_loop().time()))
        await api.create("/api/v1/namespaces/default/pods", pod(number, one))

    async def all_ended() -> bool:
        pods = (await api.get("/api/v1/namespaces/default/pods"))["items"]
        return len(pods) >= len(planned) and all(entry["status"].get("phase") == "Succeeded" for entry in pods)

    await api.until("all pods have ended", all_ended, seconds=900, pause=1)


async def run(bed: Bed, target: Path, planned: list[Planned], *, nodes: int) -> int:
    """Put the load on a bed of its own and record it; returns the number of jobs recorded."""
    stage = bed.folder / "runs.yaml"
    stage.write_text(STAGE)
    bed.kwok.stages.append(stage)
    await bed.kwok.start()
    await bed.kwok.add_nodes(nodes)
    stop = asyncio.Event()
    recording = asyncio.create_task(
        record(from_kubeconfig(bed.kubernetes.kubeconfig), target, seconds=3600, namespace="default", stop=stop)
    )
    async with bed.kubernetes.api() as api:
        await submit(api, planned)
        # The recorder hears of the last ones a moment later than the list tells them.
        await asyncio.sleep(2)
    stop.set()
    return await recording


async def main() -> None:
    async with Bed() as bed:
        jobs = await run(bed, Path(sys.argv[1]), waves(180, count=160), nodes=5)
    sys.stdout.write(f"{jobs} jobs\n")


if __name__ == "__main__":
    asyncio.run(main())
