"""Who may do what: every operation, every kind of caller, every visibility. What is expected stands here as a table,
written apart from the code that decides.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.openapi.document import OPERATIONS
from gateway.openapi.model import Access, Operation
from tests.oscar.world import World, service

OWNER, ALLOWED, STRANGER = "alice", "bob", "carol"
VISIBILITIES = ("private", "restricted", "public")
#: Only the owner (and the administrator) may.
OWNERS = {
    ("PUT", "/system/services"),
    ("DELETE", "/system/services/{name}"),
    ("DELETE", "/v1/functions/{name}"),
    ("POST", "/v1/functions/{name}/pause"),
    ("POST", "/v1/functions/{name}/resume"),
    ("POST", "/v1/functions/{name}/backfill"),
    ("POST", "/v1/functions/{name}/replay"),
    ("PUT", "/system/buckets"),
    ("DELETE", "/system/buckets/{bucket}"),
}
#: Whoever may see the service, or read its bucket.
SHARED = {
    ("GET", "/system/services/{name}"),
    ("GET", "/system/services/{name}/deployment"),
    ("GET", "/system/logs/{name}"),
    ("DELETE", "/system/logs/{name}"),
    ("GET", "/system/logs/{name}/{job}"),
    ("DELETE", "/system/logs/{name}/{job}"),
    ("POST", "/job/{name}"),
    ("POST", "/run/{name}"),
    ("GET", "/v1/functions/{name}"),
    ("POST", "/v1/functions/{name}/submit"),
    ("POST", "/v1/functions/{name}/run"),
    ("GET", "/system/buckets/{bucket}"),
    ("POST", "/system/buckets/{bucket}/presign"),
    ("PUT", "/v1/buckets/{bucket}"),
    ("GET", "/v1/buckets/{bucket}/objects"),
    ("PUT", "/v1/buckets/{bucket}/objects/{key}"),
    ("GET", "/v1/buckets/{bucket}/objects/{key}"),
    ("HEAD", "/v1/buckets/{bucket}/objects/{key}"),
}
#: Whoever shares a restricted bucket, but not everybody who reads a public one.
TRUSTED = {("DELETE", "/v1/buckets/{bucket}/objects/{key}")}
#: Any user: they show or make only his own.
ANYBODY = {
    ("GET", "/system/info"),
    ("GET", "/system/config"),
    ("GET", "/system/config/"),
    ("GET", "/system/status"),
    ("GET", "/system/services"),
    ("POST", "/system/services"),
    ("GET", "/system/buckets"),
    ("POST", "/system/buckets"),
    ("GET", "/v1/status"),
    ("POST", "/v1/validate"),
    ("POST", "/v1/apply"),
    ("GET", "/v1/functions"),
    ("GET", "/v1/invocations"),
    ("GET", "/v1/invocations/{id}"),
    ("GET", "/v1/invocations/{id}/log"),
    ("POST", "/v1/invocations/{id}/cancel"),
    ("GET", "/v1/changes"),
    ("GET", "/v1/buckets"),
}
CALLERS = (
    "none",
    "wrong password",
    "wrong user",
    "garbage",
    "expired token",
    "not yet valid",
    "wrong audience",
    "wrong issuer",
    "in no group",
    "service token",
    "another's service token",
    OWNER,
    ALLOWED,
    STRANGER,
    "admin",
)
NOBODIES = frozenset(CALLERS[:8])


def expected(operation: Operation, caller: str, seen: str) -> set[int] | None:
    """The refusals of which one must come; None = it must be none of them."""
    if operation.access is Access.OPEN or operation.path == "/metrics":
        return None  # this machine may read the metrics
    if caller in NOBODIES:
        return {401}
    if caller == "service token":
        return None if operation.access is Access.INVOKE else {403}
    if caller in {"in no group", "another's service token"}:
        return {403}
    if caller == "admin" or (caller == OWNER and operation.access is not Access.ADMIN):
        return None
    return None if may(operation, caller, seen) else {403}


def may(operation: Operation, caller: str, seen: str) -> bool:
    """Of users that do not own the service and its bucket."""
    place = (operation.method, operation.path)
    if operation.access is Access.ADMIN or place in OWNERS:
        return False
    trusted = seen == "restricted" and caller == ALLOWED
    if place in SHARED:
        return trusted or seen == "public"
    if place in TRUSTED:
        return trusted
    assert place in ANYBODY, f"the table above does not say who may {place}"
    return True


def credential(world: World, caller: str, tokens: dict[str, str]) -> str:
    now = int(time.time())
    made = {
        "none": "",
        "wrong password": world.basic(password="0" * 64),
        "wrong user": world.basic(user="root"),
        "garbage": "Bearer a.b.c",
        "expired token": world.bearer(OWNER, exp=now - 3600, iat=now - 7200),
        "not yet valid": world.bearer(OWNER, nbf=now + 300),
        "wrong audience": world.bearer(OWNER, aud="another-service"),
        "wrong issuer": world.bearer(OWNER, iss="https://elsewhere.example.org"),
        "in no group": world.bearer(OWNER, groups=["others"]),
        "service token": f"Bearer {tokens['own']}",
        "another's service token": f"Bearer {tokens['other']}",
        "admin": world.basic(),
    }
    return made[caller] if caller in made else world.bearer(caller)


def address(operation: Operation, name: str, job: str) -> str:
    filled = {"name": name, "bucket": name, "job": job, "id": job, "key": "in/a"}
    path = operation.path
    for word, value in filled.items():
        path = path.replace(f"{{{word}}}", value)
    return path


def body(operation: Operation, name: str, mine: str) -> Any:
    match operation.method, operation.path:
        case ("POST", "/system/services"):
            return service(mine)
        case ("PUT", "/system/services"):
            return service(name)
        case ("POST", "/system/buckets"):
            return {"bucket_name": f"{mine}-shelf"}
        case ("PUT", "/system/buckets"):
            return {"bucket_name": name}
        case ("POST", "/system/buckets/{bucket}/presign"):
            return {"object_key": "in/a", "operation": "download"}
        case ("POST", "/v1/functions/{name}/backfill" | "/v1/functions/{name}/replay"):
            return {"dry_run": True}
        case ("POST", path) if "submit" in path or "run" in path or "job" in path:
            return b"aGVsbG8="
        case _:
            return None


async def status_of(world: World, operation: Operation, path: str, sent: Any, who: str) -> int:
    if operation.path == "/v1/changes":  # a stream without an end: its head tells
        headers = {"Authorization": who} if who else {}
        async with world.session.get(path, headers=headers) as answer:
            answer.close()
            return answer.status
    return (await world.ask(operation.method, path, sent, who=who)).status


def last_first(operation: Operation) -> tuple[bool, bool, bool]:
    """What destroys comes last, the service after its jobs and the objects before their bucket."""
    gone = operation.method == "DELETE"
    return gone, gone and "{key}" not in operation.path and "{job}" not in operation.path, "{bucket}" in operation.path


@pytest.mark.slow
@pytest.mark.parametrize("seen", VISIBILITIES)
@pytest.mark.parametrize("caller", CALLERS)
async def test_every_operation_is_for_whom_the_table_says(world: World, caller: str, seen: str) -> None:
    name = "matrix"
    owner = world.bearer(OWNER)
    own = await world.create(name, who=owner, visibility=seen, allowed_users=[ALLOWED], script="true\n")
    other = await world.create("elsewhere", who=owner)
    await world.ask("PUT", f"/v1/buckets/{name}/objects/in/a", b"x", who=owner)
    job = await world.job(name, who=owner)
    who = credential(world, caller, {"own": own["token"], "other": other["token"]})
    for operation in sorted(OPERATIONS, key=last_first):
        refusals = expected(operation, caller, seen)
        sent = body(operation, name, "mine")
        status = await status_of(world, operation, address(operation, name, job), sent, who)
        told = f"{caller} {operation.method} {operation.path} of a {seen} service: {status}"
        if refusals is None:
            assert status not in {401, 403}, told
            assert status < 500, told
        else:
            assert status in refusals, told


async def test_strangers_see_nothing_of_others_in_any_list(world: World) -> None:
    owner = world.bearer(OWNER)
    for seen in VISIBILITIES:
        await world.create(f"s-{seen}", who=owner, visibility=seen, allowed_users=[ALLOWED])
        await world.job(f"s-{seen}", who=owner)
    wanted = {
        STRANGER: {"s-public"},
        ALLOWED: {"s-public", "s-restricted"},
        OWNER: {f"s-{one}" for one in VISIBILITIES},
    }
    for caller, names in wanted.items():
        who = world.bearer(caller)
        services = (await world.ask("GET", "/system/services", who=who)).json
        assert {one["name"] for one in services} == names
        functions = (await world.ask("GET", "/v1/functions", who=who)).json["functions"]
        assert {one["name"] for one in functions} == names
        buckets = (await world.ask("GET", "/system/buckets", who=who)).json
        assert {one["bucket_name"] for one in buckets} == names
        assert {one["name"] for one in (await world.ask("GET", "/v1/buckets", who=who)).json} == names
        status = (await world.ask("GET", "/v1/status", who=who)).json
        assert ({one["name"] for one in status["functions"]}, status["data"]) == (names, "")
        invocations = (await world.ask("GET", "/v1/invocations", who=who)).json["invocations"]
        assert len(invocations) == (3 if caller == OWNER else 0)
    assert (await world.jobs("s-public", who=world.bearer(STRANGER)))["jobs"] == {}


async def test_a_sender_sees_and_removes_his_own_jobs_and_no_others(world: World) -> None:
    """Whoever sees a public service cannot delete everybody's jobs (S13), and sees his own."""
    owner, sender = world.bearer(OWNER), world.bearer(STRANGER)
    await world.create("open", who=owner, visibility="public")
    theirs, mine = await world.job("open", who=owner), await world.job("open", who=sender)
    assert set((await world.jobs("open", who=sender))["jobs"]) == {mine}
    assert set((await world.jobs("open", who=owner))["jobs"]) == {mine, theirs}
    assert (await world.ask("GET", f"/system/logs/open/{theirs}", who=sender)).status == 404
    assert (await world.ask("DELETE", f"/system/logs/open/{theirs}", who=sender)).status == 404
    assert (await world.ask("DELETE", "/system/logs/open?all=true", who=sender)).status == 204
    assert set((await world.jobs("open", who=sender))["jobs"]) == set()
    assert theirs in (await world.jobs("open", who=owner))["jobs"]


