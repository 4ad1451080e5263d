"""Whatever is wrong with a request gets the contract's code and one sentence, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.model import SYSTEM_BUCKET
from tests.oscar.world import World, service, world_of

#: (what is wrong, the change to a valid service, what the sentence names).
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("no name", {"name": ""}, "name"),
    ("null name", {"name": None}, "name"),
    ("name in capitals", {"name": "Copy"}, "name"),
    ("name of 40 letters", {"name": "a" * 40}, "name"),
    ("name as a list", {"name": ["copy", "other"]}, "name"),
    ("no script", {"script": ""}, "script"),
    ("cpu in words", {"cpu": "lots"}, "cpu"),
    ("cpu below zero", {"cpu": "-1"}, "cpu"),
    ("memory in words", {"memory": "much"}, "memory"),
    ("memory as a map", {"memory": {"a": 1}}, "memory"),
    ("gpu in words", {"enable_gpu": "perhaps"}, "enable_gpu"),
    ("visibility unknown", {"visibility": "secret"}, "visibility"),
    ("isolation unknown", {"isolation_level": "TEAM"}, "isolation_level"),
    ("input as text", {"input": "copy/in"}, "input"),
    ("input without path", {"input": [{"storage_provider": "minio", "path": ""}]}, "input[0].path"),
    ("input of an unknown kind", {"input": [{"storage_provider": "tape", "path": "a/b"}]}, "input[0]"),
    ("bucket in capitals", {"input": [{"storage_provider": "minio", "path": "Shelf/in"}]}, "input[0].path"),
    ("bucket of the platform", {"output": [{"storage_provider": "minio", "path": f"{SYSTEM_BUCKET}/x"}]}, "output[0]"),
    ("path that climbs", {"input": [{"storage_provider": "minio", "path": "a/../b"}]}, "input[0].path"),
    ("output into its own input", {"output": [{"storage_provider": "minio", "path": "copy/in"}]}, "output"),
    ("environment as a list", {"environment": ["A=1"]}, "environment"),
    ("variables as text", {"environment": {"variables": "A=1"}}, "environment.variables"),
    ("port out of range", {"expose": {"api_port": 70_000}}, "expose.api_port"),
    ("port in words", {"expose": {"api_port": "http"}}, "expose.api_port"),
    ("scale upside down", {"synchronous": {"min_scale": 5, "max_scale": 2}}, "synchronous"),
    ("volume without place", {"volume": {"size": "1Gi"}}, "volume"),
    ("unknown provider type", {"storage_providers": {"tape": {"x": {"a": "b"}}}}, "storage_providers"),
    ("concurrency below zero", {"concurrency": -1}, "concurrency"),
    ("retries in words", {"retries": "many"}, "retries"),
    ("batch unknown", {"batch": "some"}, "batch"),
    ("topology unknown", {"federation": {"topology": "ring"}}, "federation.topology"),
]


def one_sentence(text: str) -> bool:
    return text.endswith("\n") and text.count("\n") == 1 and 10 < len(text) < 600


@pytest.fixture
async def nothing(world: World) -> World:
    return world


async def left(world: World) -> tuple[Any, Any, list[str]]:
    """Services, buckets, and what lies in the platform's own bucket."""
    own = world.platform.data / "buckets" / SYSTEM_BUCKET
    kept = sorted(str(path.relative_to(own)) for path in own.rglob("*") if path.is_file() and path.name != "clock")
    services = (await world.ask("GET", "/system/services")).json
    return services, (await world.ask("GET", "/system/buckets")).json, kept


async def test_each_wrong_field_is_named_and_nothing_is_made(world: World) -> None:
    for what, change, named in WRONG:
        answer = await world.ask("POST", "/system/services", service() | change)
        assert answer.status == 400, (what, answer.status, answer.text)
        assert one_sentence(answer.text), (what, answer.text)
        assert named in answer.text, (what, answer.text)
        asked = await world.ask("POST", "/system/services", service() | change, Accept="application/json")
        assert asked.json["error"]["code"] == "invalid", what
    assert await left(world) == ([], [], [])


async def test_an_update_with_a_wrong_field_leaves_the_old_definition(world: World) -> None:
    made = await world.create()
    for what, change, _ in WRONG:
        wrong = made | change
        if wrong["name"] != "copy":
            continue
        answer = await world.ask("PUT", "/system/services", wrong)
        assert answer.status == 400, (what, answer.status, answer.text)
    assert (await world.ask("GET", "/system/services/copy")).json == made
    answer = await world.ask("PUT", "/system/services", made | {"volume": {"mount_path": "/data", "size": "1Gi"}})
    assert (answer.status, "volume" in answer.text) == (400, True)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"copy"', b"\xff\xfe", b"{" * 5000, b'{"name": NaN}'])
