"""What the cluster refuses, what users ask for, what repeats: each with the words a user reads."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import msgspec
import pytest
import yaml

from dispatcher.kubernetes.results import result_key
from penstock.adapters.kubernetes.trouble import NamespaceMissing, Refused
from penstock.codec import decode_demand, encode
from penstock.errors import NotFound
from penstock.identity import invocation_id
from penstock.model import (
    SYSTEM_BUCKET,
    TOPIC_DEMAND,
    CommandKind,
    ErrorClass,
    FunctionDemand,
    ItemResult,
    Phase,
    Resources,
    StorageIO,
    Volume,
)
from penstock.model.objects import Kept, kept_prefix
from tests.adapters.s3.support import opened
from tests.dispatcher_service.support import Stage
from tests.kubernetes import support as cluster
from tests.testbed.paths import REPOSITORY

pytestmark = [pytest.mark.components, pytest.mark.slow]


def functions(stage: Stage, name: str = "") -> str:
    path = f"/apis/penstock.dev/v1/namespaces/{stage.namespace}/functions"
    return f"{path}/{name}" if name else path


async def shown(stage: Stage, name: str) -> dict[str, Any]:
    """What `kubectl get function` reads."""
    found: dict[str, Any] = (await stage.api.get(functions(stage, name))).get("status") or {}
    return found


async def until_shown(stage: Stage, name: str, **wanted: Any) -> dict[str, Any]:
    async def so() -> bool:
        status = await shown(stage, name)
        return all(status.get(key) == value for key, value in wanted.items())

    await stage.until(so)
    return await shown(stage, name)


async def test_a_quota_parks_its_function_and_everything_runs_in_the_end(stage: Stage) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/jobs.batch": "2"}}}
    await stage.api.send("POST", f"/api/v1/namespaces/{stage.namespace}/resourcequotas", quota)
    function = await stage.deploy()
    program = await stage.start()
    await stage.active(program)
    await stage.send(stage.events(function, range(5)))
    # The quota's own count of what was deleted is seconds old at times.
    await stage.until_phase(Phase.SUCCEEDED, 5, seconds=300)
    await stage.check_one_job_each()
    assert any("exceeded quota" in line["error"] for line in program.said("job_delayed"))


async def refuse_jobs_of(stage: Stage, function: str) -> None:
    """As a cluster's administrator would, by a policy; it takes effect after a moment."""
    path = "/apis/admissionregistration.k8s.io/v1"
    name = f"no-{stage.namespace}"
    rules = [{"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"], "operations": ["CREATE"]}]
    expression = f"object.metadata.labels['oscar_service'] != '{function}'"
    spec = {
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": expression, "message": f"{function} is not wanted here"}],
    }
    await stage.api.send("POST", f"{path}/validatingadmissionpolicies", {"metadata": {"name": name}, "spec": spec})
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.namespace}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": where}
    bindings = f"{path}/validatingadmissionpolicybindings"
    await stage.api.send("POST", bindings, {"metadata": {"name": name}, "spec": binding})
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    job = {"metadata": {"name": "try", "labels": {"oscar_service": function}}, "spec": {"template": {"spec": pod}}}

    async def in_force() -> bool:
        try:
            await stage.api.send("POST", cluster.jobs_path(stage.namespace), job, params={"dryRun": "All"})
        except Refused:
            return True
        return False

    await stage.until(in_force)


async def test_what_the_api_server_refuses_is_dead_with_its_words_and_nobody_else_suffers(stage: Stage) -> None:
    bad = await stage.deploy("bad")
    good = await stage.deploy("good")
    await refuse_jobs_of(stage, "bad")
    await stage.active(await stage.start())
    await stage.send([*stage.events(bad, range(2)), *stage.events(good, range(5))])
    await stage.until_phase(Phase.SUCCEEDED, 5)
    await stage.until_phase(Phase.DEAD, 2)
    for record in await stage.records(Phase.DEAD):
        assert record.error is ErrorClass.UNSTARTABLE
        assert "the Job was refused" in record.reason
        assert "bad is not wanted here" in record.reason


async def test_a_function_of_kubectls_is_adopted_and_a_wrong_one_says_what_is_wrong(stage: Stage) -> None:
    await stage.active(await stage.start())
    spec = {
        "image": "penstock.test/busybox:1",
        "script": "true\n",
        "inputs": [{"bucket": "stage-in", "folder": "byhand"}],
        "outputs": [{"bucket": "stage-in", "folder": "byhand/out"}],
    }
    document = {"apiVersion": "penstock.dev/v1", "kind": "Function", "metadata": {"name": "byhand"}, "spec": spec}
    await stage.api.send("POST", functions(stage), document)
    status = await until_shown(stage, "byhand", state="Invalid")
    assert "every result would start it again" in status["message"]
    function = await stage.registry.get("byhand")
    await stage.send(stage.events(function, range(2)))
    await stage.until_phase(Phase.QUEUED, 2)
    patch = {"spec": {"outputs": [{"bucket": "stage-out", "folder": "byhand"}]}}
    await stage.api.send("PATCH", functions(stage, "byhand"), patch, content_type="application/merge-patch+json")
    await stage.until_phase(Phase.SUCCEEDED, 2)
    status = await until_shown(stage, "byhand", state="Ready", succeeded=2)
    assert (status["queued"], status["running"], status["failed"]) == (0, 0, 0)
    function = await stage.registry.get("byhand")
    assert len(function.token) == 64
    assert function.definition["image"] == spec["image"]
    async with opened(stage.bed.minio) as store:
        assert "stage-out" in await store.buckets()


