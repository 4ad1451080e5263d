"""What real clients of OSCAR rely on: bodies, codes, and the rules that were learned from their traffic."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.model import SYSTEM_BUCKET
from tests.live import running
from tests.oscar.world import World, service, settings_with, world_of

Until = Callable[..., Awaitable[Any]]


async def ended(world: World, until: Until, job: str, name: str = "copy") -> dict[str, Any]:
    async def look() -> Any:
        return (await world.jobs(name))["jobs"].get(job, {})

    found: dict[str, Any] = await until(look, lambda one: one.get("status") in {"Succeeded", "Failed"})
    return found


async def test_create_read_update_delete_with_the_codes_that_clients_check(world: World) -> None:
    """Rule 9 and 11: 201, 204, 204; a second PUT changes nothing."""
    assert (await world.ask("GET", "/system/services/copy")).status == 404
    made = await world.ask("POST", "/system/services", service())
    assert (made.status, made.body) == (201, b"")
    first = (await world.ask("GET", "/system/services/copy")).json
    for _ in range(2):
        assert (await world.ask("PUT", "/system/services", first | {"cpu": "0.5"})).status == 204
    second = (await world.ask("GET", "/system/services/copy")).json
    assert second == first | {"cpu": "0.5"}, "what was read back is the same again, token and owner included"
    gone = await world.ask("DELETE", "/system/services/copy", b'"copy"')
    assert (gone.status, gone.body) == (204, b""), "rule 19: a body is ignored"
    assert (await world.ask("DELETE", "/system/services/copy")).status == 404
    assert (await world.ask("PUT", "/system/services", service())).status == 404


async def test_nothing_that_clients_index_is_ever_missing_or_null(world: World) -> None:
    """Rules 5 and 7."""
    assert (await world.ask("GET", "/system/services")).json == []
    assert (await world.ask("GET", "/system/buckets")).json == []
    made = await world.create(cpu=1.5, memory="1Gi", input=None, output=None)
    listed = (await world.ask("GET", "/system/services")).json
    for one in (made, listed[0]):
        assert (one["cpu"], one["memory"]) == ("1.5", "1Gi")
        assert (one["expose"], one["input"], one["output"], one["allowed_users"]) == ({}, [], [], [])
        for name in ("name", "image", "owner", "token"):
            assert isinstance(one[name], str)
            assert one[name]
        assert one["labels"]["owner_name"] == "oscar"
    config = (await world.ask("GET", "/system/config")).json
    assert config["config"]["oidc_groups"] == ["researchers"]
    assert set(config["minio_provider"]) == {"endpoint", "verify", "access_key", "secret_key", "region"}
    assert config["minio_provider"]["region"]


async def test_json_is_read_whatever_its_label_and_whatever_the_case_of_its_keys(world: World) -> None:
    """Rules 1, 4, 5, 6."""
    body = service(
        environment={"Variables": {"Name": 3}, "Secrets": {"KEY": "x"}},
        rescheduler_threshold=0,
        delegation="",
        nodePort=0,
        imageRules=[None],
        input=[{"Storage_Provider": "minio", "PATH": "copy/in"}],
    )
    for label in ("application/x-www-form-urlencoded", "text/plain", "nonsense"):
        answer = await world.ask("POST", "/system/services", body, Content_Type=label)
        assert answer.status == 201, (label, answer.text)
        shown = (await world.ask("GET", "/system/services/copy")).json
        assert shown["environment"] == {"variables": {"Name": "3"}, "secrets": {"KEY": ""}}
        assert "rescheduler_threshold" not in shown
        await world.ask("DELETE", "/system/services/copy")


@pytest.mark.parametrize("port", [80, "80", [80]])
async def test_ports_are_taken_in_any_form_and_left_out_for_the_old_client(world: World, port: object) -> None:
    """Rule 8."""
    await world.create(expose={"api_port": port, "nodePort": 0})
    shown = (await world.ask("GET", "/system/services")).json[0]
    assert shown["expose"]["api_port"] == [80]
    assert "nodePort" not in shown["expose"]
    old = (await world.ask("GET", "/system/services", User_Agent="Go-http-client/1.1")).json[0]
    assert "api_port" not in old["expose"]


@pytest.mark.parametrize("label", ["application/json", "application/x-www-form-urlencoded", ""])
async def test_bodies_of_runs_are_bytes_whatever_their_label(world: World, label: str) -> None:
    """Rules 2 and 3: mislabelled, chunked, empty."""
    await world.create(script='cat "$INPUT_FILE_PATH"\n')
    headers = {"Content_Type": label} if label else {}
    answer = await world.ask("POST", "/run/copy", b"aGVsbG8=", **headers)
    assert (answer.status, answer.body.strip()) == (200, b"hello")

    async def pieces() -> Any:
        for piece in (b"aGVs", b"bG8="):
            yield piece

    chunked = {"Authorization": world.basic()} | ({"Content-Type": label} if label else {})
    skipped = ("Content-Type",)
    async with world.session.post("/run/copy", data=pieces(), headers=chunked, skip_auto_headers=skipped) as sent:
        assert (sent.status, (await sent.read()).strip()) == (200, b"hello")
    assert (await world.ask("POST", "/run/copy", b"", **headers)).status == 200
    assert (await world.ask("POST", "/job/copy", b"", **headers)).status == 201


async def test_a_body_that_is_no_input_is_the_callers_mistake(world: World) -> None:
    await world.create()
    answer = await world.ask("POST", "/run/copy", b"this is not base64!")
    assert (answer.status, "base64" in answer.text) == (400, True)


async def test_the_callers_credential_goes_no_further_than_the_gateway(world: World, until: Until) -> None:
    """S9, S12: a script sees its own token and nobody's password."""
    await world.create(script="env; cat /proc/self/environ\n")
    answer = await world.ask("POST", "/run/copy", b"aGVsbG8=", who=world.bearer())
    assert answer.status == 403
    answer = await world.ask("POST", "/run/copy", b"aGVsbG8=", X_Secret="from-the-caller")
    assert world.password not in answer.text
    assert "from-the-caller" not in answer.text
    assert "OSCAR_SERVICE_TOKEN=" in answer.text


