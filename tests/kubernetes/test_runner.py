"""The runner on a real control plane, with pods that KWOK plays and our exit codes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.kubernetes import KubernetesRunner, StoreResults, result_key
from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from penstock.adapters.kubernetes.trouble import NamespaceMissing, QuotaExceeded, Refused
from penstock.errors import AlreadyExists, Closed, Forbidden, NotFound
from penstock.model import SYSTEM_BUCKET, ErrorClass, ItemResult, JobPhase, JobPlan, JobStatus, Volume
from tests.kubernetes import support
from tests.kubernetes.plans import UID, plan
from tests.kubernetes.playing import NODE, THERE, Kubelet, PlayedExits, ends
from tests.kubernetes.support import eventually, job_names, jobs_path, over, pods_path, post, until
from tests.process_runner.support import opened_store

pytestmark = pytest.mark.components


@pytest.fixture
async def runner(api: KubernetesClient, played: PlayedExits, namespace: str) -> AsyncIterator[KubernetesRunner]:
    async with support.runner(namespace, api=api, **THERE) as made:
        yield made


@pytest.fixture(autouse=True)
async def kubelet(api: KubernetesClient, namespace: str) -> AsyncIterator[None]:
    """Plays the pods of the test's namespace."""
    playing = asyncio.create_task(Kubelet(api, namespace).run(), name="kubelet")
    yield
    playing.cancel()
    await asyncio.wait({playing})


async def run(runner: KubernetesRunner, made: JobPlan) -> JobStatus:
    watch = runner.watch()
    try:
        await runner.submit(made)
        return await until(watch, over(made.name))
    finally:
        await watch.aclose()  # type: ignore[attr-defined]


async def only(runner: KubernetesRunner) -> JobStatus:
    (status,) = await runner.jobs()
    return status


async def phase_is(runner: KubernetesRunner, phase: JobPhase) -> None:
    async def so() -> bool:
        return (await only(runner)).phase is phase

    await eventually(so)


ENDS: list[tuple[int, str, ErrorClass | None]] = [
    (0, "", None),
    (7, "Error", ErrorClass.SCRIPT),
    (137, "OOMKilled", ErrorClass.OUT_OF_MEMORY),
    (137, "Error", ErrorClass.KILLED),
    (120, "Error", ErrorClass.STAGE_IN),
    (124, "Error", ErrorClass.DEADLINE),
]


@pytest.mark.parametrize("by", ["", "kwok"], ids=["ours", "kwok"])
async def test_an_exit_of_the_pod_is_the_end_of_its_items(runner: KubernetesRunner, by: str) -> None:
    for number, (code, reason, _) in enumerate(ENDS):
        await runner.submit(ends(f"ends-{number}", code, reason=reason, by=by, count=2))

    async def all_over() -> bool:
        return all(status.phase in {JobPhase.FINISHED, JobPhase.LOST} for status in await runner.jobs())

    await eventually(all_over, seconds=150)
    statuses = {status.name: status for status in await runner.jobs()}
    for number, (code, _, error) in enumerate(ENDS):
        status = statuses[f"ends-{number}"]
        assert status.phase is JobPhase.FINISHED
        assert [(result.error, result.exit_code) for result in status.results] == [(error, code)] * 2
        assert status.node == NODE
        assert all(result.started_ms > 0 for result in status.results)


