from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from scaler.configuration import parse_fleet, read_fleet
from scaler.fields import parse_time
from scaler.model import Taint
from scaler.pools import Billing, Caps, Options, Pool, PowerModel, Spare
from tests.scaler.building import GIB

MINIMAL: dict[str, Any] = {"name": "a", "max": 3, "resources": {"cpu": "4", "memory": "16Gi"}}


def with_pool(**changes: Any) -> dict[str, Any]:
    pool = copy.deepcopy(MINIMAL) | changes
    return {"pools": [{name: value for name, value in pool.items() if value is not None}]}


def test_everything_can_be_said() -> None:
    fleet = parse_fleet(
        {
            "pools": [
                {
                    "name": "gpu",
                    "driver": "command",
                    "hosts": ["g1", "g2"],
                    "min": 1,
                    "resources": {"cpu": 16, "memory": "64Gi", "nvidia.com/gpu": 2, "pods": 50},
                    "overhead": {"cpu": "200m"},
                    "labels": {"tier": "gpu"},
                    "taints": [{"key": "gpu", "effect": "NoExecute"}],
                    "startup_taints": [{"key": "setup", "value": "1"}],
                    "weight": 2,
                    "price_per_hour": 1.5,
                    "power": {"off": 5, "boot": 200, "idle": 150, "max": 600},
                    "billing": {"interval": "1h", "margin": "5m"},
                    "boot": "4m",
                    "boot_timeout": 900,
                    "idle": "10m",
                    "min_on": "1h",
                    "max_booting": 1,
                    "spare": [{"nodes": 1, "days": ["mon", "Friday"], "from": "08:00", "until": "24:00"}],
                }
            ],
            "options": {"fresh": 20, "loss_nodes": 5, "steer": False, "caps": {"nodes": 9, "resources": {"cpu": 64}}},
        }
    )
    assert fleet.pools == (
        Pool(
            name="gpu",
            driver="command",
            hosts=("g1", "g2"),
            min=1,
            max=2,
            resources=(("cpu", 16_000), ("memory", 64 * GIB), ("nvidia.com/gpu", 2), ("pods", 50)),
            overhead=(("cpu", 200),),
            labels=(("tier", "gpu"),),
            taints=(Taint("gpu", "", "NoExecute"),),
            startup_taints=(Taint("setup", "1"),),
            weight=2,
            price_per_hour=1.5,
            power=PowerModel(off=5, boot=200, idle=150, max=600),
            billing=Billing(interval_ms=3_600_000, margin_ms=300_000),
            boot_ms=240_000,
            boot_timeout_ms=900_000,
            idle_ms=600_000,
            min_on_ms=3_600_000,
            max_booting=1,
            spare=(Spare(nodes=1, days=(0, 4), start_min=480, until_min=0),),
        ),
    )
    assert fleet.options == Options(
        fresh_ms=20_000, loss_nodes=5, steer=False, caps=Caps(nodes=9, amounts=(("cpu", 64_000),))
    )