async def test_errors_are_one_sentence_of_text_unless_json_is_asked_for(world: World) -> None:
    """Rules 10 and 20."""
    answer = await world.ask("GET", "/system/services/nothing", X_Request_Id="mine-1")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert (answer.text, answer.headers["X-Request-Id"]) == ("there is no function named nothing\n", "mine-1")
    answer = await world.ask("GET", "/system/services/nothing", Accept="application/json")
    assert answer.json["error"]["code"] == "not_found"


async def test_slashes_and_empty_parameters(world: World) -> None:
    """Rule 12."""
    await world.create()
    assert (await world.ask("GET", "/system/config/")).status == 200
    assert (await world.ask("GET", "/system/logs/copy?page=")).json == {"jobs": {}}
    assert (await world.ask("GET", "/system/buckets/copy?limit=&page=")).status == 200


async def test_browsers_are_answered_before_authentication(world: World) -> None:
    """Rule 14."""
    asked = {"Origin": "https://dashboard.example.org", "Access_Control_Request_Method": "PUT"}
    for path in ("/system/services", "/job/copy", "/nothing/here"):
        answer = await world.ask("OPTIONS", path, who="", **asked)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "*")
        allowed = answer.headers["Access-Control-Allow-Headers"]
        assert {"authorization", "content-type", "x-requested-with"} <= set(allowed.split(", "))
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            assert method in answer.headers["Access-Control-Allow-Methods"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    refused = await world.ask("GET", "/system/services", who="", Origin="https://dashboard.example.org")
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, "*")


async def test_origins_can_be_narrowed_down(tmp_path: Path) -> None:
    async with world_of(tmp_path / "data", allowed_origins="https://ours.example.org") as world:
        for origin, told in (("https://ours.example.org", "https://ours.example.org"), ("https://else.org", None)):
            answer = await world.ask("OPTIONS", "/system/services", who="", Origin=origin)
            assert answer.headers.get("Access-Control-Allow-Origin") == told


async def test_the_version_is_one_that_clients_can_read(world: World) -> None:
    """Rule 16."""
    info = (await world.ask("GET", "/system/info")).json
    match = re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)", info["version"])
    assert match is not None
    assert tuple(map(int, match.groups())) >= (4, 1, 0)
    assert info["architecture"] in {"amd64", "arm64"}


async def test_passwords_of_clusters_are_neither_kept_nor_shown(world: World) -> None:
    """Rule 18, S6."""
    clusters = {"here": {"endpoint": "https://x", "auth_user": "oscar", "auth_password": "hunter2-password"}}
    providers = {"minio": {"default": {"endpoint": "https://m", "access_key": "AK", "secret_key": "hunter2-secret"}}}
    made = await world.create(clusters=clusters, storage_providers=providers)
    await world.ask("PUT", "/system/services", made)
    kept = b"".join(path.read_bytes() for path in (world.platform.data / "db").glob("registry*"))
    for place in (json.dumps(made).encode(), kept):
        assert b"hunter2" not in place
    assert made["storage_providers"]["minio"]["default"]["access_key"] == "hidden"


