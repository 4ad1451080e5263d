"""C21: what CLUES was told becomes pools of ours, and nothing it was told is dropped without a word."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from scaler.configuration import parse_fleet
from scaler.interface.clues_import import Imported, import_clues
from scaler.interface.clues_options import HOOK_NAMES, MAPPED, UNMAPPED

SECOND, MINUTE = 1000, 60_000
GIB = 1 << 30
CONFIG = """
[general]
CLUES_HOST=
LRMS_CLASS=cluesplugins.kubernetes
POWERMANAGER_CLASS=cluesplugins.ipmi
CLUES_SECRET_TOKEN=deadbeef
DISABLED_HOSTS=wn2 wn3

[monitoring]
MAX_WAIT_POWERON=900
MAX_WAIT_POWEROFF=600
PERIOD_MONITORING_NODES=5
TIME_OFF_GLITCH_DETECTION=30

[scheduling]
SCHEDULER_CLASSES=clueslib.schedulers.CLUES_Scheduler_PowOn_Requests, clueslib.schedulers.CLUES_Scheduler_PowOff_IDLE
IDLE_TIME=1200
COOLDOWN_NODES=90
MAX_BOOTING_NODES=2
EXTRA_NODES_FREE=1
RETRIES_POWER_ON=4
RECONSIDER_JOB_TIME=60
MADE_UP=1

[hooks]
PRE_POWERON=/usr/local/bin/announce
TIMEOUT_COMMAND=20

[KUBERNETES]
KUBERNETES_NODE_MEMORY=2 GB
KUBERNETES_NODE_SLOTS=4