async def test_readers_get_a_token_of_their_own_that_falls_with_their_access(world: World) -> None:
    """S6: the service's token is its owner's; another reader's invokes the same, in his own name."""
    owner, reader = world.bearer(OWNER), world.bearer(ALLOWED)
    made = await world.create("shared", who=owner, visibility="restricted", allowed_users=[ALLOWED])
    seen = (await world.ask("GET", "/system/services/shared", who=reader)).json
    assert len(seen["token"]) == len(made["token"]) == 64
    assert seen["token"] != made["token"]
    job = await world.job("shared", who=f"Bearer {seen['token']}")
    assert job in (await world.jobs("shared", who=reader))["jobs"]
    body = service("shared", visibility="restricted", allowed_users=[])
    assert (await world.ask("PUT", "/system/services", body, who=owner)).status == 204
    for token, status in ((seen["token"], 401), (made["token"], 201)):
        assert (await world.ask("POST", "/job/shared", b"aGVsbG8=", who=f"Bearer {token}")).status == status


async def test_nothing_in_a_body_or_header_decides_who_somebody_is(world: World) -> None:
    """S2, S3: `owner`, `namespace`, `token` and a principal in the body count for nothing."""
    stranger = world.bearer(STRANGER)
    event = {"Records": [{"userIdentity": {"principalId": OWNER}}]}
    made = await world.create("mine", who=stranger, owner=OWNER, namespace="kube-system", token="f" * 64)
    assert made["owner"] == STRANGER
    assert made["token"] != "f" * 64
    assert "namespace" not in made
    sent = await world.ask("POST", "/job/mine?owner=alice", event, who=stranger, X_Delegated_From="elsewhere")
    assert sent.status == 201
    assert (await world.jobs("mine", who=world.basic()))["jobs"].keys() == {sent.json["job_id"]}
    admin = await world.ask("PUT", "/system/services", service("mine", owner="somebody"))
    assert admin.status == 204
    assert (await world.ask("GET", "/system/services/mine", who=stranger)).json["owner"] == STRANGER, "B3"


async def test_tokens_in_the_query_open_nothing(world: World) -> None:
    """S11."""
    made = await world.create()
    assert (await world.ask("POST", f"/job/copy?token={made['token']}", b"aGVsbG8=", who="")).status == 401


async def test_a_refused_request_reaches_no_handler(world: World) -> None:
    """S4: a token that is answered with 401 has done nothing."""
    await world.create()
    late = world.bearer(OWNER, exp=int(time.time()) - 3600)
    body = service(script="changed\n")
    assert (await world.ask("PUT", "/system/services", body, who=late)).status == 401
    assert (await world.ask("DELETE", "/system/services/copy", who=late)).status == 401
    assert (await world.ask("POST", "/job/copy", b"aGVsbG8=", who=late)).status == 401
    assert "changed" not in (await world.ask("GET", "/system/services/copy")).json["script"]
    assert (await world.jobs())["jobs"] == {}
    unknown = await world.ask("POST", "/job/nothing", b"aGVsbG8=", who=f"Bearer {'a' * 64}")
    assert unknown.status == 401, "a token tells nobody which services there are"
    assert (await world.ask("POST", "/job/nothing", b"aGVsbG8=")).status == 404