async def test_a_blank_secret_is_unchanged_and_a_missing_one_is_removed(world: World) -> None:
    made = await world.create(environment={"secrets": {"KEY": "s3cr3t"}}, script='printf %s "$KEY"\n')
    assert made["environment"]["secrets"] == {"KEY": ""}
    await world.ask("PUT", "/system/services", made)
    assert (await world.ask("POST", "/run/copy", b"")).body.strip() == b"s3cr3t"
    await world.ask("PUT", "/system/services", made | {"environment": {"variables": {}}})
    assert (await world.ask("POST", "/run/copy", b"")).body.strip() == b""


async def test_a_job_has_an_id_a_place_in_the_list_and_a_log(world: World, until: Until) -> None:
    """E11, E6, and the list's words."""
    await world.create(script="echo one; echo two; exit 3\n")
    sent = await world.ask("POST", "/job/copy", b"aGVsbG8=")
    job = sent.json["job_id"]
    assert sent.headers["Location"] == f"/system/logs/copy/{job}"
    told = await ended(world, until, job)
    assert (told["status"], told["exit_code"]) == ("Failed", 3), "a script's code counts"
    for field in ("creation_time", "start_time", "finish_time"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told[field])
    log = await world.ask("GET", sent.headers["Location"])
    assert (log.text, log.headers["Content-Type"]) == ("one\ntwo\n", "text/plain; charset=utf-8")
    stamped = (await world.ask("GET", f"{sent.headers['Location']}?timestamps=true")).text
    assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (one|two)\n){2}", stamped)
    assert (await world.ask("GET", f"{sent.headers['Location']}?tail=1")).text == "two\n"
    assert (await world.ask("GET", "/system/logs/copy/abcdef")).status == 404


async def test_what_was_answered_201_is_listed_at_once(world: World) -> None:
    await world.create(script="sleep 0.05\n")
    for _ in range(50):
        assert await world.job() in (await world.jobs())["jobs"]


async def test_pages_of_jobs_are_stable_and_complete(tmp_path: Path, until: Until) -> None:
    async with world_of(tmp_path / "data", job_listing_limit=7) as world:
        await world.create(script="true\n")
        sent = [await world.job() for _ in range(20)]
        for one in sent:
            await ended_anywhere(world, until, one)
        seen: list[str] = []
        token = ""
        while True:
            page = await world.jobs(query=f"?page={token}")
            assert len(page["jobs"]) <= 7
            seen += page["jobs"]
            token = page.get("next_page", "")
            if not token:
                break
        assert seen == sent[::-1], "newest first, each once"
        assert set((await world.jobs(query="?status=Failed"))["jobs"]) == set()
        assert len((await world.jobs(query="?status=succeeded&limit=100"))["jobs"]) == 20
        assert (await world.ask("GET", "/system/logs/copy?page=nonsense")).status == 400


async def ended_anywhere(world: World, until: Until, job: str) -> None:
    async def look() -> Any:
        return (await world.ask("GET", f"/v1/invocations/{job}")).json

    await until(look, lambda one: one.get("phase") == "succeeded")


async def test_removing_jobs(world: World, until: Until) -> None:
    await world.create(script='case "$(cat "$INPUT_FILE_PATH")" in bad) exit 1;; slow) sleep 60;; esac\n')
    good, bad, slow = [await world.job(body=body) for body in (b"Z29vZA==", b"YmFk", b"c2xvdw==")]
    await ended(world, until, good)
    await ended(world, until, bad)
    assert (await world.ask("DELETE", "/system/logs/copy")).status == 204
    assert set((await world.jobs())["jobs"]) == {bad, slow}, "by default only what succeeded"
    assert (await world.ask("DELETE", f"/system/logs/copy/{bad}")).status == 204
    assert (await world.ask("GET", f"/system/logs/copy/{bad}")).status == 404
    assert (await world.ask("DELETE", f"/system/logs/copy/{bad}")).status == 404
    assert set((await world.jobs())["jobs"]) == {slow}
    assert (await world.ask("DELETE", "/system/logs/copy?all=true")).status == 204
    assert (await world.jobs())["jobs"] == {}

    async def look() -> Any:
        return (await world.ask("GET", f"/v1/invocations/{slow}")).json

    assert (await until(look, lambda one: one["phase"] == "cancelled"))["phase"] == "cancelled"
    assert (await world.ask("GET", f"/v1/invocations/{good}")).json["phase"] == "succeeded", "history is kept"