def test_the_least_that_must_be_said() -> None:
    (pool,) = parse_fleet(with_pool()).pools
    assert pool == Pool(
        name="a", name_pattern="a-{n}", max=3, resources=(("cpu", 4000), ("memory", 16 * GIB), ("pods", 110))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min": 4}, "pools[0].min: 4 is more than max, 3; min may be at most that"),
        ({"max": 0}, "pools[0].max: 0 is not a whole number of 1 or more"),
        ({"max": None}, "pools[0].max: is missing; give the most nodes the pool may have"),
        ({"min": -1}, "pools[0].min: -1 is not a whole number of 0 or more"),
        ({"min": True}, "pools[0].min: True is not a whole number"),
        ({"name": None}, "pools[0].name: is missing"),
        ({"name": "A b"}, "pools[0].name: 'A b' is not a name"),
        (
            {"resources": {"cpu": 4, "memroy": "1Gi"}},
            "pools[0].resources.memroy: is not a resource; did you mean 'memory'?",
        ),
        ({"resources": {"cpu": 4, "gpu": 1}}, "pools[0].resources.gpu: is not a resource; use cpu, memory"),
        ({"resources": {"cpu": 4}}, "pools[0].resources.memory: is missing or 0"),
        ({"resources": {"cpu": "-4", "memory": 1}}, "pools[0].resources.cpu: '-4' is negative"),
        ({"overhead": {"amd.com/gpu": 1}}, "pools[0].overhead.amd.com/gpu: is not among the pool's resources"),
        ({"overhead": {"cpu": 5}}, "pools[0].overhead.cpu: is more than the node offers"),
        ({"idle": -5}, "pools[0].idle: -5 is negative or too large; give 0 or more seconds"),
        ({"idle": "-5m"}, "pools[0].idle: '-5m' is negative"),
        ({"idle": "soon"}, "pools[0].idle: 'soon' is not a time"),
        ({"boot": 700}, "pools[0].boot_timeout: must be longer than boot"),
        ({"idel": 5}, "pools[0].idel: is not a field here; did you mean 'idle'?"),
        ({"hosts": ["x", "x"]}, "pools[0].hosts: names a host twice"),
        ({"hosts": ["x"], "max": 2}, "pools[0].max: 2 is more than the 1 hosts of the pool"),
        ({"hosts": ["x"], "max": 1, "name_pattern": "x-{n}"}, "pools[0].name_pattern: cannot stand beside hosts"),
        ({"name_pattern": "x"}, 'pools[0].name_pattern: must hold "{n}" once'),
        ({"power": {"idle": 100, "max": 50}}, "pools[0].power.max: 50 W is less than idle, 100 W"),
        ({"power": {"idle": -1}}, "pools[0].power.idle: -1 is not a number of 0 or more"),
        ({"power": {"idle": float("nan")}}, "pools[0].power.idle: nan is not a number"),
        ({"billing": {"interval": 60, "margin": 61}}, "pools[0].billing.margin: must be more than 0 and at most"),
        ({"taints": [{"key": "a", "effect": "Never"}]}, "pools[0].taints[0].effect: 'Never' is none of NoSchedule"),
        ({"taints": [{}]}, "pools[0].taints[0].key: is missing"),
        ({"spare": [{"nodes": 1, "days": ["someday"]}]}, "pools[0].spare[0].days[0]: 'someday' is none of mon"),
        ({"spare": [{"nodes": 1, "from": "25:00"}]}, "pools[0].spare[0].from: '25:00' is not a time of day"),
        ({"spare": [{"resources": {"x/y": 1}}]}, "pools[0].spare[0].resources.x/y: is not among the pool's"),
        ({"labels": ["a"]}, "pools[0].labels: must be a mapping"),
        ({"hosts": "x"}, "pools[0].hosts: must be a list"),
    ],
)
def test_a_mistake_in_a_pool_is_one_sentence_with_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_fleet(with_pool(**changes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"name": "a"}, "pools[1].name: 'a' is the name of pools[0] too"),
        (
            {"name": "b", "name_pattern": "a-{n}"},
            "pools[1].name_pattern: 'a-{n}' can give the same name as that of pool a",
        ),
        ({"name": "b", "name_pattern": "a-1{n}"}, "pools[1].name_pattern: 'a-1{n}' can give the same name"),
        ({"name": "b", "hosts": ["a-7"], "max": 1}, "pools[0].name_pattern: 'a-{n}' can give 'a-7', a host of pool b"),
    ],
)
def test_overlapping_pools_are_refused(second: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_fleet({"pools": [MINIMAL, MINIMAL | second]})
    assert str(caught.value).startswith(message)


def test_a_host_belongs_to_one_pool() -> None:
    one, other = MINIMAL | {"hosts": ["h"], "max": 1}, MINIMAL | {"name": "b", "hosts": ["h"], "max": 1}
    with pytest.raises(InvalidInput, match=r"pools\[1\].hosts: host 'h' is in pool a too"):
        parse_fleet({"pools": [one, other]})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the file: must be a mapping"),
        ({}, "pools: there is no pool"),
        ({"pools": [1]}, "pools[0]: must be a mapping"),
        (with_pool() | {"option": {}}, "option: is not a field here; did you mean 'options'?"),
        (with_pool() | {"options": {"steer": "yes"}}, "options.steer: 'yes' is neither true nor false"),
        (with_pool() | {"options": {"fresh": 0}}, "options.fresh: must be longer than 0"),
        (with_pool() | {"options": {"backoff": 60, "backoff_limit": 30}}, "options.backoff_limit: is shorter"),
        (
            with_pool(min=2) | {"options": {"caps": {"nodes": 1}}},
            "options.caps.nodes: 1 is less than the pools' minimums",
        ),
    ],
)
def test_mistakes_elsewhere(document: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_fleet(document)
    assert str(caught.value).startswith(message)


def test_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none.yaml: cannot be read: No such file"):
        read_fleet(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("pools: [")
    with pytest.raises(InvalidInput, match=r"bad.yaml: is not YAML"):
        read_fleet(path)


@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_a_time_is_read_or_refused_and_never_negative(value: object) -> None:
    try:
        read = parse_time(value, where="x")
    except InvalidInput as error:
        message = str(error)
        read = 0
    else:
        message = "x: "
    assert read >= 0
    assert message.startswith("x: ")


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90_000), ("1.5h", 5_400_000), (2.5, 2500), ("250ms", 250), ("1d", 86_400_000)]
)
def test_times(text: object, expected: int) -> None:
    assert parse_time(text, where="x") == expected
