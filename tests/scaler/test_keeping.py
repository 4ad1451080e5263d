"""What is stored, when it is decided again, and how old the backlog is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from penstock.adapters.sqlite import SqliteEventLog
from penstock.errors import Conflict, Corrupt, Fenced, Unavailable
from penstock.model import TOPIC_DEMAND, FunctionDemand
from penstock.ports import LogEntry, OrderAnswer, Outcome
from scaler import records
from scaler.backlog import Backlog
from scaler.journal import Journal
from scaler.model import Node, NodeState, OrderKind, ScalePlan, View
from scaler.records import Pending, State
from scaler.store import ConfigMapStore, packed, unpacked
from scaler.window import Window
from tests.scaler.building import NOW, make_fleet, make_node, make_order, make_pool
from tests.scaler.play import MemoryStore, Trap
from tests.testbed.kubernetes import Kubernetes

FLEET = make_fleet(make_pool("cpu"), make_pool("host", hosts=("host-1", "host-2"), max=2))


def ordered(kind: OrderKind = OrderKind.ADD, name: str = "cpu-1") -> State:
    order = make_order(kind, name, pool=name.partition("-")[0])
    return records.planned(State(), ScalePlan(now_ms=NOW, orders=(order,)), FLEET)


def test_c3_state_survives_as_bytes() -> None:
    state = ordered()
    again = unpacked(packed(state))
    assert again == state
    assert packed(again) == packed(state)
    shaped = msgspec.structs.replace(state, nodes=(make_node(allocatable=(("cpu", 1),), labels=(("a", "b"),)),))
    assert unpacked(packed(shaped)).nodes[0].allocatable == (), "the cluster tells it again"


@given(st.binary(max_size=200))
def test_bytes_that_are_no_state_are_never_an_empty_one(data: bytes) -> None:
    with pytest.raises(Corrupt):
        unpacked(data)


def test_five_thousand_nodes_fit() -> None:
    nodes = tuple(
        make_node(f"cpu-{number}", since_ms=NOW - number * 977, provider_id=f"i-{number * 7919:x}")
        for number in range(5000)
    )
    assert len(packed(State(nodes=nodes))) < 300_000


def test_an_order_that_is_under_way_is_not_written_twice() -> None:
    state = ordered()
    pending = state.orders["cpu-1"]
    again = records.planned(state, ScalePlan(now_ms=NOW + 1, orders=(make_order(OrderKind.ADD, "cpu-1"),)), FLEET)
    assert again.orders["cpu-1"] == pending
    assert again.nodes == state.nodes


@pytest.mark.parametrize(
    ("outcome", "state", "waits"),
    [
        (Outcome.ACCEPTED, NodeState.STARTING, False),
        (Outcome.TRANSIENT, NodeState.STARTING, False),
        (Outcome.CONFLICT, NodeState.STARTING, False),
        (Outcome.NOT_YET, NodeState.OFF, True),
        (Outcome.NO_CAPACITY, NodeState.FAILED_ON, True),
        (Outcome.CREDENTIALS, NodeState.FAILED_ON, True),
        (Outcome.CONFIGURATION, NodeState.FAILED_ON, True),
    ],
)
def test_c12_what_an_answer_makes_of_node_and_pool(outcome: Outcome, state: NodeState, waits: bool) -> None:
    before = ordered()
    order = before.orders["cpu-1"].order
    after = records.answered(before, order, OrderAnswer(key=order.key, outcome=outcome, id="i-1"), NOW + 5, FLEET)
    assert after.nodes[0].state is state
    assert any(pool.backoff_until_ms > NOW for pool in after.pools) is waits
    assert ("cpu-1" in after.orders) is (state is NodeState.STARTING)


def test_one_call_that_failed_for_many_nodes_is_one_failure_of_the_pool() -> None:
    state = State()
    orders = [make_order(OrderKind.ADD, f"cpu-{number}") for number in range(1, 6)]
    state = records.planned(state, ScalePlan(now_ms=NOW, orders=tuple(orders)), FLEET)
    for order in orders:
        answer = OrderAnswer(key=order.key, outcome=Outcome.NO_CAPACITY)
        state = records.answered(state, order, answer, NOW, FLEET)
    assert [pool.failures for pool in state.pools] == [1]


def test_an_answer_to_an_order_that_was_overtaken_changes_nothing() -> None:
    before = ordered()
    order = before.orders["cpu-1"].order
    old = msgspec.structs.replace(order, key="cpu-1/0")
    assert records.answered(before, old, OrderAnswer(key="cpu-1/0", outcome=Outcome.ACCEPTED), NOW, FLEET) is before
    with pytest.raises(Conflict, match="overtaken"):
        records.powering_off(before, old, NOW, FLEET)


def test_c20_a_driver_may_answer_with_another_name() -> None:
    before = ordered()
    order = before.orders["cpu-1"].order
    answer = OrderAnswer(key=order.key, outcome=Outcome.ACCEPTED, id="i-7", name="ip-10-0-0-7")
    after = records.answered(before, order, answer, NOW, FLEET)
    assert [(node.name, node.state, node.provider_id) for node in after.nodes] == [
        ("ip-10-0-0-7", NodeState.STARTING, "i-7")
    ]
    hosts = State(nodes=(Node(name="host-1", pool="host"), Node(name="host-2", pool="host")))
    order = make_order(OrderKind.START, "host-1", pool="host")
    hosts = records.planned(hosts, ScalePlan(now_ms=NOW, orders=(order,)), FLEET)
    answer = OrderAnswer(key=order.key, outcome=Outcome.ACCEPTED, id="b", name="host-2")
    after = records.answered(hosts, order, answer, NOW, FLEET)
    assert {node.name: node.state for node in after.nodes} == {
        "host-1": NodeState.OFF,
        "host-2": NodeState.STARTING,
    }


def test_orders_that_are_over_are_forgotten() -> None:
    state = ordered()
    order = state.orders["cpu-1"].order
    up = records.with_node(state, make_node("cpu-1", generation=1))
    assert records.pruned(up).orders == {}
    failed = records.with_node(state, make_node("cpu-1", NodeState.FAILED_ON, generation=1))
    removal = Pending(order=make_order(OrderKind.REMOVE, "cpu-1", key="cpu-1/2"), written_ms=NOW)
    kept = records.pruned(msgspec.structs.replace(failed, orders={"cpu-1": removal}))
    assert kept.orders == {"cpu-1": removal}
    assert not records.current(failed.nodes[0], order)


# The journal


class SlowStore(MemoryStore):
    """Lets others come meanwhile, as a server does."""

    async def save(self, state: State) -> None:
        await asyncio.sleep(0.01)
        await super().save(state)


async def test_changes_that_wait_are_stored_together_and_each_hears_of_its_own() -> None:
    store = SlowStore(Trap())
    journal = Journal(store)
    await journal.open()

    def refuse(state: State) -> State:
        raise Conflict("no")

    def add(number: int) -> Node:
        return make_node(f"cpu-{number}")

    calls = [journal.change(lambda state, n=n: records.with_node(state, add(n))) for n in range(20)]  # type: ignore[misc]
    answers = await asyncio.gather(*calls, journal.change(refuse), return_exceptions=True)
    assert isinstance(answers[-1], Conflict)
    assert len(journal.state.nodes) == 20
    assert store.writes <= 2
    assert len((await store.load()).nodes) == 20


async def test_what_could_not_be_stored_did_not_happen_and_is_read_again() -> None:
    store = MemoryStore(Trap())
    journal = Journal(store)
    await journal.open()
    store.down = True
    with pytest.raises(Unavailable):
        await journal.change(lambda state: records.with_node(state, make_node()))
    assert journal.state == State()
    store.down = False
    store.data = packed(State(nodes=(make_node("cpu-9"),)))
    state = await journal.change(lambda state: state)
    assert [node.name for node in state.nodes] == ["cpu-9"], "it may have been stored after all"


@pytest.mark.components
async def test_c19_a_second_writer_fences_the_first(kubernetes: Kubernetes) -> None:
    client = KubernetesClient(from_kubeconfig(kubernetes.kubeconfig))
    try:
        first, second = (ConfigMapStore(client, namespace="default", name="fenced") for _ in range(2))
        assert await first.load() == State()
        mine = State(nodes=(make_node(),))
        await first.save(mine)
        await first.save(State(nodes=(make_node("cpu-2"),)))
        assert [node.name for node in (await second.load()).nodes] == ["cpu-2"]
        await second.save(mine)
        with pytest.raises(Fenced, match="another scaler writes"):
            await first.save(State())
        assert await first.load() == mine
        await client.request("DELETE", "/api/v1/namespaces/default/configmaps/fenced")
        with pytest.raises(Fenced, match="was deleted"):
            await first.save(State())
        body = {"metadata": {"name": "fenced"}, "data": {"mine": "x"}}
        await client.send("POST", "/api/v1/namespaces/default/configmaps", body)
        with pytest.raises(Corrupt, match="holds no state of a scaler"):
            await second.load()
        await client.request("DELETE", "/api/v1/namespaces/default/configmaps/fenced")
    finally:
        await client.close()


# When it is decided again


def test_c4_a_burst_is_one_decision_and_bounded() -> None:
    window = Window(idle_ms=1000, most_ms=10_000)
    window.demand(5_000)
    assert window.due_ms == 6_000
    for now in range(5_500, 40_000, 500):
        window.demand(now)
    assert window.due_ms == 15_000, "however long pods pour in"
    window.change(20_000)
    assert window.due_ms == 15_000
    window.looked(15_000)
    assert window.due_ms == 20_000
    window.demand(15_100)
    assert window.due_ms == 16_100
    window.decided(15_500, 90_000)
    assert window.due_ms == 16_100, "who came while it was decided waits no longer for it"


def test_other_changes_are_looked_at_soon_and_a_plan_says_when_it_ends() -> None:
    window = Window(settle_ms=500, every_ms=5_000)
    window.looked(0)
    window.decided(0, 3_000)
    assert window.due_ms == 3_000
    window.change(1_000)
    assert window.due_ms == 1_500
    window.looked(1_500)
    window.decided(1_500, 1)
    assert window.due_ms == 2_000, "never at once again"


# The backlog


def demand(uid: str, queued: int, time_ms: int) -> LogEntry:
    value = FunctionDemand(function=uid, function_uid=uid, time_ms=time_ms, queued=queued, running=0)
    return LogEntry(uid, msgspec.json.encode(value))


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    log = await SqliteEventLog.open(tmp_path / "log.sqlite")
    yield log
    await log.close()


async def test_the_backlog_is_the_newest_word_of_each_function_and_as_old_as_the_newest(
    events: SqliteEventLog,
) -> None:
    rings: list[int] = []
    backlog = Backlog(events, changed=lambda: rings.append(1))
    await backlog.turn(wait_s=0)
    assert backlog.look() == ((), None), "there is no function"
    await events.append(TOPIC_DEMAND, [demand("a", 5, NOW), demand("b", 1, NOW + 1), demand("a", 7, NOW + 2)])
    await backlog.turn(wait_s=0)
    functions, view = backlog.look()
    assert {one.function: one.queued for one in functions} == {"a": 7, "b": 1}
    assert view == View(as_of_ms=NOW + 2)
    assert len(rings) == 1
    await events.append(TOPIC_DEMAND, [demand("a", 7, NOW + 1000)])
    await backlog.turn(wait_s=0)
    assert len(rings) == 1, "nothing changed but the time"
    await events.append(TOPIC_DEMAND, [LogEntry("a", b""), LogEntry("x", b"{"), LogEntry("b", b"")])
    await backlog.turn(wait_s=0)
    assert backlog.look() == ((), None)


async def test_what_a_dead_dispatcher_said_is_stale_not_empty(events: SqliteEventLog) -> None:
    await events.append(TOPIC_DEMAND, [demand("a", 5, NOW - 3_600_000)])
    backlog = Backlog(events, changed=lambda: None)
    assert backlog.look()[1] == View(as_of_ms=0, complete=False), "before it was read, nothing is known"
    await backlog.turn(wait_s=0)
    functions, view = backlog.look()
    assert len(functions) == 1
    assert view == View(as_of_ms=NOW - 3_600_000)
