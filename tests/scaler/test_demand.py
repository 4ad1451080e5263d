from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.demand import Container, effective_request
from scaler.model import Requirement, Taint, Toleration
from scaler.packing import Axes, Bin, Bins
from scaler.predicates import matches, obstacle, ports_free, tolerates
from tests.scaler.building import make_spec


def cpu(amount: int, *, sidecar: bool = False) -> Container:
    return Container(requests=(("cpu", amount),), sidecar=sidecar)


@pytest.mark.parametrize(
    ("containers", "init", "overhead", "expected"),
    [
        ([100, 200], [], 0, 300),
        ([100], [(500, False)], 0, 500),
        ([100], [(50, True)], 0, 150),
        # The init container runs beside the sidecar started before it, not beside the one after.
        ([100], [(50, True), (500, False), (400, True)], 0, 550),
        ([100], [(50, True), (500, False), (900, True)], 0, 1050),
        ([100], [(500, False)], 25, 525),
    ],
)
def test_effective_request(containers: list[int], init: list[tuple[int, bool]], overhead: int, expected: int) -> None:
    request = effective_request(
        [cpu(amount) for amount in containers],
        [cpu(amount, sidecar=sidecar) for amount, sidecar in init],
        (("cpu", overhead),),
    )
    assert request == (("cpu", expected), ("pods", 1))


def test_an_extended_resource_of_an_init_container_counts() -> None:
    init = [Container(requests=(("nvidia.com/gpu", 2),))]
    assert effective_request([cpu(10)], init) == (("cpu", 10), ("nvidia.com/gpu", 2), ("pods", 1))


LABELS = {"size": "10", "zone": "a", "text": "x"}


@pytest.mark.parametrize(
    ("operator", "key", "values", "expected"),
    [
        ("In", "zone", ("a", "b"), True),
        ("In", "zone", ("b",), False),
        ("In", "none", ("a",), False),
        ("NotIn", "zone", ("b",), True),
        ("NotIn", "zone", ("a",), False),
        ("NotIn", "none", ("a",), True),
        ("Exists", "zone", (), True),
        ("Exists", "none", (), False),
        ("DoesNotExist", "none", (), True),
        ("DoesNotExist", "zone", (), False),
        ("Gt", "size", ("9",), True),
        ("Gt", "size", ("10",), False),
        ("Lt", "size", ("11",), True),
        ("Lt", "text", ("11",), False),
        ("Gt", "none", ("1",), False),
        ("Gt", "size", (), False),
        ("Near", "size", ("10",), False),
    ],
)
def test_requirements(operator: str, key: str, values: tuple[str, ...], expected: bool) -> None:
    assert matches(Requirement(key, operator, values), LABELS) is expected


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration(), False),
        (Toleration(key="k", value="v"), True),
        (Toleration(key="k", value="w"), False),
        (Toleration(key="k", operator="Exists"), True),
        (Toleration(key="k", operator="Exists", effect="NoExecute"), False),
        (Toleration(key="k", operator="Exists", effect="NoSchedule"), True),
        (Toleration(key="other", operator="Exists"), False),
    ],
)
def test_tolerations(toleration: Toleration, expected: bool) -> None:
    assert tolerates(toleration, Taint(key="k", value="v")) is expected


def test_obstacles() -> None:
    labels = (("zone", "a"),)
    assert obstacle(make_spec(), labels, ()) == ""
    assert obstacle(make_spec(), (), (Taint(key="k", effect="PreferNoSchedule"),)) == ""
    assert obstacle(make_spec(), (), (Taint(key="k", effect="NoExecute"),)) == "taint k=:NoExecute is not tolerated"
    assert obstacle(make_spec(selector=(("zone", "b"),)), labels, ()) == "selector zone=b does not match"
    either = ((Requirement("zone", "In", ("b",)),), (Requirement("zone", "In", ("a",)),))
    assert obstacle(make_spec(affinity=either), labels, ()) == ""
    assert "affinity" in obstacle(make_spec(affinity=either[:1]), labels, ())
    # An empty term matches nothing, as in Kubernetes.
    assert "affinity" in obstacle(make_spec(affinity=((),)), labels, ())


@pytest.mark.parametrize(
    ("wanted", "taken", "free"),
    [
        ("TCP/80", "TCP/81", True),
        ("TCP/80", "UDP/80", True),
        ("TCP/80", "TCP/80", False),
        ("10.0.0.1:TCP/80", "10.0.0.2:TCP/80", True),
        ("10.0.0.1:TCP/80", "10.0.0.1:TCP/80", False),
        ("10.0.0.1:TCP/80", "TCP/80", False),
        ("10.0.0.1:TCP/80", "0.0.0.0:TCP/80", False),
    ],
)
def test_host_ports(wanted: str, taken: str, free: bool) -> None:
    assert ports_free((wanted,), {taken}) is free


@given(
    rooms=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=80),
    groups=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 40), st.integers(0, 3)), max_size=6),
)
def test_bins_are_never_overfilled_and_first_fit_leaves_no_room_unused(
    rooms: list[tuple[int, int]], groups: list[tuple[int, int, int, int]]
) -> None:
    specs = [make_spec(requests=(("a", a), ("b", b))) for a, b, _, _ in groups]
    axes = Axes(specs, ("a", "b"))
    bins = [Bin(str(number), list(room), (), ()) for number, room in enumerate(rooms)]
    store = Bins(axes.width, bins)
    for spec, (a, b, count, per_bin) in zip(specs, groups, strict=True):
        before = [list(bin_.free) for bin_ in bins]
        placed = store.fill(spec, axes.need(spec), count, per_bin)
        total = sum(units for _, units in placed)
        assert total <= count
        assert all(units <= per_bin for _, units in placed if per_bin)
        could = [min(f[0] // a, f[1] // b if b else count, per_bin or count) for f in before]
        assert total == min(count, sum(could))
        assert all(amount >= 0 for bin_ in bins for amount in bin_.free)
        if total < count:
            store.give_back(spec, axes.need(spec), placed)
            assert [bin_.free for bin_ in bins] == before