async def test_what_is_removed_stays_removed_after_a_restart(tmp_path: Path, until: Until) -> None:
    async with world_of(tmp_path / "data") as world:
        await world.create(script="true\n")
        gone, kept = await world.job(), await world.job()
        await ended(world, until, gone)
        await ended(world, until, kept)
        await world.ask("DELETE", f"/system/logs/copy/{gone}")
        settings = settings_with(tmp_path / "data", world.issuer, oidc_issuers="")
    async with running(settings) as platform, aiohttp.ClientSession(base_url=platform.address) as session:
        token = platform.services.credentials.token
        async with session.get("/system/logs/copy", headers={"Authorization": f"Bearer {token}"}) as answer:
            assert set((await answer.json())["jobs"]) == {kept}


async def test_large_bodies_are_objects_and_run_the_same(world: World, until: Until) -> None:
    """E14: above 64 KiB the event holds a reference."""
    await world.create(script='wc -c < "$INPUT_FILE_PATH"\n')
    body = b"A" * 400_000
    job = await world.job(body=body)
    assert (await world.jobs())["jobs"].keys() == {job}
    folder = world.platform.data / "buckets" / SYSTEM_BUCKET / "payloads"
    assert [path.stat().st_size for path in folder.glob("*/*")] == [400_000]
    assert (await ended(world, until, job))["status"] == "Succeeded"
    assert (await world.ask("GET", f"/system/logs/copy/{job}")).text.strip() == "300000"


async def test_deployment_tells_whether_a_service_can_take_work(world: World) -> None:
    await world.create()
    told = (await world.ask("GET", "/system/services/copy/deployment")).json
    assert (told["state"], told["active_instances"], told["resource_kind"]) == ("ready", 0, "unavailable")
    await world.ask("POST", "/v1/functions/copy/pause")
    shown = (await world.ask("GET", "/system/services/copy?include=deployment")).json["deployment"]
    assert (shown["state"], "service_name" in shown) == ("stopped", False)
    job = await world.job()
    assert (await world.jobs())["jobs"][job]["status"] in {"Pending", "Suspended"}
    await world.create("web", expose={"api_port": 80})
    assert (await world.ask("GET", "/system/services/web/deployment")).json["state"] == "unavailable"


async def test_buckets(world: World) -> None:
    made = {"bucket_name": "shelf/box", "visibility": "Restricted", "allowed_users": [" bob ", "bob", ""]}
    assert (await world.ask("POST", "/system/buckets", made)).status == 201
    assert (await world.ask("POST", "/system/buckets", made)).status == 409
    assert (world.platform.data / "buckets/shelf/box").is_dir()
    [one] = (await world.ask("GET", "/system/buckets")).json
    assert (one["bucket_name"], one["visibility"], one["allowed_users"]) == ("shelf", "restricted", ["bob"])
    for key in ("a", "b c.txt", "ü/%"):
        quoted = key.encode("utf-8")
        path = "/v1/buckets/shelf/objects/" + "".join(f"%{byte:02X}" for byte in quoted)
        assert (await world.ask("PUT", path, b"data")).status == 201
    keys: list[str] = []
    token = ""
    while True:
        page = (await world.ask("GET", f"/system/buckets/shelf?limit=1&page={token}")).json
        keys += [one["object_name"] for one in page["objects"]]
        assert page["returned_items"] == 1
        token = page["next_page"]
        if not page["is_truncated"]:
            break
    assert keys == ["a", "b c.txt", "ü/%"]
    assert (await world.ask("PUT", "/system/buckets", {"bucket_name": "shelf", "visibility": "public"})).status == 204
    assert (await world.ask("GET", "/system/buckets")).json[0]["visibility"] == "public"
    assert (await world.ask("DELETE", "/system/buckets/shelf")).status == 204
    assert (await world.ask("GET", "/system/buckets/shelf")).status == 404
    assert (await world.ask("DELETE", f"/system/buckets/{SYSTEM_BUCKET}")).status == 403


