"""What the cluster side tells: demand, states, checks of definitions, volumes, archived output. Pure or over files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.batching import Pace
from dispatcher.demand import AGAIN_MS, Backlog, DemandPublisher, PodShape, demand_of
from dispatcher.kubernetes.adoption import definition_of, what_is_wrong
from dispatcher.kubernetes.archive import archived_log
from dispatcher.kubernetes.configuration import runner_settings
from dispatcher.kubernetes.reporting import COUNTS_MS, Reporter, state_of
from dispatcher.kubernetes.volumes import VolumeSettings, claim
from dispatcher.plan import make_plan
from dispatcher.service import FunctionStatus
from dispatcher.settings import DispatcherSettings
from penstock.adapters.directory import DirectoryStore
from penstock.adapters.kubernetes import FunctionState
from penstock.adapters.sqlite import SqliteEventLog
from penstock.codec import decode_demand
from penstock.errors import InvalidInput, NotFound, Unavailable
from penstock.model import (
    SYSTEM_BUCKET,
    TOPIC_DEMAND,
    Batch,
    BatchMode,
    Function,
    Limits,
    Phase,
    Resources,
    StorageIO,
    Volume,
)
from penstock.model.objects import log_key
from penstock.settings import Settings
from penstock.settings_jobs import JobsGroup
from tests.factories import NOW, make_function

SETTINGS = DispatcherSettings()
SHAPE = PodShape(default_cpu_millis=200, default_memory_bytes=2**28, extra_cpu_millis=40, gpu_resource="nvidia.com/gpu")
UID = "0123456789abcdef0123456789abcdef"


def backlog(queued: int = 7, **changes: Any) -> Backlog:
    return Backlog(function=make_function(**changes), queued=queued, running=2, pace=Pace(4.0, 0.5, 10))


def test_demand_is_what_the_pods_will_ask_for() -> None:
    told = demand_of(backlog(), SHAPE, SETTINGS, NOW)
    assert (told.queued, told.running, told.items_per_job, told.work_seconds) == (7, 2, 1, 3.5)
    assert (told.cpu_millis, told.memory_bytes, told.gpu, told.gpu_resource) == (240, 2**28, 0, "")
    big = backlog(
        resources=Resources(cpu_millis=3000, memory_bytes=2**30, gpu=True),
        limits=Limits(concurrency=3),
        batch=Batch(mode=BatchMode.LIST, max_items=50),
    )
    told = demand_of(big, SHAPE, SETTINGS, NOW)
    assert (told.cpu_millis, told.memory_bytes, told.gpu, told.gpu_resource) == (3040, 2**30, 1, "nvidia.com/gpu")
    assert (told.items_per_job, told.concurrency) == (50, 3)
    assert demand_of(backlog(paused=True), SHAPE, SETTINGS, NOW).queued == 0
    assert demand_of(backlog(batch=Batch(mode=BatchMode.AUTO)), SHAPE, SETTINGS, NOW).items_per_job > 1


async def test_demand_is_published_when_it_changed_or_grew_old_and_is_taken_back(tmp_path: Path) -> None:
    log = await SqliteEventLog.open(tmp_path / "log.db")
    publisher = DemandPublisher(log, shape=SHAPE, settings=SETTINGS)
    assert await publisher.turn([backlog()], NOW) == 1
    assert await publisher.turn([backlog()], NOW + 1000) == 0
    assert await publisher.turn([backlog(8)], NOW + 1000) == 1
    assert await publisher.turn([backlog(8)], NOW + 1000 + AGAIN_MS) == 1
    # A life after ours finds a function that is gone.
    successor = DemandPublisher(log, shape=SHAPE, settings=SETTINGS)
    assert await successor.turn([], NOW + 9000) == 1
    entries = await log.read(TOPIC_DEMAND, {})
    assert [decode_demand(entry.value).queued if entry.value else None for entry in entries] == [7, 8, 8, None]
    assert await DemandPublisher(log, shape=SHAPE, settings=SETTINGS).turn([], NOW) == 0
    await log.close()


def status(**changes: Any) -> FunctionStatus:
    fields: dict[str, Any] = {
        "name": "thumbs",
        "uid": "u",
        "paused": False,
        "concurrency": 0,
        "running": 3,
        "pending": 1,
        "phases": {Phase.QUEUED: 4, Phase.PLANNED: 1, Phase.FAILED: 2, Phase.DEAD: 1, Phase.SUCCEEDED: 9},
        "waiting_for": "",
        "batch": None,
    }
    return FunctionStatus(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "invalid", "state", "message"),
    [
        ({}, "", "Ready", ""),
        ({"waiting_for": "the limit is reached"}, "", "Ready", "the limit is reached"),
        ({"running": 1, "waiting_for": "no node"}, "", "Waiting", "no node"),
        ({"paused": True, "waiting_for": "paused"}, "", "Paused", ""),
        ({"waiting_for": "x"}, "the image is missing", "Invalid", "the image is missing"),
    ],
)
def test_the_state_that_kubectl_shows(changes: dict[str, Any], invalid: str, state: str, message: str) -> None:
    told = state_of(status(**changes), invalid, NOW)
    assert (told.state, told.message) == (state, message)
    assert (told.queued, told.failed, told.succeeded) == (5, 3, 9)


async def test_states_are_written_at_once_and_counts_now_and_then() -> None:
    written: list[tuple[str, FunctionState]] = []
    away = False

    async def report(name: str, state: FunctionState) -> None:
        if away:
            raise Unavailable("the API server does not answer")
        written.append((name, state))

    reporter = Reporter(report, {})
    assert await reporter.turn([status()], NOW) == 1
    assert await reporter.turn([status()], NOW + COUNTS_MS) == 0
    assert await reporter.turn([status(running=9)], NOW + 1000) == 0
    assert await reporter.turn([status(running=9)], NOW + COUNTS_MS) == 1
    away = True
    assert await reporter.turn([status(paused=True)], NOW + COUNTS_MS + 1) == 0
    away = False
    assert await reporter.turn([status(paused=True)], NOW + COUNTS_MS + 2) == 1
    assert await reporter.turn([status(name=f"f{number}", uid=f"u{number}") for number in range(50)], NOW) == 20
    assert [state.state for _, state in written[:3]] == ["Ready", "Ready", "Paused"]


def by_hand(**changes: Any) -> Function:
    fields: dict[str, Any] = {
        "image": "busybox",
        "inputs": (StorageIO(provider="minio", bucket="photos", folder="in"),),
        "outputs": (StorageIO(provider="minio", bucket="photos", folder="out"),),
    }
    return make_function(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": ""}, "image"),
        ({"script": ""}, "script"),
        ({"inputs": (StorageIO(provider="minio", bucket="A"),)}, "'A'"),
        ({"inputs": (StorageIO(provider="minio", bucket=SYSTEM_BUCKET),)}, "platform's own"),
        ({"outputs": (StorageIO(provider="minio", bucket="photos", folder="/out"),)}, "no slash"),
        ({"outputs": (StorageIO(provider="minio", bucket="photos", folder="in/out"),)}, "start it again"),
        ({"deadline_s": 0}, "deadline"),
        ({"volume": Volume(name="v", mount_path="/oscar")}, "may not cover"),
    ],
)
def test_what_is_wrong_is_one_sentence(changes: dict[str, Any], says: str) -> None:
    why = what_is_wrong(by_hand(**changes))
    assert says in why
    assert "\n" not in why


def test_what_is_right_gets_the_definition_that_clients_read() -> None:
    function = by_hand(
        resources=Resources(cpu_millis=500, memory_bytes=2**28, gpu=True),
        limits=Limits(concurrency=3, rate=1.5, priority=-3, weight=2),
        batch=Batch(mode=BatchMode.LIST, max_items=5, linger_s=1.5),
        volume=Volume(name="v", mount_path="/data", size="1Gi"),
        retries=2,
    )
    assert what_is_wrong(function) == ""
    definition = definition_of(function)
    assert definition["cpu"] == "500m"
    assert definition["batch"] == {"max_items": 5, "max_bytes": 0, "linger": 1.5}
    assert definition["input"] == [{"storage_provider": "minio.default", "path": "photos/in"}]
    assert what_is_wrong(by_hand(image=""), default_image="busybox") == ""


def test_a_volume_with_a_size_becomes_a_claim_that_goes_or_stays() -> None:
    def made(volume: Volume | None) -> dict[str, Any] | None:
        plan = msgspec.structs.replace(make_plan(make_function(uid=UID, volume=volume), []), name="job-1")
        settings = VolumeSettings(storage_class="fast", access_mode="ReadWriteMany")
        return claim(plan, settings, namespace="ns", owned_by_function=True)

    assert made(None) is None
    assert made(Volume(name="theirs", mount_path="/data")) is None
    own = made(Volume(name="v", mount_path="/data", size="10Gi"))
    assert own is not None
    assert own["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "10Gi"}},
    }
    assert own["metadata"]["ownerReferences"][0]["name"] == "thumbs"
    kept = made(Volume(name="v", mount_path="/data", size="10Gi", lifecycle_policy="retain"))
    assert kept is not None
    assert "ownerReferences" not in kept["metadata"]
    with pytest.raises(InvalidInput, match=r"volume\.size"):
        made(Volume(name="v", mount_path="/data", size="much"))


async def test_archived_output_is_read_from_an_offset(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, settle_s=0.0)
    await store.create_bucket(SYSTEM_BUCKET)
    for attempt in (1, 2, 10):
        await store.write(SYSTEM_BUCKET, log_key("u", "i", attempt), b"attempt %d" % attempt)

    async def text(attempt: int, offset: int = 0) -> bytes:
        return b"".join([chunk async for chunk in archived_log(store, log_key("u", "i", attempt), offset=offset)])

    assert await text(10) == b"attempt 10"
    assert await text(2, offset=8) == b"2"
    assert await text(2, offset=99) == b""
    for offset in (0, 5):
        with pytest.raises(NotFound):
            await text(3, offset)
    await store.close()


def test_every_setting_of_jobs_reaches_the_runner() -> None:
    changed = JobsGroup.model_validate(
        {
            "sidecar_image": "i",
            "pull_secrets": "a, b",
            "node_selector": '{"disk": "ssd"}',
            "tolerations": '[{"key": "gpu", "operator": "Exists"}]',
            "run_size_mib": 5,
            "pending": 9,
            "restricted": True,
            "ttl_s": 7,
        }
    )
    made = runner_settings(Settings(jobs=changed))
    assert (made.sidecar_image, made.pull_secrets, made.node_selector) == ("i", ("a", "b"), {"disk": "ssd"})
    assert made.tolerations == ({"key": "gpu", "operator": "Exists"},)
    assert (made.run_size_bytes, made.pending_jobs, made.restricted, made.ttl_s) == (5 * 2**20, 9, True, 7)
    assert runner_settings(Settings()).run_size_bytes is None
    assert made.launcher.startswith("#!/bin/sh") or "sh" in made.launcher[:200]
