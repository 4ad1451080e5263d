"""The cluster's objects as the engine sees them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.kube import NodeObject, PodObject, amounts, mark_of, pod_of, sighting_of
from scaler.model import PodKind, PodSpec, Requirement, Taint, Toleration

MIB = 1 << 20


def pod(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **meta: Any) -> PodObject:
    document = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", **meta},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}], **(spec or {})},
        "status": status or {"phase": "Pending"},
    }
    return msgspec.json.decode(msgspec.json.encode(document), type=PodObject)


def read(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **meta: Any) -> Any:
    return pod_of(pod(spec, status, **meta), {})


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
}


@pytest.mark.parametrize(
    ("text", "millis"), [("3920m", 3920), ("1", 1000), ("0.5", 500), ("1.5", 1500), ("2e0", 2000), ("1u", 1)]
)
def test_w21_processors_are_read_as_kubernetes_writes_them(text: str, millis: int) -> None:
    assert amounts({"cpu": text}) == (("cpu", millis),)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1.5Gi", 1536 * MIB),
        ("1G", 10**9),
        ("128974848000m", 128974848),
        ("1Pi", 1 << 50),
        ("1E", 10**18),
        ("12e6", 12_000_000),
    ],
)
def test_w21_memory_is_read_exactly(text: str, count: int) -> None:
    assert amounts({"memory": text}) == (("memory", count),)


def test_w21_an_amount_that_cannot_be_read_names_the_pod_and_ends_nothing() -> None:
    found = read({"containers": [{"resources": {"requests": {"cpu": "much"}}}]})
    assert found.spec.unmodelled
    assert "much" in found.spec.unmodelled[0]


def test_sidecars_count_beside_containers_and_init_containers_do_not() -> None:
    def asks(cpu: str, **more: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [asks("1"), asks("500m")],
        "initContainers": [asks("250m", restartPolicy="Always"), asks("4")],
        "overhead": {"cpu": "100m"},
    }
    assert dict(read(spec).spec.requests) == {"cpu": 4350, "pods": 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": UNSCHEDULABLE}, ("", True, "")),
        ({}, ("", False, "")),
        ({"spec": {"nodeName": "x"}, "status": {"phase": "Running"}}, ("x", False, "")),
        ({"spec": {"schedulingGates": [{"name": "g"}]}}, ("", False, "gated")),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, ("", False, "terminating")),
        ({"status": UNSCHEDULABLE | {"nominatedNodeName": "y"}}, ("", True, "nominated")),
    ],
)
def test_c5_what_counts_as_demand(changes: dict[str, Any], expected: tuple[str, bool, str]) -> None:
    found = read(**changes)
    assert (found.node, found.unschedulable, found.parked) == expected


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_what_has_finished_is_gone(phase: str) -> None:
    assert read(status={"phase": phase}) is None


@pytest.mark.parametrize(
    ("meta", "kind"),
    [
        ({}, PodKind.WORK),
        ({"ownerReferences": [{"kind": "Job", "controller": True}]}, PodKind.WORK),
        ({"ownerReferences": [{"kind": "DaemonSet", "controller": True}]}, PodKind.DAEMON),
        ({"ownerReferences": [{"kind": "DaemonSet"}]}, PodKind.WORK),
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, PodKind.MIRROR),
        ({"annotations": {"penstock.dev/evictable": "true"}}, PodKind.MOVABLE),
        ({"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}}, PodKind.WORK),
    ],
)
def test_c2_every_pod_pins_its_node_unless_it_says_otherwise(meta: dict[str, Any], kind: PodKind) -> None:
    assert read(**meta).kind is kind


def test_w22_selectors_affinity_and_tolerations_with_any_key() -> None:
    expression = {"key": "node.kubernetes.io/gpu-model", "operator": "In", "values": ["a100", "h100"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    found = read(
        {
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        }
    ).spec
    assert found.selector == (("kubernetes.io/arch", "amd64"),)
    assert found.affinity == ((Requirement("node.kubernetes.io/gpu-model", "In", ("a100", "h100")),),)
    assert found.tolerations == (Toleration("gpu", "Exists", "", "NoSchedule"),)
    assert found.unmodelled == ()


ANTI = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"affinity": {"podAntiAffinity": ANTI}}, "pod anti-affinity"),
        ({"affinity": {"podAffinity": ANTI}}, "pod affinity"),
        ({"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]}, "topology spread"),
        ({"resourceClaims": [{"name": "gpu"}]}, "resource claims"),
        ({"resources": {"requests": {"cpu": "1"}}}, "resources of the pod as a whole"),
    ],
)
def test_what_is_not_modelled_is_named(spec: dict[str, Any], word: str) -> None:
    assert read(spec).spec.unmodelled == (word,)


def test_what_only_sorts_is_no_obstacle() -> None:
    soft = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    spread = [{"whenUnsatisfiable": "ScheduleAnyway"}]
    assert read({"affinity": {"podAntiAffinity": soft}, "topologySpreadConstraints": spread}).spec.unmodelled == ()


def test_host_ports_and_gangs() -> None:
    labels = {"penstock.dev/gang": "g", "penstock.dev/gang-size": "4", "penstock.dev/gang-per-node": "two"}
    ports = [{"hostPort": 80, "protocol": "TCP"}, {"hostPort": 53, "hostIP": "10.0.0.1", "protocol": "UDP"}, {}]
    found = read({"containers": [{"ports": ports}]}, labels=labels)
    assert found.spec.host_ports == ("TCP/80", "10.0.0.1:UDP/53")
    assert (found.gang, found.gang_size, found.gang_per_node) == ("n/g", 4, 0)


def test_alike_pods_share_one_spec() -> None:
    specs: dict[PodSpec, PodSpec] = {}
    first, second = pod_of(pod(), specs), pod_of(pod(uid="v"), specs)
    assert first is not None
    assert second is not None
    assert first.spec is second.spec


@given(
    st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), st.text(max_size=6)),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
)
def test_whatever_a_pod_asks_for_it_is_read(requests: dict[str, str], selector: dict[str, str]) -> None:
    found = read({"containers": [{"resources": {"requests": requests}}], "nodeSelector": selector})
    assert found.uid == "u"


def node(ready: str = "True", **spec: Any) -> NodeObject:
    document = {
        "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"b": "2", "a": "1"}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "3920m", "memory": "1Gi"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }
    return msgspec.json.decode(msgspec.json.encode(document), type=NodeObject)


def test_a_node_with_its_amounts_labels_and_taints() -> None:
    found = sighting_of(node(taints=[{"key": "gpu", "effect": "NoSchedule"}]))
    assert (found.ready, found.labels) == (True, (("a", "1"), ("b", "2")))
    assert found.allocatable == (("cpu", 3920), ("memory", 1 << 30))
    assert found.taints == (Taint("gpu"),)
    assert not sighting_of(node("Unknown")).ready


def test_our_own_cordon_is_left_out_and_a_person_s_is_not() -> None:
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    ours = {"key": "penstock.dev/removing", "effect": "NoSchedule"}
    steer = {"key": "penstock.dev/steer", "effect": "PreferNoSchedule"}
    assert sighting_of(node(taints=[cordon, ours, steer], unschedulable=True)).taints == ()
    assert sighting_of(node(taints=[cordon, steer], unschedulable=True)).taints == (
        Taint("node.kubernetes.io/unschedulable"),
    )
    mark = mark_of(node(taints=[cordon, ours, steer]))
    assert (mark.removing, mark.steered, mark.version) == (True, True, "7")
    assert not mark_of(node(taints=[cordon])).removing
