"""The document: every route is in it and no other, it is well formed, and real answers are as it says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from aiohttp import web

from gateway.api.app import make_app
from gateway.api.gate import Gate
from gateway.openapi.document import OPERATIONS, document
from gateway.openapi.model import Access
from gateway.openapi.page import page, welcome
from tests.oscar.schemas import Checker
from tests.oscar.world import World, service


def app_of(world: World) -> web.Application:
    services = world.platform.services
    return make_app(services, Gate(services.metrics, most=1, patience_s=1))


def routes_of(world: World) -> set[tuple[str, str]]:
    routes = {
        (route.method, route.resource.canonical)
        for route in app_of(world).router.routes()
        if route.resource is not None
    }
    # HEAD comes with every GET; only of objects it is an operation of its own.
    return {(method, path) for method, path in routes if method != "HEAD" or path.endswith("{key}")}


async def test_every_route_is_in_the_document_and_no_other(world: World) -> None:
    described = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    assert described == routes_of(world)


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own | {name for value in part.values() for name in references(value)}
    if isinstance(part, list):
        return {name for value in part for name in references(value)}
    return set()


def test_the_document_is_well_formed() -> None:
    described = document()
    assert described["openapi"] == "3.1.0"
    known = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert references(described) <= known
    names = [one["operationId"] for methods in described["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS)
    for path, methods in described["paths"].items():
        for one in methods.values():
            given = [item["name"] for item in one["parameters"] if item["in"] == "path"]
            assert given == re.findall(r"\{(\w+)\}", path)
            assert one["summary"].endswith(".")
            assert set(one["tags"]) <= {tag["name"] for tag in described["tags"]}


def test_what_needs_no_credential_is_just_this() -> None:
    opened = {one.path for one in OPERATIONS if one.access is Access.OPEN}
    assert opened == {"/health", "/ready", "/", "/ui", "/ui/api", "/openapi.json"}


async def test_the_document_is_served_without_a_credential(world: World) -> None:
    answer = await world.ask("GET", "/openapi.json", who="")
    assert (answer.status, answer.json) == (200, json.loads(json.dumps(document())))


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.places.add(f"#{value}")
            if name in {"href", "src"} and value:
                self.links.add(value)


@pytest.mark.parametrize("html", [page(), welcome()], ids=["interface", "welcome"])
def test_the_page_needs_no_network_and_no_script(html: bytes) -> None:
    read = _Links()
    read.feed(html.decode())
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert {link for link in read.links if not link.startswith("#")} <= {"/ui/api", "/openapi.json"}
    assert {link for link in read.links if link.startswith("#")} <= read.places


async def test_the_page_names_every_operation(world: World) -> None:
    answer = await world.ask("GET", "/ui/api", who="")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for one in OPERATIONS:
        assert f"<b>{one.method}</b> <code>{one.path}</code>" in answer.text


def test_the_checker_sees_what_is_wrong() -> None:
    checker = Checker(document())
    info = {"$ref": "#/components/schemas/Info"}
    right = {
        "version": "v",
        "git_commit": "",
        "architecture": "a",
        "kubernetes_version": "",
        "serverless_backend": {"name": "n", "version": "v"},
        "penstock_version": "1",
    }
    assert checker.problems(right, info) == []
    assert checker.problems(right | {"version": None}, info)
    assert checker.problems(right | {"serverless_backend": {"name": 3}}, info)
    assert checker.problems({"version": "v"}, info)
    with pytest.raises(AttributeError):
        checker.problems(1, {"multipleOf": 2})


def schema_of(method: str, path: str, status: int) -> Any:
    answer = document()["paths"][path][method.lower()]["responses"][str(status)]
    return answer.get("content", {}).get("application/json", {}).get("schema")


async def test_real_answers_are_as_the_document_says(world: World) -> None:
    """One answer at least of every operation that answers JSON with a success."""
    await world.create(environment={"variables": {"A": "1"}, "secrets": {"S": "x"}}, vo="")
    await world.ask("POST", "/system/buckets", {"bucket_name": "shelf"})
    invocation = await world.job()
    await world.ask("POST", "/run/copy", b"aGVsbG8=")
    await world.ask("PUT", "/v1/buckets/shelf/objects/a", b"data")
    fdl: dict[str, Any] = {
        "fdl": "functions:\n  oscar:\n  - here:\n      name: two\n      image: i\n      script: two.sh\n"
    }
    fdl |= {"scripts": {"two.sh": "true\n"}}
    asked: list[tuple[str, str, str, Any]] = [
        ("GET", "/ready", "/ready", None),
        ("GET", "/openapi.json", "/openapi.json", None),
        ("GET", "/system/info", "/system/info", None),
        ("GET", "/system/config", "/system/config", None),
        ("GET", "/system/config/", "/system/config/", None),
        ("GET", "/system/status", "/system/status", None),
        ("GET", "/system/services", "/system/services?include=deployment", None),
        ("GET", "/system/services/{name}", "/system/services/copy?include=deployment", None),
        ("GET", "/system/services/{name}/deployment", "/system/services/copy/deployment", None),
        ("GET", "/system/buckets", "/system/buckets", None),
        ("GET", "/system/buckets/{bucket}", "/system/buckets/shelf?limit=1", None),
        (
            "POST",
            "/system/buckets/{bucket}/presign",
            "/system/buckets/shelf/presign",
            {"object_key": "a", "operation": "download"},
        ),
        ("GET", "/system/logs/{name}", "/system/logs/copy", None),
        ("POST", "/job/{name}", "/job/copy", b"aGVsbG8="),
        ("GET", "/v1/status", "/v1/status", None),
        ("POST", "/v1/validate", "/v1/validate", fdl),
        ("POST", "/v1/apply", "/v1/apply", fdl),
        ("GET", "/v1/functions", "/v1/functions", None),
        ("GET", "/v1/functions/{name}", "/v1/functions/copy", None),
        ("POST", "/v1/functions/{name}/backfill", "/v1/functions/copy/backfill", {"dry_run": True}),
        ("POST", "/v1/functions/{name}/replay", "/v1/functions/copy/replay", {}),
        ("POST", "/v1/functions/{name}/submit", "/v1/functions/copy/submit", b"aGVsbG8="),
        ("GET", "/v1/invocations", "/v1/invocations", None),
        ("GET", "/v1/invocations/{id}", f"/v1/invocations/{invocation}", None),
        ("GET", "/v1/dead", "/v1/dead", None),
        ("GET", "/v1/buckets", "/v1/buckets", None),
        ("PUT", "/v1/buckets/{bucket}", "/v1/buckets/other", None),
        ("GET", "/v1/buckets/{bucket}/objects", "/v1/buckets/shelf/objects", None),
        ("PUT", "/v1/buckets/{bucket}/objects/{key}", "/v1/buckets/shelf/objects/b", b"data"),
    ]
    checker = Checker(document())
    for method, route, path, body in asked:
        label = {"Content_Type": "application/json"} if isinstance(body, dict) else {}
        answer = await world.ask(method, path, body, **label)
        assert answer.status < 300, (method, path, answer.text)
        assert checker.problems(answer.json, schema_of(method, route, answer.status)) == [], (method, path)
    described = {
        (one.method, one.path)
        for one in OPERATIONS
        if any(status < 300 and reply.kind is not None for status, reply in one.replies.items())
    }
    # An invocation that ends by itself cannot be cancelled, nothing is dead here, and there is no scaler: other tests
    # look at these.
    others = ("/v1/dead/{id}", "/v1/nodes")
    elsewhere = {path for _, path in described if path.startswith(others) or path.endswith("/cancel")}
    assert {path for method, path in described if (method, path) not in {(m, r) for m, r, _, _ in asked}} == elsewhere


async def test_errors_as_json_are_as_the_document_says(world: World) -> None:
    answer = await world.ask("POST", "/system/services", service(cpu="lots"), Accept="application/json")
    assert answer.status == 400
    assert Checker(document()).problems(answer.json, schema_of("POST", "/system/services", 400)) == []
    assert answer.json["error"]["where"] == "cpu"
