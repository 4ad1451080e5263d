"""The watched views and small writes against a real API server, and the service as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from penstock.adapters.kubernetes import ClientSettings, KubernetesClient, from_kubeconfig
from penstock.errors import NotFound
from scaler.__main__ import main
from scaler.model import PodKind
from scaler.production import now_ms
from scaler.reading import PodLists
from scaler.world import KubernetesWorld
from tests.scaler.building import make_pod
from tests.scaler.cluster.whole import CountingClient, delete_pods, pod, until
from tests.testbed.bed import Bed
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.kwok import Kwok
from tests.testbed.links import Cut

POOLS = """
pools:
  - {{name: main, driver: kwok, name_pattern: "{prefix}-{{n}}", max: 2, min: 1, boot: 1s,
     resources: {{cpu: 8, memory: 16Gi}}, labels: {{a: "{prefix}"}}, taints: [{{key: penstock.test/main}}]}}
drivers:
  kwok: {{type: kwok}}
"""


@contextlib.asynccontextmanager
async def opened(kubeconfig: Path, *, watch_s: int = 12) -> AsyncIterator[tuple[KubernetesWorld, KubernetesClient]]:
    client = KubernetesClient(from_kubeconfig(kubeconfig), ClientSettings(attempt_s=3, patience_s=5))
    world = KubernetesWorld(client, clock=now_ms, watch_s=watch_s)
    tasks = [asyncio.create_task(loop, name=name) for name, loop in world.loops().items()]
    try:
        yield world, client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await client.close()


@pytest.mark.components
async def test_c13_a_cordon_is_ours_is_lifted_and_a_person_s_is_left_alone(kubernetes: Kubernetes) -> None:
    async with opened(kubernetes.kubeconfig) as (world, client):
        mine = {"key": "penstock.test/mine", "effect": "NoExecute", "value": "x"}
        await client.send("POST", "/api/v1/nodes", {"metadata": {"name": "cordoned"}, "spec": {"taints": [mine]}})
        await until("it is seen", lambda: "cordoned" in world.look().marks)
        for _ in range(2):
            await world.cordon("cordoned")
        found = await client.get("/api/v1/nodes/cordoned")
        assert found["spec"]["unschedulable"]
        keys = [taint["key"] for taint in found["spec"]["taints"]]
        assert {"penstock.test/mine", "penstock.dev/removing", "penstock.dev/steer"} <= set(keys)
        assert len(keys) == len(set(keys))
        await until("the mark is seen", lambda: world.look().marks["cordoned"].removing)
        await world.uncordon("cordoned")
        found = await client.get("/api/v1/nodes/cordoned")
        assert not found["spec"].get("unschedulable")
        assert not any(taint["key"].startswith("penstock.dev") for taint in found["spec"]["taints"])
        await client.request(
            "PATCH", "/api/v1/nodes/cordoned", b'{"spec": {"unschedulable": true}}',
            content_type="application/merge-patch+json",
        )  # fmt: skip
        await world.uncordon("cordoned")
        assert (await client.get("/api/v1/nodes/cordoned"))["spec"]["unschedulable"]
        seen = world.look().marks["cordoned"]
        await world.forget("cordoned", msgspec.structs.replace(seen, version="1"))
        assert await client.get("/api/v1/nodes/cordoned"), "another version of it is not the one that was seen"

        async def gone() -> bool:
            if mark := world.look().marks.get("cordoned"):
                await world.forget("cordoned", mark)
            return "cordoned" not in world.look().marks

        await until("it is gone", gone)
        with pytest.raises(NotFound):
            await world.cordon("cordoned")
        await world.uncordon("cordoned")


@pytest.mark.components
async def test_c2_the_fresh_read_sees_a_pod_at_once(kubernetes: Kubernetes) -> None:
    await kubernetes.make_namespace("fresh")
    async with opened(kubernetes.kubeconfig) as (world, client):
        await client.send("POST", "/api/v1/nodes", {"metadata": {"name": "fresh"}})
        assert (await world.read("fresh")).pods == ()
        await client.send("POST", "/api/v1/namespaces/fresh/pods", pod("late", nodeName="fresh"))
        seen = await world.read("fresh")
        assert [one.name for one in seen.pods] == ["fresh/late"]
        assert (await world.read("nobody")).pods == ()
        await client.request("DELETE", "/api/v1/namespaces/fresh/pods/late", b'{"gracePeriodSeconds": 0}')
        await client.request("DELETE", "/api/v1/nodes/fresh")


async def _bind(client: KubernetesClient, node: str, name: str, *, phase: str = "", **meta: Any) -> None:
    """`name` with its namespace; `node` "" = bound nowhere."""
    namespace, _, name = name.partition("/")
    path = f"/api/v1/namespaces/{namespace}/pods"
    document = pod(name, nodeName=node) if node else pod(name)
    document["metadata"] |= meta
    await client.send("POST", path, document)
    if phase:
        body = msgspec.json.encode({"status": {"phase": phase}})
        await client.request("PATCH", f"{path}/{name}/status", body, content_type="application/merge-patch+json")


@contextlib.asynccontextmanager
async def _nodes(kubernetes: Kubernetes, namespace: str, count: int) -> AsyncIterator[list[str]]:
    await kubernetes.make_namespace(namespace)
    names = [f"{namespace}-{number}" for number in range(count)]
    client = KubernetesClient(from_kubeconfig(kubernetes.kubeconfig))
    try:
        for name in names:
            await client.send("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"of": namespace}}})
        yield names
    finally:
        await delete_pods(client, namespace)
        await client.request("DELETE", "/api/v1/nodes", params={"labelSelector": f"of={namespace}"})
        await client.close()


@pytest.mark.components
async def test_c13_one_list_of_all_pods_says_of_each_node_what_its_own_list_says(kubernetes: Kubernetes) -> None:
    async with _nodes(kubernetes, "lists", 5) as names, opened(kubernetes.kubeconfig) as (_, client):
        for number, name in enumerate(names[:4]):
            for index in range(number + 1):
                await _bind(client, name, f"lists/work-{number}-{index}")
        await _bind(client, names[0], "lists/done", phase="Succeeded")
        await _bind(client, names[0], "lists/broken", phase="Failed")
        await _bind(client, names[1], "lists/movable", annotations={"penstock.dev/evictable": "true"})
        owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": True}
        await _bind(client, names[2], "lists/daemon", ownerReferences=[owner])
        await _bind(client, "", "lists/unbound")
        lists = PodLists(client, page=3)
        found = await lists.many(names)
        told = {name: sorted((one.name, one.kind) for one in pods) for name, pods in found.items()}
        assert told == {name: sorted((one.name, one.kind) for one in await lists.one(name)) for name in names}
        assert [len(pods) for pods in told.values()] == [1, 3, 4, 4, 0]
        assert ("lists/movable", PodKind.MOVABLE) in told[names[1]]
        assert ("lists/daemon", PodKind.DAEMON) in told[names[2]]
        late = make_pod("told-by-the-watch", node=names[4])
        newest = await PodLists(client, watched=lambda: [late]).many(names)
        assert [one.uid for one in newest[names[4]]] == ["told-by-the-watch"]


@pytest.mark.components
async def test_c2_c13_reads_that_share_lists_see_every_pod_that_was_there_before_they_were_asked(
    kubernetes: Kubernetes,
) -> None:
    """Fifty at once, each right after a pod was bound to its node; the lists are counted."""
    rounds = 4
    async with _nodes(kubernetes, "shared", 50) as names:
        client = CountingClient(from_kubeconfig(kubernetes.kubeconfig))
        try:
            world = KubernetesWorld(client, clock=now_ms)  # its watches do not run: nothing but lists tells it

            async def check(node: str) -> None:
                for number in range(rounds):
                    await _bind(client, node, f"shared/{node}-{number}")
                    seen = {one.name for one in (await world.read(node)).pods}
                    assert seen == {f"shared/{node}-{before}" for before in range(number + 1)}

            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(check(name))
            client.asked.clear()
            await asyncio.gather(*(world.read(name) for name in names))
            assert client.asked["GET pods"] == 1, "200 pods are one page, and one list is for all"
            assert client.asked["GET nodes"] == 0
        finally:
            await client.close()


@pytest.mark.components
@pytest.mark.slow
async def test_c1_a_view_ages_when_the_server_falls_silent_and_is_whole_again_after_it(fault_bed: Bed) -> None:
    await fault_bed.start("kubernetes")
    kubernetes = fault_bed.kubernetes
    async with opened(kubernetes.kubeconfig, watch_s=3) as (world, _):

        def trusted() -> bool:
            seen = world.look()
            return all(one.complete and now_ms() - one.as_of_ms < 6_000 for one in (seen.nodes_view, seen.pods_view))

        await until("both views are whole", trusted)
        for _ in range(30):
            await asyncio.sleep(0.2)  # a quiet cluster: the views must stay young by themselves
            assert all(now_ms() - view.as_of_ms < 30_000 for view in (world.look().nodes_view, world.look().pods_view))
        for kind in (Cut.DROP, Cut.REFUSE):
            await kubernetes.cut(kind)
            await until("it is noticed", lambda: not world.look().nodes_view.complete)
            await until("by both", lambda: not world.look().pods_view.complete)
            await kubernetes.mend()
            await until("both views are whole again", trusted)


@pytest.mark.components
@pytest.mark.slow
async def test_the_process_scales_tells_how_it_is_and_stops_by_a_signal(
    kubernetes: Kubernetes, kwok: Kwok, tmp_path: Path
) -> None:
    await kubernetes.make_namespace("main")
    (tmp_path / "pools.yaml").write_text(POOLS.format(prefix="main"))
    (tmp_path / "token").write_text("word\n")
    listen = {"PENSTOCK_SERVICE_LISTEN": "127.0.0.1:0", "PENSTOCK_SCALER_LISTEN": "127.0.0.1:0"}
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **listen,
        "PENSTOCK_KUBERNETES_KUBECONFIG": str(kubernetes.kubeconfig),
        "PENSTOCK_KUBERNETES_NAMESPACE": "main",
        "PENSTOCK_SCALER_BACKLOG": "false",
        "PENSTOCK_SCALER_TOKEN_FILE": str(tmp_path / "token"),
        "PENSTOCK_LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scaler", "--pools", str(tmp_path / "pools.yaml"),
        stderr=asyncio.subprocess.PIPE, env=environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert process.stderr is not None
    addresses: dict[str, str] = {}
    try:
        async with asyncio.timeout(120), aiohttp.ClientSession() as http:
            while len(addresses) < 2:
                line = (await process.stderr.readline()).decode()
                assert line, "it ended"
                for action in ("start", "listening"):
                    if f'"action": "{action}"' in line:
                        addresses[action] = "http://" + line.split('"address": "')[1].split('"')[0]
            draining = asyncio.create_task(process.stderr.read())
            probes, nodes = addresses["start"], f"{addresses['listening']}/v1/nodes"
            headers = {"Authorization": "Bearer word"}

            async def node_is_up() -> bool:
                async with http.get(f"{probes}/ready") as ready, http.get(nodes, headers=headers) as listed:
                    return ready.status == 200 and '"idle"' in await listed.text()

            await until("its one node is up", node_is_up)
            async with http.get(nodes) as stranger:
                assert stranger.status == 401
            async with http.get(f"{probes}/metrics") as metrics:
                assert 'penstock_scaler_nodes{pool="main",state="idle"} 1.0' in await metrics.text()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            await draining
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        async with kubernetes.api() as api:
            await api.text("DELETE", "/api/v1/nodes", params={"labelSelector": "penstock.dev/pool=main"})


def test_bad_pools_end_it_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SCALER_BACKLOG", "false")
    file = tmp_path / "pools.yaml"
    assert main(["--pools", str(file), "--check"]) == 2
    assert capsys.readouterr().err == f"error: {file}: cannot be read: No such file or directory\n"
    file.write_text(POOLS.format(prefix="x").replace("min: 1", "min: 3"))
    assert main(["--pools", str(file), "--check"]) == 2
    assert "pools[0].min: 3 is more than max, 2; min may be at most that" in capsys.readouterr().err
    file.write_text(POOLS.format(prefix="x").replace("type: kwok", "type: magic"))
    assert main(["--pools", str(file), "--check"]) == 2
    assert "drivers.kwok.type: 'magic' is none of" in capsys.readouterr().err
    file.write_text(POOLS.format(prefix="x"))
    assert main(["--pools", str(file), "--check"]) == 0
    assert capsys.readouterr().out == "the settings can be used: pools main (1 to 2)\n"


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"KAFKA_SERVERS": ""}, "kafka.servers: names no broker, and the backlog is read from Kafka"),
        ({"SCALER_LISTEN": "127.0.0.1:0"}, "scaler.token_file: is missing"),
        ({"SCALER_LISTEN": "9092"}, "scaler.listen: '9092' is not HOST:PORT"),
        ({"HOOKS_POWEREDON": "no-such-program"}, "hooks.poweredon: there is no program 'no-such-program'"),
        ({"SERVICE_LISTEN": "9090"}, "service.listen: '9090' is not HOST:PORT"),
    ],
)
def test_settings_that_cannot_work_end_it_with_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    says: str,
) -> None:
    (tmp_path / "pools.yaml").write_text(POOLS.format(prefix="x"))
    for name, value in ({"KAFKA_SERVERS": "kafka:9092"} | variables).items():
        monkeypatch.setenv(f"PENSTOCK_{name}", value)
    assert main(["--pools", str(tmp_path / "pools.yaml"), "--check"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")
