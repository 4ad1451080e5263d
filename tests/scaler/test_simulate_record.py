"""Recording a trace: what counts, from pods as the API tells them, and once for real with KWOK and the scheduler."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scaler.simulate.quality import recorded
from scaler.simulate.record import Pod, Recorder, as_csv, requests_of
from scaler.simulate.trace import parse_csv, read_trace
from tests.scaler import record_run
from tests.testbed.bed import Bed

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
GIB = 1 << 30


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat()


def pod(name: str = "a", phase: str = "Running", *, owner: str = "Job", **status: Any) -> Pod:
    container = {"resources": {"requests": {"cpu": "1500m", "memory": "1Gi", "nvidia.com/gpu": "1"}}}
    sidecar = {"resources": {"requests": {"cpu": "100m"}}, "restartPolicy": "Always"}
    document = {
        "metadata": {
            "uid": name,
            "name": name,
            "namespace": "n",
            "creationTimestamp": at(0),
            "ownerReferences": [{"kind": owner}],
        },
        "spec": {"containers": [container], "initContainers": [sidecar]},
        "status": {"phase": phase, "startTime": at(5), **status},
    }
    return msgspec.convert(document, Pod)


def ended(name: str = "a", phase: str = "Succeeded", seconds: float = 65) -> Pod:
    terminated = {"startedAt": at(9), "finishedAt": at(seconds)}
    return pod(name, phase, containerStatuses=[{"state": {"terminated": terminated}}])


def test_a_pod_counts_from_its_start_on_the_node_to_the_end_of_its_last_container() -> None:
    recorder = Recorder()
    recorder.see(pod(), BEGAN)
    recorder.see(ended(), BEGAN + timedelta(hours=1))
    recorder.gone(ended(), BEGAN + timedelta(hours=2))
    (ran,) = recorder.ran.values()
    assert (ran.id, ran.submit, ran.runtime_s) == ("n/a", BEGAN, 60)
    assert dict(ran.requests) == {"cpu": 1600, "memory": GIB, "nvidia.com/gpu": 1, "pods": 1}


def test_what_is_deleted_while_it_runs_counts_until_then_also_when_nobody_was_told() -> None:
    recorder = Recorder()
    for name in ("told", "missed", "runs"):
        recorder.see(pod(name), BEGAN)
    recorder.gone(pod("told"), BEGAN + timedelta(seconds=25))
    recorder.present([pod("runs")], BEGAN + timedelta(seconds=35))
    assert {ran.id: ran.runtime_s for ran in recorder.ran.values()} == {"n/told": 20, "n/missed": 30}


def test_daemons_static_pods_and_pods_that_never_ran_are_no_load() -> None:
    recorder = Recorder()
    for one in (pod("d", owner="DaemonSet"), pod("s", owner="Node")):
        recorder.see(one, BEGAN)
        recorder.gone(one, BEGAN + timedelta(seconds=60))
    recorder.see(pod("p", "Pending"), BEGAN)
    recorder.gone(pod("p", "Pending"), BEGAN + timedelta(seconds=60))
    assert recorder.ran == {}


def test_what_is_written_reads_back() -> None:
    recorder = Recorder()
    recorder.see(ended("b", seconds=6.5), BEGAN)
    recorder.see(ended("a", "Failed"), BEGAN)
    text = as_csv(list(recorder.ran.values()), about="made by a test")
    assert text.startswith("# made by a test\nid,submit,runtime,cpu,memory,nvidia.com/gpu\n")
    jobs, left_out = parse_csv(text.splitlines())
    assert left_out == 0
    assert [(job.id, job.submit_ms, job.runtime_ms) for job in jobs] == [("n/a", 0, 60_000), ("n/b", 0, 1500)]
    assert jobs[0].requests == requests_of(pod().spec)


def test_the_recorded_load_says_how_it_was_made() -> None:
    trace = recorded()
    assert len(trace.jobs) > 100
    assert trace.left_out == 0
    assert "KWOK" in trace.about
    assert trace.jobs[0].submit_ms == 0


@pytest.mark.components
@pytest.mark.slow
async def test_a_run_on_a_real_api_server_and_scheduler_is_recorded_whole(fault_bed: Bed, tmp_path: Path) -> None:
    planned = [record_run.Planned(at_s=0.0, run_s=3.0, cpu=4) for _ in range(6)]
    jobs = await record_run.run(fault_bed, tmp_path / "jobs.csv", planned, nodes=2)
    assert jobs == 6
    trace = read_trace(tmp_path / "jobs.csv")
    assert {dict(job.requests)["cpu"] for job in trace.jobs} == {4000}
    assert all(2_000 <= job.runtime_ms < 60_000 for job in trace.jobs)