async def test_a_bucket_that_a_service_uses_is_not_deleted_under_it(world: World) -> None:
    await world.create()
    refused = await world.ask("DELETE", "/system/buckets/copy")
    assert (refused.status, "used by copy" in refused.text) == (409, True)
    await world.ask("PUT", "/v1/buckets/copy/objects/out/kept", b"data")
    await world.ask("DELETE", "/system/services/copy")
    page = (await world.ask("GET", "/system/buckets/copy")).json
    assert [one["object_name"] for one in page["objects"]] == ["out/kept"], "a service's buckets outlive it"
    assert (await world.ask("DELETE", "/system/buckets/copy")).status == 204


async def test_links_open_one_object_for_a_while_and_nothing_else(world: World) -> None:
    await world.ask("POST", "/system/buckets", {"bucket_name": "shelf"})
    asked = {"object_key": "a b.txt", "operation": "upload", "expires_in": 60}
    put = (await world.ask("POST", "/system/buckets/shelf/presign", asked)).json
    assert (put["method"], put["url"].startswith(world.platform.address)) == ("PUT", True)
    get = (await world.ask("POST", "/system/buckets/shelf/presign", asked | {"operation": "Download"})).json
    async with aiohttp.ClientSession() as anybody:
        async with anybody.put(put["url"], data=b"data") as answer:
            assert answer.status == 201
        async with anybody.get(get["url"]) as answer:
            assert await answer.read() == b"data"
        for url in (
            get["url"].replace("a%20b", "c"),
            put["url"].replace("penstock-expires=", "penstock-expires=9"),
            put["url"][:-1] + ("0" if put["url"][-1] != "0" else "1"),
        ):
            async with anybody.get(url) as answer:
                assert answer.status == 401, url
        async with anybody.get(put["url"]) as answer:
            assert answer.status == 401, "a link to upload does not download"
        async with anybody.delete(get["url"]) as answer:
            assert answer.status == 401


async def test_one_bucket_serves_as_output_of_one_and_input_of_the_next(world: World, until: Until) -> None:
    """B10, E8: chains from scratch, overlapping prefixes."""
    await world.create("first", output=[{"storage_provider": "minio", "path": "first/mid"}])
    await world.create("second", input=[{"storage_provider": "minio", "path": "first/mid"}])
    await world.create("third", input=[{"storage_provider": "minio", "path": "first/mid/deep"}])
    await world.ask("PUT", "/v1/buckets/first/objects/in/x.txt", b"data")

    async def look() -> Any:
        return [one["status"] for one in (await world.jobs("second"))["jobs"].values()]

    assert await until(look, lambda seen: seen == ["Succeeded"]) == ["Succeeded"]


async def test_routes_that_are_not_there_yet_say_so_in_text(world: World) -> None:
    for path in ("/system/metrics", "/system/quotas/user", "/system/volumes", "/system/federation/x", "/system/logs"):
        answer = await world.ask("GET", path)
        assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (404, "text/plain"), path
        assert (await world.ask("GET", path, who="")).status == 401


async def test_limits_on_what_waits(tmp_path: Path) -> None:
    async with world_of(tmp_path / "data", function_queued=3) as world:
        await world.create()
        await world.ask("POST", "/v1/functions/copy/pause")
        for _ in range(3):
            await world.job()
        refused = await world.ask("POST", "/job/copy", b"aGVsbG8=")
        assert (refused.status, "wait already" in refused.text) == (429, True)
        assert "Retry-After" in refused.headers


async def test_quotas_of_users(tmp_path: Path) -> None:
    async with world_of(tmp_path / "data", user_functions=1, user_buckets=2) as world:
        alice = world.bearer()
        await world.create(who=alice)
        refused = await world.ask("POST", "/system/services", service("second"), who=alice)
        assert (refused.status, "1 services already" in refused.text) == (403, True)
        assert (await world.ask("POST", "/system/buckets", {"bucket_name": "one-more"}, who=alice)).status == 201
        refused = await world.ask("POST", "/system/buckets", {"bucket_name": "too-many"}, who=alice)
        assert (refused.status, "2 buckets" in refused.text) == (403, True)
        assert (await world.ask("PUT", "/v1/buckets/too-many", who=alice)).status == 403
        await world.create("second")  # the administrator has no limit


async def test_many_creates_of_one_name_at_once_make_one(world: World) -> None:
    answers = await asyncio.gather(*(world.ask("POST", "/system/services", service()) for _ in range(8)))
    assert sorted(one.status for one in answers) == [201] + [409] * 7
    assert (await world.ask("GET", "/system/services/copy")).status == 200
    assert [one["bucket_name"] for one in (await world.ask("GET", "/system/buckets")).json] == ["copy"]