@pytest.mark.parametrize("route", ["/system/services", "/system/buckets"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_what_is_no_json_object(world: World, method: str, route: str, body: bytes) -> None:
    answer = await world.ask(method, route, body)
    assert (answer.status, one_sentence(answer.text)) == (400, True), answer.text


async def test_names_that_are_taken(world: World) -> None:
    await world.create()
    answer = await world.ask("POST", "/system/services", service())
    assert (answer.status, "exists already" in answer.text, one_sentence(answer.text)) == (409, True, True)
    who = world.bearer("alice")
    answer = await world.ask("POST", "/system/services", service("other", output=service()["output"]), who=who)
    assert (answer.status, "bucket copy belongs to somebody else" in answer.text) == (409, True)
    assert (await world.ask("GET", "/system/services/other")).status == 404


async def test_buckets_that_are_wrong_missing_or_foreign(world: World) -> None:
    await world.ask("POST", "/system/buckets", {"bucket_name": "shelf"})
    link = {"object_key": "a", "operation": "download"}
    cases: list[tuple[str, str, Any, int]] = [
        ("POST", "/system/buckets", {}, 400),
        ("POST", "/system/buckets", {"bucket_name": "A"}, 400),
        ("POST", "/system/buckets", {"bucket_name": "10.0.0.1"}, 400),
        ("POST", "/system/buckets", {"bucket_name": SYSTEM_BUCKET}, 400),
        ("POST", "/system/buckets", {"bucket_name": "ok-name", "visibility": "secret"}, 400),
        ("POST", "/system/buckets", {"bucket_name": "ok-name", "allowed_users": "x\ny"}, 400),
        ("POST", "/system/buckets", {"bucket_name": "shelf"}, 409),
        ("PUT", "/system/buckets", {"bucket_name": "nothing"}, 404),
        ("GET", "/system/buckets/nothing", None, 404),
        ("GET", "/system/buckets/shelf?page=%25", None, 400),
        ("GET", "/system/buckets/shelf?limit=0", None, 400),
        ("GET", f"/system/buckets/{SYSTEM_BUCKET}", None, 403),
        ("DELETE", "/system/buckets/nothing", None, 404),
        ("POST", "/system/buckets/nothing/presign", link, 404),
        ("POST", f"/system/buckets/{SYSTEM_BUCKET}/presign", link, 403),
        ("POST", "/system/buckets/shelf/presign", link | {"operation": "delete"}, 400),
        ("POST", "/system/buckets/shelf/presign", link | {"object_key": ""}, 400),
        ("POST", "/system/buckets/shelf/presign", link | {"expires_in": 700_000}, 400),
        ("POST", "/system/buckets/shelf/presign", link | {"expires_in": -1}, 400),
        ("POST", "/system/buckets/shelf/presign", {"object_key": "a"}, 400),
    ]
    for method, path, body, status in cases:
        answer = await world.ask(method, path, body)
        assert (answer.status, one_sentence(answer.text)) == (status, True), (method, path, body, answer.text)
    assert [one["bucket_name"] for one in (await world.ask("GET", "/system/buckets")).json] == ["shelf"]


async def test_names_of_services_and_jobs_that_are_none(world: World) -> None:
    await world.create()
    cases = [
        ("GET", "/system/services/nothing", 404),
        ("GET", "/system/services/not%20a%20label", 400),
        ("GET", "/system/services/" + "a" * 200, 400),
        ("DELETE", "/system/services/nothing", 404),
        ("GET", "/system/services/nothing/deployment", 404),
        ("GET", "/system/logs/nothing", 404),
        ("GET", "/system/logs/copy/nothing", 404),
        ("DELETE", "/system/logs/copy/nothing", 404),
        ("GET", "/system/logs/copy?limit=many", 400),
        ("GET", "/system/logs/copy?status=Sleeping", 400),
        ("DELETE", "/system/logs/copy?all=perhaps", 400),
        ("POST", "/job/nothing", 404),
        ("POST", "/run/nothing", 404),
    ]
    for method, path, status in cases:
        answer = await world.ask(method, path)
        assert (answer.status, one_sentence(answer.text)) == (status, True), (method, path, answer.text)


async def test_bodies_that_are_too_large(tmp_path: Path) -> None:
    async with world_of(tmp_path / "data", http={"max_payload_bytes": 1000, "max_document_bytes": 2000}) as world:
        await world.create()
        for path in ("/job/copy", "/run/copy"):
            answer = await world.ask("POST", path, b"A" * 1001)
            assert (answer.status, one_sentence(answer.text)) == (413, True)
        answer = await world.ask("POST", "/system/services", service("second", script="x" * 3000))
        assert (answer.status, "larger than the 2,000 bytes" in answer.text) == (413, True)
        assert (await world.jobs())["jobs"] == {}
