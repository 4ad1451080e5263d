"""Programs as drivers: what they print, how they end, and the recipes of the manual, run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Forbidden, InvalidInput, Unavailable, Unsupported
from penstock.ports import NodeAdd, NodeTarget, Outcome, ProviderState, StopHow
from scaler.drivers.command import OUTCOMES, CommandProvider, CommandSpec
from scaler.drivers.configuration import Parts, parse_configuration
from scaler.drivers.process import run
from scaler.pools import Pool
from tests.scaler.building import make_pool

PAGE = (Path(__file__).parents[2] / "docs/how-to/node-drivers.md").read_text(encoding="utf-8")
HOSTS = make_pool("rack", hosts=("node-01", "node-02"), max=2)
MADE = make_pool("spot", name_pattern="spot-{n}")


def program(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


def provider(*pools: Pool, environment: Mapping[str, str] | None = None, **spec: Any) -> CommandProvider:
    words: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in spec.items()}
    variables = environment or {"PATH": os.environ["PATH"]}
    return CommandProvider(CommandSpec(**words), pools or (HOSTS,), environment=variables)


@pytest.mark.parametrize(
    "printed",
    [
        "node-01 on\\nnode-02 off",
        "node-01 ON id-1\\n\\n  node-02 off id-2 rack key/1  ",
        '[{"name": "node-01", "state": "on"}, {"name": "node-02", "state": "off", "more": 1}]',
        '{"name": "node-01", "state": "on"}\\n{"name": "node-02", "state": "off"}',
    ],
)
async def test_a_list_is_json_or_lines(tmp_path: Path, printed: str) -> None:
    found = await provider(list=[program(tmp_path, "list", f"printf '{printed}'")]).list()
    assert {node.name: node.state for node in found} == {"node-01": ProviderState.ON, "node-02": ProviderState.OFF}
    assert all(node.ours and node.pool == "rack" for node in found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo node-01 on; exit 3", "ended with code 3"),
        ("echo node-01 on; echo no route to host >&2; exit 1", "no route to host"),
        ("echo node-01 on", "does not list node-02"),
        ('printf \'[{"name": "node-01", "st\'', "cannot be read"),
        ("echo node-01 burning; echo node-02 on", "a line is NAME STATE"),
        ('echo \'[{"name": "node-01", "state": "hot"}]\'', "the state 'hot'"),
        ("", "does not list node-01, node-02"),
        ("kill -9 $$", "ended with code -9"),
    ],
)
async def test_w1_a_list_that_is_not_whole_is_an_error_and_never_shorter(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(Unavailable, match=re.escape(why)):
        await provider(list=[program(tmp_path, "list", text)]).list()


async def test_w1_lines_about_made_machines_must_say_that_they_are_all(tmp_path: Path) -> None:
    for text in ("", "echo spot-1 on i-1 spot k/1"):
        with pytest.raises(Unavailable, match="'end' as its last line"):
            await provider(MADE, list=[program(tmp_path, "list", text)]).list()
    assert await provider(MADE, list=[program(tmp_path, "list", "echo end")]).list() == []
    (node,) = await provider(MADE, list=[program(tmp_path, "list", "echo spot-1 on i-1 spot k/1; echo end")]).list()
    assert (node.id, node.pool, node.key, node.ours) == ("i-1", "spot", "k/1", True)
    (stranger,) = await provider(MADE, list=[program(tmp_path, "list", "echo other on; echo end")]).list()
    assert not stranger.ours, "without a key it was not made by us"


async def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    text = f"sleep 1000 & echo $! > {tmp_path}/child; echo node-01 on; wait"
    driver = provider(list=[program(tmp_path, "list", text)], timeout_s=1.0)
    with pytest.raises(Unavailable, match="ran into its time-out"):
        await driver.list()
    await gone(int((tmp_path / "child").read_text()))


async def gone(pid: int) -> None:
    """A killed orphan may stay for a moment as a zombie until its new parent looks."""
    deadline = time.monotonic() + 60
    while True:
        try:
            stat = await asyncio.to_thread(Path(f"/proc/{pid}/stat").read_text, encoding="utf-8")
        except FileNotFoundError:
            return
        if stat.rsplit(")", 1)[1].split()[0] == "Z":
            return
        assert time.monotonic() < deadline, "it still runs"
        await asyncio.sleep(0.02)


async def test_a_cancelled_call_kills_its_program(tmp_path: Path) -> None:
    driver = provider(start=[program(tmp_path, "on", f"echo $$ > {tmp_path}/pid; exec sleep 1000")], stop=["true"])
    task = asyncio.create_task(driver.start([NodeTarget(key="k/1", id="node-01", name="node-01")]))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    await gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(("code", "outcome"), [*OUTCOMES.items(), (1, Outcome.TRANSIENT), (127, Outcome.TRANSIENT)])
async def test_c12_the_exit_code_says_what_became_of_an_order(tmp_path: Path, code: int, outcome: Outcome) -> None:
    driver = provider(start=[program(tmp_path, "on", f"echo why >&2; exit {code}")], stop=["true"])
    (answer,) = await driver.start([NodeTarget(key="k/1", id="node-01", name="node-01")])
    assert (answer.key, answer.outcome) == ("k/1", outcome)
    assert answer.message == ("" if code == 0 else f"{tmp_path}/on ended with code {code}: why")


async def test_credentials_refused_by_a_list_pause_the_driver(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="token expired"):
        await provider(list=[program(tmp_path, "list", "echo token expired >&2; exit 77")]).list()


async def test_c20_one_word_or_json_is_the_real_name(tmp_path: Path) -> None:
    lists = [program(tmp_path, "list", "echo end")]
    for printed, name in (
        ("ip-10-0-0-7", "ip-10-0-0-7"),
        ('{"id": "i-9", "name": "other"}', "other"),
        ("a b", "spot-1"),
    ):
        driver = provider(MADE, list=lists, add=[program(tmp_path, "add", f"echo '{printed}'")], remove=["true"])
        (answer,) = await driver.add([NodeAdd(key="spot-1/1", name="spot-1", pool="spot")])
        assert (answer.outcome, answer.name) == (Outcome.ACCEPTED, name)


async def test_words_are_put_into_arguments_and_the_environment_and_there_is_no_shell(tmp_path: Path) -> None:
    text = f'printf "%s|" "$@" > {tmp_path}/said; echo >> {tmp_path}/said; env >> {tmp_path}/said'
    driver = provider(
        start=[program(tmp_path, "on", text), "-H", "{address}", "$(reboot); {name}"],
        stop=["true"],
        hosts={"node-01": {"address": "10.0.0.1"}},
        environment={"PATH": os.environ["PATH"], "MINE": "1"},
    )
    (answer,) = await driver.start([NodeTarget(key="node-01/4", id="bmc-1", name="node-01")])
    assert answer.outcome is Outcome.ACCEPTED
    said = (tmp_path / "said").read_text()
    assert said.startswith("-H|10.0.0.1|$(reboot); node-01|")
    variables = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    assert variables["PENSTOCK_NODE"] == "node-01"
    assert (variables["PENSTOCK_ID"], variables["PENSTOCK_KEY"]) == ("bmc-1", "node-01/4")
    assert (variables["PENSTOCK_POOL"], variables["PENSTOCK_ADDRESS"], variables["MINE"]) == ("rack", "10.0.0.1", "1")
    assert not {"PENSTOCK_TOKEN", "KUBECONFIG"} & variables.keys()


async def test_what_has_no_program_is_refused(tmp_path: Path) -> None:
    driver = provider(start=["true"], stop=["true"], list=["true"])
    assert not driver.capabilities.add_remove
    with pytest.raises(Unsupported, match="no program to add"):
        await driver.add([NodeAdd(key="k/1", name="x", pool="rack")])
    with pytest.raises(Unsupported, match="suspend"):
        await driver.stop([NodeTarget(key="k/1", id="node-01")], how=StopHow.SUSPEND)
    with pytest.raises(Unavailable, match="cannot be started"):
        await provider(list=[str(tmp_path / "missing")]).list()


async def test_endless_output_is_bounded() -> None:
    with pytest.raises(Unavailable, match="printed more than"):
        await run(["head", "-c", "20000000", "/dev/zero"], {"PATH": os.environ["PATH"]}, timeout_s=60)


@given(st.text())
def test_whatever_a_list_prints_is_a_list_or_unavailable(text: str) -> None:
    driver = provider(list=["x"])
    try:
        nodes = [driver._node(one) for one in driver._parsed(text)]
    except Unavailable:
        return
    assert all(node.name for node in nodes)


# The recipes of the manual


def recipe(number: int) -> tuple[Any, list[str]]:
    blocks = re.findall(r"```(yaml|sh)\n(.*?)```", PAGE, flags=re.DOTALL)
    documents = [yaml.safe_load(text) for kind, text in blocks if kind == "yaml"]
    return documents[number], [text for kind, text in blocks if kind == "sh"]


def made_of(document: Any, pools: list[dict[str, Any]] | None = None) -> Any:
    configuration = parse_configuration({"pools": pools or document["pools"], "drivers": document["drivers"]})
    (driver,) = configuration.drivers
    return driver.make(Parts(lambda: 0))


async def test_the_recipe_for_ipmi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"""
[ "$4" = 10.0.0.2 ] && echo "Unable to establish session" >&2 && exit 1
case "${{10}}" in
status) echo "Chassis Power is $(cat {tmp_path}/$4 2>/dev/null || echo off)" ;;
on) echo on > {tmp_path}/$4; echo "Chassis Power Control: Up/On" ;;
soft|off) echo "${{10}}" > {tmp_path}/last; echo off > {tmp_path}/$4; echo "Chassis Power Control: Down/Off" ;;
esac"""
    program(tmp_path, "ipmitool", text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    driver = made_of(recipe(0)[0])
    first, second = await driver.list()
    assert (first.state, second.state) == (ProviderState.OFF, ProviderState.UNKNOWN)
    assert "Unable to establish session" in second.message
    target = NodeTarget(key="node-01/1", id="node-01", name="node-01")
    (answer,) = await driver.start([target])
    assert (answer.outcome, answer.name) == (Outcome.ACCEPTED, "node-01")
    assert (await driver.list())[0].state is ProviderState.ON
    for how, word in ((StopHow.SOFT, "soft"), (StopHow.HARD, "off")):
        await driver.stop([target], how=how)
        assert (tmp_path / "last").read_text().strip() == word
    assert (await driver.list())[0].state is ProviderState.OFF


async def test_the_recipe_for_wake_on_lan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, scripts = recipe(1)
    program(tmp_path, "wakeonlan", f'[ "$1" = 00:11:22:33:44:55 ] && touch {tmp_path}/up')
    program(tmp_path, "ping", f'[ "$5" = node-01 ] && test -e {tmp_path}/up')
    program(tmp_path, "ssh", f'[ "$3" = root@node-01 ] && [ "$5" = poweroff ] && rm {tmp_path}/up')
    document["drivers"]["lan"]["status"] = [program(tmp_path, "alive.sh", scripts[0])]
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    pool = {"name": "rack", "driver": "lan", "hosts": ["node-01"], "resources": {"cpu": 8, "memory": "8Gi"}}
    driver = made_of(document, [pool])
    target = NodeTarget(key="node-01/1", id="node-01", name="node-01")
    states = [(await driver.list())[0].state]
    await driver.start([target])
    states.append((await driver.list())[0].state)
    await driver.stop([target])
    states.append((await driver.list())[0].state)
    assert states == [ProviderState.OFF, ProviderState.ON, ProviderState.OFF]


async def test_the_recipe_for_a_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, scripts = recipe(2)
    cloud = f"""
