"""The page that explains the engine says what the engine does."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from scaler.configuration import parse_fleet
from scaler.engine import decide
from scaler.model import NodeState
from scaler.states import NEVER, TABLE, Move, NodeEvent
from tests.scaler.building import make_fleet, make_node, make_pod, make_pods, make_pool, make_snapshot, make_spec, woken

PAGE = (Path(__file__).parents[2] / "docs/concepts/elasticity.md").read_text(encoding="utf-8")


def test_the_state_table_is_the_one_that_runs() -> None:
    section = PAGE.split("cannot happen")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    header, _, *body = rows
    assert header[1:] == [state.value for state in NodeState]
    assert len(body) == len(NodeEvent)
    for event, cells in zip(NodeEvent, body, strict=True):
        for state, cell in zip(NodeState, cells[1:], strict=True):
            row = TABLE[state, event]
            says = row.to.value if isinstance(row, Move) else "!" if row is NEVER else "-"
            assert cell == says, f"{state.value} x {event.value}"


def test_the_example_happens() -> None:
    fleet = make_fleet(make_pool(max=4))
    busy = make_node("cpu-1", NodeState.USED)
    pods = (make_pod("b", make_spec(6000), node="cpu-1"), *make_pods(5, make_spec(3000)))
    plan = decide(make_snapshot(busy, pods=pods), fleet)
    assert woken(plan) == ["cpu-2", "cpu-3", "cpu-4"]
    assert {order.reason for order in plan.orders} == {"wake for 5 pods"}
    coming = [make_node(f"cpu-{number}", NodeState.STARTING) for number in (2, 3, 4)]
    more = (*pods, make_pod("late", make_spec(3000)))
    later = decide(make_snapshot(busy, *coming, pods=more), fleet)
    assert (later.orders, later.unhelped) == ((), ())
    beyond = (*more, *make_pods(2, make_spec(3000), prefix="x"))
    told = decide(make_snapshot(busy, *coming, pods=beyond), fleet).unhelped
    assert [(entry.owners, entry.reason) for entry in told] == [(("x0", "x1"), "pool cpu is at its maximum of 4 nodes")]


def test_the_pools_of_the_page_are_accepted() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (pool,) = parse_fleet(yaml.safe_load(block)).pools
    assert pool.hosts == ("node-01", "node-02")