async def test_the_same_plan_again_starts_nothing_and_another_is_refused(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    made = ends("twice")
    await run(runner, made)
    await runner.submit(made)
    assert (await only(runner)).phase is JobPhase.FINISHED
    with pytest.raises(AlreadyExists, match="taken by another plan"):
        await runner.submit(msgspec.structs.replace(made, script="false"))
    with pytest.raises(AlreadyExists):
        await runner.submit(ends("twice", count=2))
    # Another life, which knows nothing.
    async with support.runner(namespace, api=api, **THERE) as second:
        await second.submit(made)
        assert (await only(second)).phase is JobPhase.FINISHED
    assert await job_names(api, namespace) == ["twice"]


async def test_forgetting_frees_the_name(runner: KubernetesRunner, api: KubernetesClient, namespace: str) -> None:
    assert (await run(runner, ends("named"))).results[0].error is None
    await runner.forget("named")
    await runner.forget("named")
    assert await runner.jobs() == []
    with pytest.raises(NotFound):
        [chunk async for chunk in runner.log("named", "named-0")]
    assert (await run(runner, ends("named", 3))).results[0].exit_code == 3
    await runner.forget("named")
    assert await job_names(api, namespace) == []


async def test_a_new_life_takes_up_what_runs_long_lists_included(
    api: KubernetesClient, played: PlayedExits, namespace: str
) -> None:
    async with support.runner(namespace, api=api, inline_bytes=100, **THERE) as first:
        await first.submit(ends("held", hold=True, count=3))
        await first.submit(ends("short", 5))
        watch = first.watch()
        await until(watch, over("short"))
    assert [status async for status in watch] == []  # closing ended it
    async with support.runner(namespace, api=api, inline_bytes=100, **THERE) as second:
        statuses = {status.name: status for status in await second.jobs()}
        assert set(statuses) == {"held", "short"}
        await second.cancel("held", reason="enough")

        async def both_over() -> bool:
            return all(status.phase is JobPhase.FINISHED for status in await second.jobs())

        await eventually(both_over)
        statuses = {status.name: status for status in await second.jobs()}
        assert statuses["short"].results[0].exit_code == 5
        assert [(r.invocation, r.error, r.message) for r in statuses["held"].results] == [
            (f"held-{n}", ErrorClass.CANCELLED, "enough") for n in range(3)
        ]
        await second.forget("held")
        await second.forget("short")
        maps = await api.get(f"/api/v1/namespaces/{namespace}/configmaps", labelSelector="penstock.dev/kind=items")
        assert maps["items"] == []


@pytest.mark.parametrize("code", [0, 5])
async def test_of_a_job_that_ended_while_nobody_was_there_the_pod_is_found(
    api: KubernetesClient, played: PlayedExits, namespace: str, code: int
) -> None:
    """The list of Jobs says that it is over before the list of pods was even asked for."""
    async with support.runner(namespace, api=api, **THERE) as first:
        await first.submit(ends("alone", code))

    async def ended() -> bool:
        job = await api.get(f"{jobs_path(namespace)}/alone")
        return any(one["type"] in {"Complete", "Failed"} for one in job["status"].get("conditions") or ())

    await eventually(ended)
    async with support.runner(namespace, api=api, **THERE) as second:
        await phase_is(second, JobPhase.FINISHED)
        status = await only(second)
    assert [(result.exit_code, result.error) for result in status.results] == [
        (code, ErrorClass.SCRIPT if code else None)
    ]


async def test_a_cancelled_job_stays_cancelled_for_a_new_life(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    watch = runner.watch()
    await runner.submit(ends("gone", hold=True))
    await until(watch, lambda status: status.phase is JobPhase.RUNNING)
    await runner.cancel("gone", invocation="nobody")
    await runner.cancel("gone", invocation="gone-0", reason="not wanted")
    await runner.cancel("no-such-job")
    status = await until(watch, over("gone"))
    assert (status.phase, status.results[0].error) == (JobPhase.FINISHED, ErrorClass.CANCELLED)
    async with support.runner(namespace, api=api, **THERE) as second:
        await phase_is(second, JobPhase.FINISHED)
        assert (await only(second)).results[0].message == "not wanted"


async def test_one_item_of_a_list_is_cancelled_by_a_note_to_its_sidecars(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    watch = runner.watch()
    await runner.submit(ends("list", hold=True, count=3))
    await until(watch, lambda status: status.phase is JobPhase.RUNNING)
    await runner.cancel("list", invocation="list-1", reason="skip it")
    (pod,) = (await api.get(pods_path(namespace)))["items"]
    assert pod["metadata"]["annotations"]["penstock.dev/cancel"] == "list-1 skip it\n"
    assert (await only(runner)).phase is JobPhase.RUNNING
    await api.request("DELETE", f"{jobs_path(namespace)}/list", params={"propagationPolicy": "Background"})
    status = await until(watch, over("list"))
    assert status.phase is JobPhase.LOST
    assert [(r.invocation, r.error, r.message) for r in status.results] == [("list-1", ErrorClass.CANCELLED, "skip it")]


async def test_what_nobody_can_take_is_named_in_the_schedulers_words(
    api: KubernetesClient, played: PlayedExits, namespace: str
) -> None:
    async with support.runner(namespace, api=api, node_selector={"no": "where"}) as runner:
        watch = runner.watch()
        await runner.submit(plan("nowhere"))
        status = await until(watch, lambda status: bool(status.message), seconds=60)
        assert (status.phase, status.reason) == (JobPhase.PENDING, "Unschedulable")
        assert status.message.startswith("no node can take it: 0/")
        assert runner.pending == 1
        assert (await runner.room()).pending_jobs == 500


async def test_a_job_deleted_from_outside_is_lost(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    watch = runner.watch()
    await runner.submit(ends("taken", hold=True))
    await until(watch, lambda status: status.phase is JobPhase.RUNNING)
    await api.request("DELETE", f"{jobs_path(namespace)}/taken", params={"propagationPolicy": "Background"})
    status = await until(watch, over("taken"))
    assert (status.phase, status.results) == (JobPhase.LOST, ())
    assert "from outside" in status.message
    await runner.forget("taken")
    assert await runner.jobs() == []


async def test_a_pod_deleted_from_outside_is_lost(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    watch = runner.watch()
    await runner.submit(ends("robbed", hold=True))
    await until(watch, lambda status: status.phase is JobPhase.RUNNING)
    (pod,) = (await api.get(pods_path(namespace)))["items"]
    await api.request("DELETE", f"{pods_path(namespace)}/{pod['metadata']['name']}")
    status = await until(watch, over("robbed"))
    assert (status.phase, status.reason, status.results) == (JobPhase.LOST, "Deleted", ())


async def test_a_node_that_does_not_answer_loses_its_pods(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    watch = runner.watch()
    await runner.submit(ends("stranded", hold=True))
    await until(watch, lambda status: status.phase is JobPhase.RUNNING)
    (pod,) = (await api.get(pods_path(namespace)))["items"]
    path = f"{pods_path(namespace)}/{pod['metadata']['name']}"
    # What the taint manager writes when it gives up on a node, before it deletes the pod.
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "Taint"}

    async def noticed() -> bool:
        """Written again until it stands: the controllers write the same list."""
        seen = runner._board.entries["stranded"].pod
        if seen is not None and seen.condition("DisruptionTarget") is not None:
            return True
        conditions = [*(await api.get(path))["status"]["conditions"], taken]
        body = {"status": {"conditions": conditions}}
        await api.send("PATCH", f"{path}/status", body, content_type="application/merge-patch+json")
        return False

    await eventually(noticed)
    await api.request("DELETE", path)
    status = await until(watch, over("stranded"))
    assert (status.phase, status.reason) == (JobPhase.LOST, "DeletionByTaintManager")
    assert "its node does not answer" in status.message


# The outcomes of a submission


async def test_a_quota_parks_and_what_is_freed_can_be_used(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/jobs.batch": "1"}}}
    await post(api, f"/api/v1/namespaces/{namespace}/resourcequotas", quota)

    async def counted() -> bool:
        return "used" in (await api.get(f"/api/v1/namespaces/{namespace}/resourcequotas/few")).get("status", {})

    await eventually(counted)
    await runner.submit(ends("first"))
    with pytest.raises(QuotaExceeded, match="exceeded quota"):
        await runner.submit(ends("second"))
    assert [status.name for status in await runner.jobs()] == ["first"]
    await runner.forget("first")

    async def fits() -> bool:
        with contextlib.suppress(QuotaExceeded):
            await runner.submit(ends("second"))
            return True
        return False

    await eventually(fits)


async def test_what_the_api_server_does_not_take_is_refused_for_good(runner: KubernetesRunner) -> None:
    with pytest.raises(Refused, match="must be unique"):
        await runner.submit(plan("odd", volume=Volume(name="v", mount_path="/oscar/run")))
    assert await runner.jobs() == []


async def test_a_namespace_that_is_not_there_loses_nothing(api: KubernetesClient) -> None:
    async with support.runner("never-made", api=api) as runner:
        with pytest.raises(NamespaceMissing, match="never-made"):
            await runner.submit(plan())
        assert await runner.jobs() == []


async def test_somebody_without_rights_hears_so_at_once(api: KubernetesClient, played: PlayedExits) -> None:
    nobody = from_kubeconfig(played.bed.kubernetes.kubeconfig_of("nobody"))
    client = KubernetesClient(nobody)
    try:
        with pytest.raises(Forbidden, match="cannot list resource"):
            async with support.runner("default", api=client):
                raise AssertionError("it started")
    finally:
        await client.close()


async def test_a_closed_runner_leaves_the_jobs_alone(
    runner: KubernetesRunner, api: KubernetesClient, namespace: str
) -> None:
    await runner.submit(ends("stays", hold=True))
    await runner.close(drain_s=5)
    with pytest.raises(Closed):
        await runner.submit(ends("late"))
    assert await job_names(api, namespace) == ["stays"]


async def test_files_of_old_generations_go_when_nobody_mounts_them(
    api: KubernetesClient, played: PlayedExits, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with support.runner(namespace, api=api, **THERE) as runner:
        for generation in (1, 2, 3):
            await runner.submit(ends(f"g{generation}", hold=generation == 1, generation=generation))
        await runner.forget("g2")
    monkeypatch.setattr("dispatcher.kubernetes.sweep.ORPHAN_AFTER_S", -1.0)
    async with support.runner(namespace, api=api, **THERE):
        found: Any = await api.get(
            f"/api/v1/namespaces/{namespace}/configmaps", labelSelector="penstock.dev/kind=function-files"
        )
    left = {item["metadata"]["labels"]["penstock.dev/generation"] for item in found["items"]}
    assert left == {"1", "3"}


async def test_no_submission_is_lost_or_doubled_when_the_api_server_dies(
    api: KubernetesClient, played: PlayedExits, namespace: str
) -> None:
    cluster = played.bed.kubernetes
    plans = [support.numbered(plan("storm"), number) for number in range(200)]
    async with support.runner(namespace, api=api, node_selector={"no": "where"}) as runner:
        gate = asyncio.Semaphore(16)
        done = 0
        hit = asyncio.Event()

        async def submit(made: JobPlan) -> None:
            nonlocal done
            async with gate:
                await runner.submit(made)
                done += 1
                if done >= 60:
                    hit.set()

        async def injure() -> None:
            await hit.wait()
            await cluster.kill("kube-apiserver")
            await cluster.start()

        await asyncio.gather(injure(), *(submit(made) for made in plans))
        for made in plans[:20]:
            await runner.submit(made)  # and again
        assert sorted(await job_names(api, namespace)) == sorted(made.name for made in plans)
        assert sorted(status.name for status in await runner.jobs()) == sorted(made.name for made in plans)

        async def all_seen() -> bool:
            return all(status.phase is JobPhase.PENDING for status in await runner.jobs())

        await eventually(all_seen)
        await asyncio.gather(*(runner.forget(made.name) for made in plans))
        assert await job_names(api, namespace) == []


async def test_results_are_believed_before_the_pod_and_go_when_it_is_forgotten(
    api: KubernetesClient, played: PlayedExits, namespace: str, tmp_path: Path
) -> None:
    """The test is `output`: it writes result objects while the pod's exit says something else."""
    async with opened_store(tmp_path) as store:
        await store.create_bucket(SYSTEM_BUCKET)

        async def publish(job: str, index: int, **fields: Any) -> None:
            result = ItemResult(invocation=f"{job}-{index}", attempt=1, **fields)
            await store.write(SYSTEM_BUCKET, result_key(UID, job, result.invocation, 1), msgspec.json.encode(result))

        async with support.runner(namespace, api=api, results=StoreResults(store), **THERE) as runner:
            watch = runner.watch()
            await publish("whole", 0, message="by object")
            await publish("whole", 1, error=ErrorClass.SCRIPT, exit_code=3)
            await runner.submit(ends("whole", 3, count=2))
            status = await until(watch, over("whole"))
            assert status.phase is JobPhase.FINISHED
            assert [(r.error, r.message) for r in status.results] == [(None, "by object"), (ErrorClass.SCRIPT, "")]

            # A list that runs: its results come one by one; what has none when the pod is over is lost.
            await runner.submit(ends("part", hold=True, count=3))
            await publish("part", 0)
            status = await until(watch, lambda s: s.name == "part" and len(s.results) == 1)
            assert (status.phase, status.current) == (JobPhase.RUNNING, 1)
            (pod,) = (await api.get(pods_path(namespace), labelSelector="penstock.dev/job=part"))["items"]
            await api.request("DELETE", f"{pods_path(namespace)}/{pod['metadata']['name']}")
            status = await until(watch, over("part"))
            assert (status.phase, [r.invocation for r in status.results]) == (JobPhase.LOST, ["part-0"])

            await runner.forget("whole")
            await runner.forget("part")
            left = [info.key async for page in store.list(SYSTEM_BUCKET, "results/") for info in page]
            assert left == []