async def demands(stage: Stage) -> dict[str, FunctionDemand]:
    found: dict[str, FunctionDemand] = {}
    positions: dict[int, int] = {}
    while entries := await stage.event_log.read(TOPIC_DEMAND, positions):
        for entry in entries:
            positions[entry.partition] = entry.offset + 1
            if entry.value:
                found[entry.key] = decode_demand(entry.value)
            else:
                found.pop(entry.key, None)
    return found


async def test_what_no_node_can_take_is_named_within_a_minute_and_is_demanded(stage: Stage) -> None:
    huge = await stage.deploy("huge", resources=Resources(cpu_millis=9_000_000))
    small = await stage.deploy("small")
    await stage.active(await stage.start(PENSTOCK_JOBS_PENDING="2"))
    begun = time.monotonic()
    await stage.send([*stage.events(huge, range(5)), *stage.events(small, range(3))])
    await stage.until_phase(Phase.SUBMITTED, 1)
    assert time.monotonic() - begun < 60
    for record in await stage.records(Phase.SUBMITTED):
        assert "Insufficient cpu" in record.reason
    status = await until_shown(stage, "huge", state="Waiting")
    assert "Insufficient cpu" in status["message"]
    # Never more Jobs than may wait, and yet one for each function that has work.
    await stage.until_phase(Phase.SUCCEEDED, 3)
    names = await cluster.job_names(stage.api, stage.namespace)
    assert 1 <= len([name for name in names if name.startswith("huge")]) <= 2

    async def demanded() -> bool:
        told = (await demands(stage)).get(huge.uid)
        return told is not None and told.queued + told.running == 5 and told.cpu_millis == 9_000_040

    await stage.until(demanded)
    assert (await demands(stage))[huge.uid].node_selector
    await stage.registry.delete("huge")

    async def forgotten() -> bool:
        return huge.uid not in await demands(stage)

    await stage.until(forgotten)
    await stage.until_phase(Phase.CANCELLED, 5)
    await stage.until_no_jobs()


async def test_a_storm_of_duplicates_makes_no_extra_job_and_backfill_knows_what_ran(stage: Stage) -> None:
    name = f"storm{secrets.token_hex(3)}"
    # What is stored now was there before the function, so only a backfill takes it.
    function = await stage.deploy(name, start_ms=int(time.time() * 1000) + 30_000)
    async with opened(stage.bed.minio) as store:
        await store.create_bucket("stage-in")
        for number in range(5):
            await store.put("stage-in", f"{name}/stored-{number}", b"x")
    program = await stage.start()
    await stage.active(program)
    events = stage.events(function, range(20))
    for _ in range(10):
        await stage.send(events)
    await stage.until_phase(Phase.SUCCEEDED, 20)
    for succeeded in (25, 25):
        await stage.command(CommandKind.BACKFILL, function)
        await stage.until_phase(Phase.SUCCEEDED, succeeded)

    async def both_done() -> bool:
        return len(program.said("command")) == 2

    await stage.until(both_done)
    assert [line["touched"] for line in program.said("command")] == [5, 0]
    for _ in range(10):
        await stage.send(events)
    await stage.send(stage.events(function, ["last"]))
    await stage.until_phase(Phase.SUCCEEDED, 26)
    await stage.until_no_jobs()
    await stage.check_one_job_each()
    assert len(stage.jobs) == 26


async def test_two_functions_that_feed_each_other_stop_at_the_hop_limit(stage: Stage) -> None:
    places = [StorageIO(provider="minio", bucket="stage-in", folder=name) for name in ("ping", "pong")]
    both = [
        await stage.deploy("ping", inputs=(places[0],), outputs=(places[1],), max_hops=2),
        await stage.deploy("pong", inputs=(places[1],), outputs=(places[0],), max_hops=2),
    ]
    await stage.active(await stage.start())
    await stage.send(stage.events(both[0], ["x"]))
    seen: set[str] = set()
    # Pods on simulated nodes publish nothing: here what a success would have written arrives as the next event.
    async with asyncio.timeout(300):
        while not (skipped := await stage.records(Phase.SKIPPED)):
            for record in await stage.records(Phase.SUCCEEDED):
                if record.id not in seen:
                    seen.add(record.id)
                    following = both[1] if record.function == "ping" else both[0]
                    hops = (getattr(record.trigger, "hops", 0) or 0) + 1
                    await stage.send(stage.events(following, [f"x{hops}"], hops=hops))
            await asyncio.sleep(0.05)
    assert len(seen) == 2
    assert skipped[0].error is ErrorClass.HOP_LIMIT
    assert "feed each other in a loop" in skipped[0].reason
    await stage.check_jobs_are(2)


