"""Our documents before a real API server, and our Jobs on a real node without the sidecars' programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.kubernetes import KubernetesRunner, KubernetesSettings
from dispatcher.kubernetes.files import function_files, function_secret, items_map
from dispatcher.kubernetes.manifest import encode_items, job_manifest
from dispatcher.kubernetes.template import JobTemplate
from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.client import encode
from penstock.adapters.kubernetes.trouble import Refused
from penstock.errors import Forbidden
from penstock.model import ErrorClass, JobPhase, JobPlan, JobStatus, Volume
from tests.kubernetes import support
from tests.kubernetes.plans import plan
from tests.kubernetes.support import jobs_path, over, pods_path, until
from tests.testbed.images import BUSYBOX, PAUSE
from tests.testbed.node import Node

pytestmark = pytest.mark.components


async def tried(api: KubernetesClient, path: str, body: bytes) -> Any:
    """Server-side dry run with strict field checking: an unknown or misspelt field is refused too."""
    data = await api.request("POST", path, body, params={"dryRun": "All", "fieldValidation": "Strict"})
    return json.loads(data)


@pytest.mark.parametrize(
    "made",
    [
        plan(),
        plan(count=400),
        plan(volume=Volume(name="models", mount_path="/models"), labels={"owner_name": "Ada L."}, secrets={}, token=""),
        plan(environment={"ODD.name-1": "x$(y)$$"}, deadline_s=10**12),
    ],
    ids=["plain", "long list", "volume", "odd"],
)
async def test_the_api_server_takes_every_document_as_it_is(
    api: KubernetesClient, namespace: str, made: JobPlan
) -> None:
    settings = KubernetesSettings(namespace=namespace, input_secret="in-{uid}", output_secret="out-{uid}")
    rendered = JobTemplate(made, settings).render(made)
    kept = await tried(api, jobs_path(namespace), rendered.body)
    sent = job_manifest(made, settings)
    assert kept["metadata"]["annotations"] == sent["metadata"]["annotations"]
    names = [one["name"] for one in kept["spec"]["template"]["spec"]["containers"]]
    assert names == ["input", "output", "oscar-container"]
    core = f"/api/v1/namespaces/{namespace}"
    await tried(api, f"{core}/configmaps", encode(function_files(made, settings)))
    await tried(api, f"{core}/configmaps", encode(items_map(made, settings, encode_items(made.items))))
    secret = function_secret(made, settings)
    if secret is not None:
        await tried(api, f"{core}/secrets", encode(secret))


@pytest.mark.parametrize(("profile", "restricted", "taken"), [
    ("baseline", False, True), ("restricted", True, True), ("restricted", False, False),
])  # fmt: skip
async def test_pods_meet_the_security_profile_they_promise(
    api: KubernetesClient, namespace: str, profile: str, restricted: bool, taken: bool
) -> None:
    """Not restricted, only the user's container stands in the way, and it is the one that is named."""
    marks = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": profile}}}
    await api.send("PATCH", f"/api/v1/namespaces/{namespace}", marks, content_type="application/merge-patch+json")
    job = job_manifest(plan(), KubernetesSettings(namespace=namespace, restricted=restricted))
    template = job["spec"]["template"]
    pod = {"metadata": {**template["metadata"], "name": "p"}, "spec": template["spec"]}
    if taken:
        await tried(api, pods_path(namespace), encode(pod))
        return
    with pytest.raises(Forbidden, match="oscar-container") as refused:
        await tried(api, pods_path(namespace), encode(pod))
    assert '"input"' not in refused.value.message
    assert '"output"' not in refused.value.message


async def test_a_misspelt_field_would_be_noticed(api: KubernetesClient, namespace: str) -> None:
    job = job_manifest(plan(), KubernetesSettings(namespace=namespace))
    job["spec"]["backOffLimit"] = 0
    with pytest.raises(Refused, match="backOffLimit"):
        await tried(api, jobs_path(namespace), encode(job))


# On a real node. The sidecars are busybox that ends at once; the script runs without a launcher, so its exit decides.


@pytest.fixture
async def runner(api: KubernetesClient, namespace: str, node: Node) -> AsyncIterator[KubernetesRunner]:
    async with support.runner(
        namespace,
        api=api,
        sidecar_image=BUSYBOX,
        sidecar_command=("/bin/sh", "-c", "exit 0"),
        user_command=("/bin/sh", "/oscar/config/script.sh"),
        pull_policy="Never",
        default_memory_bytes=64 * 2**20,
        grace_s=2,
        start_limit_s=5.0,
    ) as made:
        yield made


async def ended(runner: KubernetesRunner, *made: JobPlan) -> dict[str, JobStatus]:
    watch = runner.watch()
    for one in made:
        await runner.submit(one)
    statuses: dict[str, JobStatus] = {}
    while len(statuses) < len(made):
        status = await until(watch, lambda s: s.phase in {JobPhase.FINISHED, JobPhase.LOST}, seconds=90)
        statuses[status.name] = status
    return statuses


async def test_scripts_end_as_they_end_and_what_cannot_start_says_why(runner: KubernetesRunner) -> None:
    found = await ended(
        runner,
        plan("fine", script='[ "$API_KEY" = s3cret ] && [ "$MONEY" = "\\$5 \\$(OSCAR_SERVICE_TOKEN)" ] || exit 9'),
        plan("seven", script="exit 7"),
        plan("greedy", script="x=x; while :; do x=$x$x; done", resources=plan().resources),
        plan("no-image", image="penstock.test/never-made:1"),
        plan("no-shell", image=PAUSE),
    )
    errors = {name: status.results[0].error for name, status in found.items()}
    assert errors == {
        "fine": None,
        "seven": ErrorClass.SCRIPT,
        "greedy": ErrorClass.OUT_OF_MEMORY,
        "no-image": ErrorClass.UNSTARTABLE,
        "no-shell": ErrorClass.UNSTARTABLE,
    }
    assert found["seven"].results[0].exit_code == 7
    assert "used more memory" in found["greedy"].results[0].message
    assert "the image penstock.test/never-made:1 cannot be pulled" in found["no-image"].results[0].message
    assert "/bin/sh" in found["no-shell"].results[0].message


async def test_the_log_is_live_and_a_cancel_ends_the_script(runner: KubernetesRunner) -> None:
    watch = runner.watch()
    script = "exec 2>&1; trap 'exit 3' TERM; echo one; echo two >&2; while :; do sleep 0.1; done"
    await runner.submit(plan("talks", script=script))
    following = runner.log("talks", "talks-0", follow=True)
    text = b""
    async with asyncio.timeout(60):
        async for chunk in following:
            text += chunk
            if text == b"one\ntwo\n":
                break
    await following.aclose()  # type: ignore[attr-defined]
    assert b"".join([chunk async for chunk in runner.log("talks", "talks-0", offset=4)]) == b"two\n"
    await runner.cancel("talks", reason="heard enough")
    status = await until(watch, over("talks"))
    assert [(r.error, r.message) for r in status.results] == [(ErrorClass.CANCELLED, "heard enough")]
    await runner.forget("talks")
