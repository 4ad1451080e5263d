"""/v1/nodes through the whole gateway, with the scaler's routes behind: credentials, refusals and the document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest

from gateway.api.server import address_of, bind, serving
from gateway.embedded import Embedded
from gateway.openapi.document import document
from gateway.openapi.nodes import OPERATIONS
from penstock.errors import InvalidInput
from scaler.interface.api import make_node_app, node_routes
from scaler.interface.proxy import ROUTES, NodeProxy, TokenFile
from scaler.model import NodeState
from tests.oscar.schemas import Checker
from tests.oscar.test_fuzz import fuzz
from tests.oscar.test_openapi import schema_of
from tests.oscar.world import World, world_of
from tests.scaler.interface.desk import Desk, served
from tests.scaler.interface.test_api import EXPLANATION, NoBooks, info

#: Names that the requests of the fuzz know.
NODES = ("copy", "shelf")


@pytest.fixture
def desk() -> Desk:
    offers = (("cpu", 7800), ("memory", 32 << 30))
    return Desk(
        info(NODES[0], offers=offers, used=(("cpu", 1500),), pods=2),
        info(NODES[1], NodeState.OFF),
        explanation=EXPLANATION,
    )


@pytest.fixture
async def front(desk: Desk, tmp_path: Path) -> AsyncIterator[World]:
    """The gateway's application over an embedded platform, with a scaler's interface behind it."""
    word = tmp_path / "token"
    word.write_text("word\n")
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(world_of(tmp_path / "data"))
        behind = make_node_app(desk, token=TokenFile(word), ledger=NoBooks())
        address, _ = await stack.enter_async_context(served(behind))
        proxy = NodeProxy(address, TokenFile(word))
        stack.push_async_callback(proxy.close)
        services = replace(world.platform.services, nodes=proxy)
        sock = bind("127.0.0.1:0", allow_remote=False)
        front_address, _ = address_of(sock)
        await stack.enter_async_context(serving(services, sock))
        session = await stack.enter_async_context(aiohttp.ClientSession(base_url=front_address))
        platform = cast("Embedded", SimpleNamespace(address=front_address, services=services))
        yield World(platform, world.issuer, session)


def test_the_proxy_and_the_document_name_the_scaler_s_routes_and_no_others() -> None:
    theirs = {(route.method, route.path) for route in node_routes(Desk(), NoBooks())}
    assert set(ROUTES) == theirs == {(one.method, one.path) for one in OPERATIONS}


async def test_real_answers_are_as_the_document_says(front: World) -> None:
    wanted = {"resources": {"cpu": 2}, "tasks": 2, "expressions": ["gpu"]}
    checker = Checker(document())
    for one in sorted(OPERATIONS, key=lambda one: (one.path != "/v1/nodes/-/requests", one.method == "DELETE")):
        path = one.path.replace("{name}", NODES[1]).replace("{id}", "r1")
        body = wanted if one.body is not None else None
        answer = await front.ask(one.method, path, body, Content_Type="application/json")
        assert answer.status in one.replies, (one.path, answer.text)
        assert checker.problems(answer.json, schema_of(one.method, one.path, answer.status)) == [], one.path
        if answer.status == 201:
            assert answer.headers["Location"] == "/v1/nodes/-/requests/r1"


async def test_errors_of_the_scaler_are_errors_of_the_gateway(front: World) -> None:
    checker = Checker(document())
    for method, path, route, status, says in (
        ("GET", "/v1/nodes/gone", "/v1/nodes/{name}", 404, "there is no node 'gone'"),
        ("POST", "/v1/nodes/copy/off", "/v1/nodes/{name}/off", 409, "2 pods run on node copy"),
        ("POST", "/v1/nodes/copy/off?force=maybe", "/v1/nodes/{name}/off", 400, "give 1 or 0"),
    ):
        answer = await front.ask(method, path, Accept="application/json")
        assert (answer.status, says in answer.json["error"]["message"]) == (status, True), answer.text
        assert checker.problems(answer.json, schema_of(method, route, status)) == []
    large = await front.ask("POST", "/v1/nodes/-/requests", b" " * 70_000)
    assert (large.status, "larger than the 65,536 bytes" in large.text) == (413, True)
    assert (await front.ask("DELETE", "/v1/nodes/copy")).status == 405


async def test_only_the_administrator_reaches_the_scaler(front: World, desk: Desk) -> None:
    for who, status in (("", 401), (front.basic(password="0" * 64), 401), (front.bearer("alice"), 403)):
        for one in OPERATIONS:
            path = one.path.replace("{name}", NODES[1]).replace("{id}", "r1")
            assert (await front.ask(one.method, path, who=who)).status == status, (one.method, path)
    assert (desk.calls, desk.asked) == ([], {})
    assert (await front.ask("POST", "/v1/nodes/shelf/on")).status == 202
    assert desk.calls == ["on shelf"]


async def test_whatever_is_sent_the_answer_is_one_of_the_document(front: World) -> None:
    answered = await fuzz(front, 200, derandomize=True, within="/v1/nodes")
    assert {200, 202, 400, 401, 404} <= set(answered), answered


async def test_without_a_scaler_every_route_says_so(tmp_path: Path) -> None:
    async with world_of(tmp_path / "data") as world:
        for one in OPERATIONS:
            answer = await world.ask(one.method, one.path.replace("{name}", "a").replace("{id}", "a"))
            assert answer.status == 404
            assert answer.text.startswith("this server switches no nodes: it knows of no scaler")


@pytest.mark.parametrize(
    "address",
    ["scaler:9092", "http://", "ftp://scaler:1", "http://user@scaler:9092", "http://scaler:9092/v1", "http://s:x"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"gateway\.scaler: .* is no address; give one like http://HOST:9092"):
        NodeProxy(address, lambda: "")