async def test_results_outlive_jobs_that_are_gone_when_the_dispatcher_comes_back(stage: Stage) -> None:
    stage.settings |= {"PENSTOCK_JOBS_RESULTS": "store", "PENSTOCK_JOBS_TTL_S": "1"}
    function = await stage.deploy()
    program = await stage.start("state")
    await stage.active(program)
    events = stage.events(function, range(6))
    await stage.send(events)

    async def submitted() -> bool:
        return len(stage.jobs) == 6

    await stage.until(submitted)
    await program.kill()
    await stage.until_no_jobs()  # ended on their nodes, and removed by Kubernetes itself
    jobs = {record.id: record.job for record in await stage.records(Phase.PLANNED, Phase.RUNNING)}
    assert len(jobs) == 6
    async with opened(stage.bed.minio) as store:
        for event in events:
            invocation = invocation_id(function.uid, event.identity)
            result = ItemResult(invocation=invocation, attempt=1, exit_code=0, started_ms=1, finished_ms=2)
            await store.put(SYSTEM_BUCKET, result_key(function.uid, jobs[invocation], invocation, 1), encode(result))
    await stage.start("state")
    await stage.until_phase(Phase.SUCCEEDED, 6)
    await stage.check_one_job_each()
    assert len(stage.jobs) == 6

    async def removed() -> bool:
        async with opened(stage.bed.minio) as store:
            pages = store.list(SYSTEM_BUCKET, kept_prefix(Kept.RESULTS, function.uid))
            return [info.key async for page in pages for info in page] == []

    await stage.until(removed)


async def secret(stage: Stage, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = await stage.api.get(f"/api/v1/namespaces/{stage.namespace}/secrets/{name}")
    except (NotFound, NamespaceMissing):
        return None
    return found


async def test_store_accounts_are_there_before_the_first_job_and_go_with_their_function(stage: Stage) -> None:
    stage.settings |= {"PENSTOCK_S3_ACCOUNTS": "minio"}
    program = await stage.start()
    await stage.active(program)
    function = await stage.deploy()
    await stage.send(stage.events(function, range(2)))
    await stage.until_phase(Phase.SUCCEEDED, 2)
    names = [f"penstock-store-{function.uid}-{role}" for role in ("in", "out")]
    for name in names:
        found = await secret(stage, name)
        assert found is not None
        assert found["metadata"]["annotations"]["penstock.dev/policy"]
    await program.kill()
    # Deleted while nobody is there.
    await stage.registry.delete(function.name)
    other = await stage.deploy("other")
    await stage.active(await stage.start())

    async def gone() -> bool:
        return [await secret(stage, name) for name in names] == [None, None]

    await stage.until(gone)
    await stage.send(stage.events(msgspec.structs.replace(other, name="other"), range(1)))
    await stage.until_phase(Phase.SUCCEEDED, 3)


async def test_it_works_with_exactly_the_rights_that_the_documentation_lists(stage: Stage) -> None:
    text = await asyncio.to_thread((REPOSITORY / "docs" / "operations" / "dispatcher.md").read_text, "utf-8")
    role = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    rights = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{stage.namespace}"
    await stage.api.send("POST", f"{rights}/roles", role)
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": "nobody"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "testbed-nobody"}],
    }
    await stage.api.send("POST", f"{rights}/rolebindings", binding)
    stage.settings |= {
        "PENSTOCK_KUBERNETES_KUBECONFIG": str(stage.bed.kubernetes.kubeconfig_of("nobody")),
        "PENSTOCK_S3_ACCOUNTS": "minio",
    }
    volume = Volume(name="kept", mount_path="/data", size="1Mi")
    with_volume = await stage.deploy("volume", volume=volume)
    program = await stage.start()
    await stage.active(program)
    spec = {"image": "i", "script": "true\n", "inputs": [{"bucket": "stage-in", "folder": "byhand"}]}
    document = {"apiVersion": "penstock.dev/v1", "kind": "Function", "metadata": {"name": "byhand"}, "spec": spec}
    await stage.api.send("POST", functions(stage), document)
    await until_shown(stage, "byhand", state="Ready")
    by_hand = await stage.registry.get("byhand")
    await stage.send(stage.events(by_hand, range(2)))
    await stage.until_phase(Phase.SUCCEEDED, 2)
    await stage.send(stage.events(with_volume, range(1)))

    async def claimed() -> bool:
        return await cluster.exists(stage.api, f"/api/v1/namespaces/{stage.namespace}/persistentvolumeclaims/kept")

    await stage.until(claimed)
    await stage.registry.delete("volume")
    await stage.until_phase(Phase.CANCELLED, 1)
    await stage.until_no_jobs()
    assert "forbidden" not in program.log.read_text(encoding="utf-8").lower()
    assert program.process.returncode is None