[client]
LOG_LEVEL=debug
"""
VNODES = [
    {"name": "wn1", "cpu": "8", "memory": "32 GB"},
    {"name": "wn2", "cpu": "8", "memory": "32 GB"},
    {"name": "gpu1", "cpu": 16, "memory": 64 * GIB, "gpu": 2, "keywords": "zone=a,tier='fast'", "queues": "long"},
    {"name": "wn3"},
]


def imported() -> Imported:
    return import_clues({"clues2.cfg": CONFIG, "kubernetes_vnodes.info": json.dumps(VNODES)})


def reasons(found: Imported) -> dict[str, str]:
    return {line.option: line.became for line in found.unmapped}


def test_c21_one_pool_per_distinct_shape() -> None:
    fleet = parse_fleet(imported().document)
    assert [(pool.name, pool.hosts) for pool in fleet.pools] == [
        ("wn", ("wn1", "wn2")),
        ("gpu", ("gpu1",)),
        ("wn-2x", ("wn3",)),
    ]
    wn, gpu, plain = fleet.pools
    assert dict(wn.resources) == {"cpu": 8000, "memory": 32 * GIB, "pods": 110}
    assert dict(gpu.resources)["nvidia.com/gpu"] == 2
    assert gpu.labels == (("tier", "fast"), ("zone", "a"))
    assert dict(plain.resources) == {"cpu": 4000, "memory": 2 * GIB, "pods": 110}, "the shape that the file gives"


def test_c21_times_limits_and_spare_room() -> None:
    fleet = parse_fleet(imported().document)
    pool = fleet.pools[0]
    assert (pool.idle_ms, pool.min_on_ms, pool.max_booting) == (20 * MINUTE, 90 * SECOND, 2)
    assert (pool.boot_timeout_ms, pool.stop_timeout_ms, pool.driver) == (15 * MINUTE, 10 * MINUTE, "command")
    assert [rule.nodes for rule in pool.spare] == [1]
    assert fleet.pools[1].spare == ()
    assert (fleet.options.glitch_ms, fleet.options.tries) == (30 * SECOND, 4)


def test_c21_hooks_become_settings_and_disabled_hosts_become_commands() -> None:
    found = imported()
    assert found.environment == {
        "PENSTOCK_HOOKS_PRE_POWERON": "/usr/local/bin/announce",
        "PENSTOCK_HOOKS_TIMEOUT_S": "20",
    }
    assert found.commands == ("penstock node disable wn2", "penstock node disable wn3")


def test_c21_what_has_no_equivalent_is_named_with_its_reason_and_without_secrets() -> None:
    found = imported()
    told = reasons(found)
    assert "Kubernetes" in told["clues2.cfg [general] LRMS_CLASS"]
    assert told["clues2.cfg [scheduling] MADE_UP"] == "CLUES reads no option of this name"
    assert "no queues" in told["kubernetes_vnodes.info gpu1.queues"]
    assert told["clues2.cfg [client] LOG_LEVEL"].startswith("logs go")
    assert "deadbeef" not in repr(found)


def test_without_power_off_scheduler_nodes_stay_and_an_unknown_power_manager_is_told() -> None:
    only_on = "[scheduling]\nSCHEDULER_CLASSES=x.CLUES_Scheduler_PowOn_Requests\nIDLE_TIME=9\n"
    text = f"[general]\nPOWERMANAGER_CLASS=cluesplugins.one\n{only_on}"
    found = import_clues({"c": text}, hosts=["a"])
    assert parse_fleet(found.document).pools[0].idle_ms == 36500 * 24 * 60 * MINUTE
    assert "no driver like 'one'" in reasons(found)["c [general] POWERMANAGER_CLASS"]


def test_machines_that_are_made_get_a_maximum_rather_than_names() -> None:
    text = "[general]\nPOWERMANAGER_CLASS=im\n"
    found = import_clues({"c": text, "v.info": json.dumps(VNODES)})
    fleet = parse_fleet(found.document)
    assert [(pool.name_pattern, pool.max, pool.driver) for pool in fleet.pools] == [
        ("wn-{n}", 2, "infrastructure-manager"),
        ("gpu-{n}", 1, "infrastructure-manager"),
        ("wn-2x-{n}", 1, "infrastructure-manager"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"c": "[scheduling]\nIDLE_TIME=5"}, "no file names a machine"),
        ({"c": "[scheduling]\nIDLE_TIME=-5", "v.info": '[{"name": "a"}]'}, "c [scheduling] IDLE_TIME: '-5' is not"),
        ({"c": "[monitoring]\nMAX_WAIT_POWERON=0"}, "c [monitoring] MAX_WAIT_POWERON: must be longer than 0"),
        ({"c": "[KUBERNETES]\nKUBERNETES_NODE_MEMORY=lots"}, "KUBERNETES_NODE_MEMORY: 'lots' is not an amount"),
        ({"c": "no section"}, "c: is neither clues2.cfg nor a list of virtual nodes"),
        ({"v.info": "{"}, "v.info: is not JSON"),
        ({"v.info": '{"name": "a"}'}, "v.info: must be a list of virtual nodes"),
        ({"v.info": "[3]"}, 'v.info[0]: must be an object with a "name"'),
        ({"v.info": '[{"name": "a", "gpu": "two"}]'}, "v.info[0].gpu: 'two' is not a number of devices"),
        ({"v.info": '[{"name": "a", "cpu": "x"}]'}, "v.info[0].cpu: 'x' is not a quantity"),
        ({"v.info": '[{"name": "a"}, {"name": "a"}]'}, "v.info: machine 'a' is in v.info already"),
    ],
)
def test_bad_input_is_refused_with_its_place(files: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        import_clues(files)
    assert message in str(caught.value)


def test_every_option_that_the_reference_names_has_a_line() -> None:
    assert MAPPED.keys().isdisjoint(UNMAPPED)
    assert set(HOOK_NAMES) <= MAPPED.keys()
    assert len(HOOK_NAMES) == 14
    for option in [*MAPPED, *UNMAPPED]:
        value = {"POWERMANAGER_CLASS": "ipmi", "KUBERNETES_NODE_MEMORY": "1 GB"}.get(option, "1")
        found = import_clues({"c": f"[some]\n{option}={value}\n"}, hosts=["a"])
        assert [line.option for line in (*found.mapped, *found.unmapped)].count(f"c [some] {option}") == 1, option


names = st.text("abcz019.-_", min_size=1, max_size=12).filter(lambda text: text.strip() == text)
nodes = st.fixed_dictionaries(
    {"name": names},
    optional={
        "cpu": st.sampled_from(["1", "2.5", "500m", 8]),
        "memory": st.sampled_from(["1 GB", "512Mi", "2048", 1 << 33, "1.5g"]),
        "gpu": st.integers(0, 8),
        "gpu_vendor": st.sampled_from(["nvidia", "AMD", "other", ""]),
        "queues": st.text(max_size=5),
        "keywords": st.text("ab=,' ", max_size=12),
        "sgx": st.sampled_from(["yes", "no"]),
        "odd": st.integers(),
    },
)
options = st.dictionaries(
    st.sampled_from(sorted({*MAPPED, *UNMAPPED} - {"POWERMANAGER_CLASS", "KUBERNETES_NODE_MEMORY"})),
    st.integers(1, 10**6).map(str),
)


@settings(max_examples=150, deadline=None)
@given(
    machines=st.lists(nodes, min_size=1, max_size=12, unique_by=lambda node: node["name"]),
    chosen=options,
    manager=st.sampled_from(["ipmi", "im", "wol", "one", ""]),
)
def test_any_sound_input_becomes_a_sound_configuration_and_all_of_it_is_accounted_for(
    machines: list[dict[str, Any]], chosen: dict[str, str], manager: str
) -> None:
    text = "[all]\n" + "".join(f"{name}={value}\n" for name, value in chosen.items())
    found = import_clues({"c": f"{text}POWERMANAGER_CLASS={manager}\n", "v.info": json.dumps(machines)})
    fleet = parse_fleet(found.document)
    assert sum(pool.max for pool in fleet.pools) == len(machines)
    if manager != "im":
        assert sorted(host for pool in fleet.pools for host in pool.hosts) == sorted(node["name"] for node in machines)
    shapes = {(pool.resources, pool.labels) for pool in fleet.pools}
    assert len(shapes) == len(fleet.pools), "one pool per shape"
    told = [line.option for line in (*found.mapped, *found.unmapped)]
    for name in chosen:
        assert told.count(f"c [all] {name}") == 1
    for node in machines:
        assert f"v.info {node['name']}" in told
        assert ("odd" in node) == (f"v.info {node['name']}.odd" in told)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80), kind=st.sampled_from(["c", "v.info"]))
def test_any_text_is_imported_or_refused_with_its_file(text: str, kind: str) -> None:
    said = kind
    try:
        parse_fleet(import_clues({kind: text}, hosts=["host"]).document)
    except InvalidInput as error:
        said = str(error)
    assert said.startswith((kind, "pools"))


def test_the_example_of_the_guide_is_what_the_import_gives() -> None:
    guide = Path(__file__).parents[3] / "docs/how-to/migrate-from-clues.md"
    text = guide.read_text(encoding="utf-8")
    config, vnodes, result = re.findall(r"```(?:ini|json|yaml)\n(.*?)```", text, re.DOTALL)[:3]
    # PowOff_IDLE is among the schedulers of the example, under its full name.
    found = import_clues({"clues2.cfg": config, "kubernetes_vnodes.info": vnodes})
    assert found.document == yaml.safe_load(result)
