"""/v1/nodes over real sockets: in the scaler's own process, and handed on by the gateway's proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from penstock.client.core import Calls
from penstock.errors import Conflict, InvalidInput, NotFound, Unavailable
from scaler.control import Explanation, NodeInfo
from scaler.interface.answers import RequestDocument, explanation_view, request_spec
from scaler.interface.api import make_node_app
from scaler.interface.ledger import Books, LedgerReport, report
from scaler.interface.proxy import NodeProxy, add_node_proxy
from scaler.interface.remote import NodeCalls
from scaler.model import (
    Kept,
    NodeOrder,
    NodeState,
    OrderKind,
    PoolRecord,
    Requirement,
    Reservation,
    ScalePlan,
    Toleration,
    Unhelped,
    View,
)
from tests.scaler.building import make_fleet
from tests.scaler.interface.desk import Desk, served

TOKEN = "the-token-of-the-test"
GIB = 1 << 30


def info(name: str = "cpu-1", state: NodeState = NodeState.IDLE, **fields: Any) -> NodeInfo:
    return NodeInfo(name=name, pool="cpu", state=state, enabled=True, **fields)


PLAN = ScalePlan(
    now_ms=1000,
    next_ms=5000,
    orders=(NodeOrder(kind=OrderKind.ADD, node="cpu-2", pool="cpu", key="cpu-2/1", reason="wake for 3 pods"),),
    kept=(Kept(node="cpu-1", reason="idle for less than 300 s", until_ms=9000),),
    unhelped=(Unhelped(owners=("a", "b"), count=7, reason="pool cpu is at its maximum", hopeless=True),),
    reservations=(
        Reservation(node="cpu-2", owners=("x", "y"), until_ms=8000),
        Reservation(node="cpu-9", owners=("z",), until_ms=-500),
    ),
    steered=frozenset({"b", "a"}),
)
EXPLANATION = Explanation(
    plan=PLAN,
    views={"nodes": View(as_of_ms=900)},
    pools=(PoolRecord(name="cpu", failures=2, backoff_until_ms=7000, why="no capacity"),),
    alarms=("driver x is paused",),
    decisions=4,
    seconds=0.25,
)


class NoBooks:
    async def ledger(self, month: str) -> LedgerReport:
        return report(Books(), make_fleet(), month or "2026-11")


@pytest.fixture
def desk() -> Desk:
    offers = (("cpu", 7800), ("memory", 32 * GIB), ("nvidia.com/gpu", 2))
    return Desk(
        info(offers=offers, used=(("cpu", 1500),), labels=(("zone", "a"),), reason="kept", pods=2),
        info("cpu-2", NodeState.OFF),
        explanation=EXPLANATION,
    )


@pytest.fixture(params=["own process", "through the gateway"])
async def calls(request: pytest.FixtureRequest, desk: Desk) -> AsyncIterator[NodeCalls]:
    async with served(make_node_app(desk, token=lambda: TOKEN, ledger=NoBooks())) as (address, _):
        if request.param == "own process":
            async with Calls(address, TOKEN) as client:
                yield NodeCalls(client.ask)
            return
        proxy = NodeProxy(address, lambda: TOKEN)
        app = web.Application()
        add_node_proxy(app, proxy)
        async with served(app) as (front, _), Calls(front) as client:
            yield NodeCalls(client.ask)
        await proxy.close()


async def test_list_and_show(calls: NodeCalls) -> None:
    first, second = await calls.nodes()
    assert (first.name, first.state, first.pods, first.labels) == ("cpu-1", "idle", 2, {"zone": "a"})
    assert first.offers == {"cpu": "7800m", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert first.used == {"cpu": "1500m"}
    assert await calls.node("cpu-2") == second
    with pytest.raises(NotFound, match="there is no node 'gone/2'"):
        await calls.node("gone/2")


async def test_orders_of_a_person(calls: NodeCalls, desk: Desk) -> None:
    assert (await calls.order("cpu-2", "on")).state == "starting"
    with pytest.raises(Conflict, match="2 pods run on node cpu-1"):
        await calls.order("cpu-1", "off")
    assert (await calls.order("cpu-1", "off", force=True)).state == "draining"
    assert not (await calls.order("cpu-1", "disable")).enabled
    assert (await calls.order("cpu-1", "enable")).enabled
    await calls.order("cpu-1", "reset")
    assert desk.calls == ["on cpu-2", "off force cpu-1", "disable cpu-1", "enable cpu-1", "reset cpu-1"]


async def test_explain_tells_every_decision(calls: NodeCalls) -> None:
    found = await calls.explain()
    assert found == explanation_view(EXPLANATION)
    assert [(one.kind, one.node, one.reason) for one in found.orders] == [("add", "cpu-2", "wake for 3 pods")]
    assert (found.kept[0].reason, found.unhelped[0].count, found.steered) == ("idle for less than 300 s", 7, ["a", "b"])
    assert [(one.node, one.owners) for one in found.promises] == [("cpu-2", 2)], "a promise that is over is none"


async def test_c20_requests_with_gang_and_expressions(calls: NodeCalls, desk: Desk) -> None:
    document = RequestDocument(
        resources={"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": "1"},
        tasks=4,
        per_node=2,
        expressions=['kubernetes.io/arch == "arm64"', "!slow"],
    )
    made = await calls.submit(document)
    assert (made.id, made.state, made.reason, made.tasks) == ("r1", "waiting", "2 nodes are coming", 4)
    assert made.resources == {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    assert made.expression == 'kubernetes.io/arch == "arm64" && !slow'
    request = desk.asked["r1"].request
    assert (request.per_node, request.until_ms) == (2, 600_000)
    assert dict(request.spec.requests) == {"cpu": 2000, "memory": 4 * GIB, "nvidia.com/gpu": 1, "pods": 1}
    assert request.spec.affinity == (
        (Requirement("kubernetes.io/arch", "In", ("arm64",)), Requirement("slow", "DoesNotExist")),
    )
    assert await calls.requests() == [made]
    assert await calls.request("r1") == made
    assert (await calls.withdraw("r1")).state == "over"
    with pytest.raises(NotFound, match="there is no request 'r2'"):
        await calls.request("r2")


async def test_the_ledger(calls: NodeCalls) -> None:
    assert (await calls.ledger()).month == "2026-11"
    assert (await calls.ledger("2026-10")).month == "2026-10"


def test_a_request_says_which_taints_it_puts_up_with() -> None:
    texts = ["gpu", "gpu=yes:NoSchedule", "zone=", "night:NoExecute"]
    spec = request_spec(RequestDocument(resources={"cpu": 1}, tolerations=texts))
    assert spec.tolerations == (
        Toleration("gpu", "Exists"),
        Toleration("gpu", "Equal", "yes", "NoSchedule"),
        Toleration("zone", "Equal", ""),
        Toleration("night", "Exists", "", "NoExecute"),
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"resources": {"cpus": 1}}, "resources.cpus: is not a resource; did you mean 'cpu'?"),
        ({"resources": {"cpu": "-1"}}, "resources.cpu: '-1' is negative"),
        ({"resources": {}}, "resources: is empty"),
        ({"resources": {"cpu": 1}, "tasks": 0}, "tasks: 0 is not a whole number from 1"),
        ({"resources": {"cpu": 1}, "per_node": -1}, "per_node: -1 is not a whole number from 0"),
        ({"resources": {"cpu": 1}, "hold_s": 1e9}, "hold_s: 1e+09 is not from 0 to 86400 seconds"),
        ({"resources": {"cpu": 1}, "expressions": ["a &&"]}, "expressions: something is missing"),
        ({"resources": {"cpu": 1}, "tolerations": ["=x"]}, "tolerations: '=x' is not KEY, KEY=VALUE or either with"),
        ({"resources": {"cpu": 1}, "tolerations": ["a:No"]}, "tolerations: 'a:No' is not KEY, KEY=VALUE or either"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        request_spec(RequestDocument(**document))
    assert str(caught.value).startswith(message)


async def test_requests_to_the_scaler_itself_need_its_token_and_say_what_is_wrong(desk: Desk) -> None:
    async with served(make_node_app(desk, token=lambda: TOKEN)) as (address, session):
        own = {"Authorization": f"Bearer {TOKEN}"}
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}):
            async with session.get(f"{address}/v1/nodes", headers=headers) as answer:
                assert answer.status == 401
                assert TOKEN not in await answer.text()
        for method, path, body, status, text in (
            ("GET", "/v1/nodes?pool=cpu", None, 400, "?pool: there is no parameter of this name here"),
            ("POST", "/v1/nodes/cpu-1/off?force=maybe", None, 400, "?force: give 1 or 0"),
            ("POST", "/v1/nodes/-/requests", b"{", 400, "request body: this is not JSON"),
            ("POST", "/v1/nodes/-/requests", b'{"resources": {"cpu": 1}, "task": 2}', 400, "unknown field `task`"),
            ("POST", "/v1/nodes/-/requests", b" " * 70_000, 400, "is larger than 65536 bytes"),
            ("GET", "/v1/nodes/-/ledger", None, 404, ""),
        ):
            async with session.request(method, address + path, data=body, headers=own) as answer:
                assert (answer.status, text in await answer.text()) == (status, True), path
    async with (
        served(make_node_app(desk, token=lambda: "")) as (address, session),
        session.get(f"{address}/v1/nodes", headers={"Authorization": "Bearer "}) as answer,
    ):
        assert answer.status == 401, "without a token nobody is let in"


async def test_a_scaler_that_does_not_answer_or_know_the_gateway_is_told_as_such(desk: Desk) -> None:
    async def asked(proxy: NodeProxy) -> str:
        app = web.Application(middlewares=[_worded])
        add_node_proxy(app, proxy)
        async with served(app) as (front, session), session.get(f"{front}/v1/nodes") as answer:
            text = await answer.text()
        await proxy.close()
        return text

    async with served(make_node_app(desk, token=lambda: TOKEN)) as (address, _):
        assert (
            await asked(NodeProxy(address, lambda: "old"))
            == "the scaler does not take the gateway's token; give both the same"
        )
    assert (await asked(NodeProxy(address, lambda: TOKEN))).startswith("the scaler does not answer: ")


@web.middleware
async def _worded(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)  # type: ignore[no-any-return]
    except Unavailable as error:
        return web.Response(status=503, text=error.message)