store={tmp_path}/servers; mkdir -p $store
case "$2" in
list) for file in $store/*; do test -e "$file" && cat "$file"; done | jq -s . ;;
create) [ "$4" = spot-9 ] && echo "quota exceeded" >&2 && exit 1
  key="${{6#penstock-key=}}"; pool="${{8#penstock-pool=}}"
  printf '{{"name":"%s","id":"i-%s","status":"running","labels":{{"penstock-key":"%s","penstock-pool":"%s"}}}}' \\
    "$4" "$4" "$key" "$pool" > $store/i-$4; printf '{{"id":"i-%s"}}' "$4" ;;
delete) rm "$store/$3" ;;
esac"""
    program(tmp_path, "cloud", cloud)
    script = program(tmp_path, "cloud.sh", scripts[1])
    for verb in ("list", "add", "remove"):
        document["drivers"]["cloud"][verb][0] = script
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    driver = made_of(document)
    full = NodeAdd(key="spot-9/1", name="spot-9", pool="spot")
    made, refused = await driver.add([NodeAdd(key="spot-1/1", name="spot-1", pool="spot"), full])
    assert (made.outcome, made.id, refused.outcome) == (Outcome.ACCEPTED, "i-spot-1", Outcome.NO_CAPACITY)
    (node,) = await driver.list()
    assert (node.name, node.key, node.pool, node.state) == ("spot-1", "spot-1/1", "spot", ProviderState.ON)
    await driver.remove([NodeTarget(key="spot-1/2", id="i-spot-1", name="spot-1")])
    assert await driver.list() == []


def test_the_manual_s_other_files_are_accepted(tmp_path: Path) -> None:
    document, _ = recipe(3)
    entry = document["drivers"]["cloud"]
    with pytest.raises(InvalidInput, match=r"/etc/penstock/auth.dat: cannot be read"):
        parse_configuration(document)
    (tmp_path / "auth.dat").write_text("id = im; type = InfrastructureManager; token = x")
    entry["authorization_file"] = str(tmp_path / "auth.dat")
    assert [driver.name for driver in parse_configuration(document).drivers] == ["cloud"]


POOL = {"name": "rack", "driver": "bmc", "hosts": ["node-01"], "resources": {"cpu": 8, "memory": "8Gi"}}
GOOD: dict[str, Any] = {"type": "command", "list": ["l"], "start": ["a"], "stop": ["b"]}


@pytest.mark.parametrize(
    ("drivers", "message"),
    [
        ({}, "pools[0].driver: 'bmc' is none of the drivers; describe it under drivers.bmc"),
        ({"bmc": GOOD, "other": GOOD}, "drivers.other: no pool names this driver; pools use bmc"),
        ({"bmc": GOOD | {"type": "magic"}}, "drivers.bmc.type: 'magic' is none of simulated, command, kwok, infra"),
        ({"bmc": GOOD | {"list": []}}, "drivers.bmc.list: is missing; give the program that lists"),
        (
            {"bmc": {"type": "command", "list": ["l"]}},
            "drivers.bmc.start: is missing; the pools of this driver need it",
        ),
        ({"bmc": GOOD | {"start": "ipmitool on"}}, "drivers.bmc.start: must be a list of arguments"),
        ({"bmc": GOOD | {"timeout": "-1s"}}, "drivers.bmc.timeout: '-1s' is negative"),
        ({"bmc": GOOD | {"at_once": 0}}, "drivers.bmc.at_once: must be more than 0"),
        ({"bmc": GOOD | {"hosts": {"node-7": {}}}}, "drivers.bmc.hosts.node-7: is a host of no pool"),
        ({"bmc": GOOD | {"hosts": {"node-01": {"a b": "1"}}}}, "drivers.bmc.hosts.node-01.a b: is not a name"),
        ({"bmc": GOOD | {"stpo": ["x"]}}, "drivers.bmc.stpo: is not a field here; did you mean 'stop'?"),
        ([], "drivers: must be a mapping"),
    ],
)
def test_a_mistake_in_a_driver_is_one_sentence_with_the_field(drivers: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_configuration({"pools": [POOL], "drivers": drivers})
    assert str(caught.value).startswith(message)
