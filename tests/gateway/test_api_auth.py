"""Who may do what: no credential, a wrong one, the administrator's, a function's own."""

from __future__ import annotations

import base64

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.auth import OPEN, is_admin, presented
from gateway.datadir import Credentials
from gateway.embedded import Embedded
from penstock.client import Client
from tests.gateway.conftest import COPY, fdl

ROUTES = [
    ("GET", "/v1/status"),
    ("POST", "/v1/validate"),
    ("POST", "/v1/apply"),
    ("GET", "/v1/functions"),
    ("GET", "/v1/functions/copy"),
    ("DELETE", "/v1/functions/copy"),
    ("POST", "/v1/functions/copy/pause"),
    ("POST", "/v1/functions/copy/resume"),
    ("POST", "/v1/functions/copy/backfill"),
    ("POST", "/v1/functions/copy/replay"),
    ("POST", "/v1/functions/copy/submit"),
    ("POST", "/v1/functions/copy/run"),
    ("GET", "/v1/invocations"),
    ("GET", "/v1/invocations/abcdef"),
    ("GET", "/v1/invocations/abcdef/log"),
    ("POST", "/v1/invocations/abcdef/cancel"),
    ("GET", "/v1/dead"),
    ("GET", "/v1/dead/abcdef"),
    ("POST", "/v1/dead/abcdef/retry"),
    ("DELETE", "/v1/dead/abcdef"),
    ("GET", "/v1/nodes"),
    ("GET", "/v1/nodes/-/explain"),
    ("GET", "/v1/nodes/-/ledger"),
    ("GET", "/v1/nodes/-/requests"),
    ("POST", "/v1/nodes/-/requests"),
    ("GET", "/v1/nodes/-/requests/abcdef"),
    ("DELETE", "/v1/nodes/-/requests/abcdef"),
    ("GET", "/v1/nodes/copy"),
    ("POST", "/v1/nodes/copy/on"),
    ("POST", "/v1/nodes/copy/off"),
    ("POST", "/v1/nodes/copy/enable"),
    ("POST", "/v1/nodes/copy/disable"),
    ("POST", "/v1/nodes/copy/reset"),
    ("GET", "/v1/buckets"),
    ("PUT", "/v1/buckets/inbox"),
    ("GET", "/v1/buckets/inbox/objects"),
    ("PUT", "/v1/buckets/inbox/objects/a"),
    ("GET", "/v1/buckets/inbox/objects/a"),
    ("HEAD", "/v1/buckets/inbox/objects/a"),
    ("DELETE", "/v1/buckets/inbox/objects/a"),
    ("GET", "/v1/changes"),
    ("GET", "/v1/nothing-here"),
]


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def anonymous(platform: Embedded) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(base_url=platform.address)


async def test_the_matrix_above_names_every_route(platform: Embedded) -> None:
    from gateway.api.app import make_app  # noqa: PLC0415 - used by this test alone
    from gateway.api.gate import Gate  # noqa: PLC0415

    app = make_app(platform.services, Gate(platform.services.metrics, most=1, patience_s=1))
    routes = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.resource.canonical not in OPEN
    }
    ours = {
        (method, path.replace("/copy", "/{name}").replace("/abcdef", "/{id}").replace("/inbox", "/{bucket}"))
        for method, path in ROUTES
    }
    ours = {(method, path.replace("/objects/a", "/objects/{key}")) for method, path in ours}
    # OSCAR's routes have a matrix of their own, with more callers: tests/oscar/test_authorization.py.
    assert {(method, path) for method, path in routes if method != "HEAD" and path.startswith("/v1/")} <= ours


async def test_nothing_but_the_probes_answers_without_a_credential(platform: Embedded) -> None:
    async with anonymous(platform) as session:
        for method, path in ROUTES:
            async with session.request(method, path) as answer:
                assert answer.status == 401, (method, path)
                assert answer.headers["WWW-Authenticate"] == 'Basic realm="Penstock"'
                if method != "HEAD":
                    assert "this needs a credential" in await answer.text()
        for path in sorted(OPEN):
            async with session.get(path) as answer:
                assert answer.status == 200, path


@pytest.mark.parametrize(
    "header",
    [
        "Bearer wrong",
        "Bearer",
        "Bearer ",
        "Basic !!!",
        "Basic YWRtaW4=",  # admin, no colon
        "Basic OnRva2Vu",  # no user
        "Digest x",
        "",
        "Bearer \u00e9",
    ],
)
async def test_a_wrong_credential_is_refused(platform: Embedded, header: str) -> None:
    async with anonymous(platform) as session:
        headers = {"Authorization": header}
        async with session.get("/v1/status", headers=headers) as answer:
            assert answer.status == 401


async def test_basic_with_the_token_as_password_is_the_same(platform: Embedded) -> None:
    token = platform.services.credentials.token
    async with anonymous(platform) as session:
        for user, status in (("admin", 200), ("root", 401)):
            async with session.get("/v1/status", headers={"Authorization": basic(user, token)}) as answer:
                assert answer.status == status


async def test_a_functions_own_token_invokes_that_function_and_nothing_else(platform: Embedded, client: Client) -> None:
    await client.apply(fdl(), {"copy.sh": COPY})
    await client.apply(fdl("other", source="elsewhere"), {"other.sh": COPY})
    token = (await client.function("copy"))["token"]
    async with anonymous(platform) as session:
        session.headers["Authorization"] = f"Bearer {token}"
        async with session.post("/v1/functions/copy/submit", data=b"x") as answer:
            assert answer.status == 201
        async with session.post("/v1/functions/copy/run", data=b"x") as answer:
            assert answer.status == 200
        for method, path in ROUTES:
            if path in {"/v1/functions/copy/submit", "/v1/functions/copy/run"}:
                continue
            async with session.request(method, path) as answer:
                assert answer.status == 403, (method, path)
        async with session.post("/v1/functions/other/submit", data=b"x") as answer:
            assert answer.status == 403
            assert "may only invoke that function" in await answer.text()


async def test_errors_are_json_when_asked_for_and_carry_the_request_id(http: aiohttp.ClientSession) -> None:
    headers = {"Accept": "application/json", "X-Request-Id": "mine-1"}
    async with http.get("/v1/functions/nobody", headers=headers) as answer:
        assert answer.headers["X-Request-Id"] == "mine-1"
        told = (await answer.json())["error"]
        assert (answer.status, told["code"]) == (404, "not_found")
        assert "nobody" in told["message"]
    async with http.get("/v1/functions/nobody", headers={"X-Request-Id": "not ok; "}) as answer:
        assert answer.headers["X-Request-Id"] != "not ok; "
        assert answer.content_type == "text/plain"


async def test_unknown_addresses_and_methods_are_sentences(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/nothing") as answer:
        assert answer.status == 404
        assert "there is nothing at /v1/nothing" in await answer.text()
    async with http.patch("/v1/status") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET,HEAD"
        assert "PATCH is not possible here" in await answer.text()


@given(st.text())
def test_any_header_is_parsed_or_refused(header: str) -> None:
    offered = presented(header)
    assert offered is None or not is_admin(offered, Credentials("admin", "0" * 64)) or "0" * 64 in header


@given(st.text(min_size=1).filter(lambda text: ":" not in text), st.text())
def test_basic_credentials_survive_the_way(user: str, password: str) -> None:
    assert presented(basic(user, password)) == (user, password)
