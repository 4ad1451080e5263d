"""Functions over HTTP: deploying is all or nothing, secrets never come back, every refusal is a sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.embedded import Embedded
from penstock.client import Client
from penstock.errors import InvalidInput, NotFound
from tests.gateway.conftest import COPY, ended, fdl

Until = Callable[..., Awaitable[Any]]


async def test_created_then_unchanged_then_updated(client: Client, platform: Embedded) -> None:
    first = await client.apply(fdl(), {"copy.sh": COPY})
    assert [(one.name, one.action, one.generation) for one in first.functions] == [("copy", "created", 1)]
    again = await client.apply(fdl(), {"copy.sh": COPY})
    assert [(one.action, one.generation) for one in again.functions] == [("unchanged", 1)]
    changed = await client.apply(fdl(), {"copy.sh": COPY + "echo more\n"})
    assert [(one.action, one.generation, one.uid) for one in changed.functions] == [
        ("updated", 2, first.functions[0].uid)
    ]
    buckets = platform.data / "buckets"
    assert (buckets / "inbox" / "files").is_dir()
    assert (buckets / "outbox" / "files").is_dir()


async def test_a_dry_run_changes_nothing(client: Client, platform: Embedded) -> None:
    told = await client.apply(fdl(), {"copy.sh": COPY}, dry_run=True)
    assert [one.action for one in told.functions] == ["created"]
    assert await client.functions() == []
    assert await client.buckets() == []


async def test_one_bad_function_and_nothing_is_deployed(client: Client) -> None:
    both = fdl() + fdl("bad").split("  oscar:\n", 1)[1].replace("none", "none\n      cpu: many")
    with pytest.raises(InvalidInput, match="many"):
        await client.apply(both, {"copy.sh": COPY, "bad.sh": COPY})
    assert await client.functions() == []
    assert await client.buckets() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("functions: [", "YAML"),
        ("", "the file is empty"),
        (fdl(target="inbox"), "own input"),
        (fdl("Not_DNS"), "Not_DNS"),
        (fdl(source="penstock-system"), "belongs to the platform; choose another"),
    ],
)
async def test_a_refused_document_is_one_sentence(client: Client, text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        await client.apply(text, {"copy.sh": COPY, "Not_DNS.sh": COPY})
    assert await client.functions() == []


async def test_a_script_that_did_not_come_along_is_named(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"the script 'copy.sh' did not come with the document; .*: other.sh"):
        await client.apply(fdl(), {"other.sh": COPY})


async def test_functions_that_feed_each_other_are_warned_about(client: Client) -> None:
    await client.apply(fdl("one", source="first", target="second"), {"one.sh": COPY})
    told = await client.apply(fdl("two", source="second", target="first"), {"two.sh": COPY})
    assert any("one -> two -> one feed each other" in warning for warning in told.warnings)


SECRETS = "\n        secrets:\n          KEY: {value}"


async def test_secrets_never_come_back_and_a_blank_one_is_unchanged(
    client: Client, http: aiohttp.ClientSession, platform: Embedded
) -> None:
    await client.apply(fdl(environment=SECRETS.format(value="s3cr3t")), {"copy.sh": COPY})
    async with http.get("/v1/functions/copy") as answer:
        text = await answer.text()
    assert "s3cr3t" not in text
    assert '"KEY":""' in text
    told = await client.apply(fdl(environment=SECRETS.format(value='""')), {"copy.sh": COPY})
    assert told.functions[0].action == "unchanged"
    assert (await platform.services.registry.get("copy")).secrets == {"KEY": "s3cr3t"}
    await client.apply(fdl(), {"copy.sh": COPY})
    assert (await platform.services.registry.get("copy")).secrets == {}


async def test_list_and_show_tell_definition_and_counts(client: Client) -> None:
    await client.apply(fdl(concurrency=3), {"copy.sh": COPY})
    await ended(client, await client.submit("copy", b"x"))
    [listed] = await client.functions()
    shown = await client.function("copy")
    assert listed == shown
    assert (shown["succeeded"], shown["queued"], shown["concurrency"]) == (1, 0, 3)
    assert shown["script"] == COPY
    assert [entry["path"] for entry in shown["inputs"]] == ["inbox/files"]
    assert len(shown["token"]) == 64
    assert shown["definition"]["name"] == "copy"


async def test_delete_keeps_buckets_and_objects(client: Client, until: Until) -> None:
    await client.apply(fdl(), {"copy.sh": COPY})
    await client.put("inbox", "elsewhere.txt", b"x")
    await client.delete_function("copy")
    assert await client.functions() == []
    assert [one.key for one in (await client.objects("inbox")).objects] == ["elsewhere.txt"]
    with pytest.raises(NotFound, match="copy"):
        await client.delete_function("copy")


@pytest.mark.parametrize("path", ["", "/pause", "/resume", "/submit", "/run", "/backfill", "/replay"])
async def test_an_unknown_function_is_404(http: aiohttp.ClientSession, path: str) -> None:
    method = "POST" if path else "GET"
    async with http.request(method, f"/v1/functions/nobody{path}") as answer:
        assert answer.status == 404
        assert "nobody" in await answer.text()


async def test_a_paused_function_starts_nothing_and_status_says_why(client: Client, until: Until) -> None:
    await client.apply(fdl(), {"copy.sh": COPY})
    await client.pause("copy")
    await client.pause("copy")  # idempotent
    invocation = await client.submit("copy", b"x")

    async def status() -> Any:
        return (await client.status()).functions[0]

    waiting = await until(status, lambda one: one.waiting_for)
    assert (waiting.paused, waiting.queued) == (True, 1)
    assert "paused" in waiting.waiting_for
    await client.resume("copy")
    assert (await ended(client, invocation)).phase == "succeeded"


async def test_an_update_does_not_resume_a_paused_function(client: Client) -> None:
    await client.apply(fdl(), {"copy.sh": COPY})
    await client.pause("copy")
    await client.apply(fdl(), {"copy.sh": COPY + "# new\n"})
    assert (await client.function("copy"))["paused"] is True


async def test_start_existing_takes_what_is_there_and_start_now_does_not(
    client: Client, platform: Embedded, until: Until
) -> None:
    for bucket in ("first", "second"):
        await client.create_bucket(bucket)
        await client.put(bucket, "files/old.txt", b"x")
    await client.apply(fdl("takes", source="first", start="existing"), {"takes.sh": COPY})
    await client.apply(fdl("leaves", source="second"), {"leaves.sh": COPY})

    async def counts() -> Any:
        return {one["name"]: one["succeeded"] for one in await client.functions()}

    await until(counts, lambda told: told["takes"] == 1)
    await client.put("second", "files/new.txt", b"x")
    await until(counts, lambda told: told["leaves"] >= 1)
    listed = await client.invocations(function="leaves")
    assert [one.key for one in listed.invocations] == ["files/new.txt"]


@pytest.mark.parametrize("label", ["text/yaml", "application/json"])
async def test_validate_takes_text_or_json_and_changes_nothing(
    http: aiohttp.ClientSession, client: Client, label: str
) -> None:
    if label == "application/json":
        request = http.post("/v1/validate", json={"fdl": fdl(), "scripts": {"copy.sh": COPY}})
    else:
        inline = fdl().replace("copy.sh", '"echo hello"')
        request = http.post("/v1/validate", data=inline.encode(), headers={"Content-Type": label})
    async with request as answer:
        assert (answer.status, (await answer.json())["functions"]) == (200, ["copy"])
    assert await client.functions() == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "this is not JSON"),
        (b'{"scripts": {}}', "missing required field `fdl`"),
        (b'{"fdl": 3}', "Expected `str`"),
        (b'{"fdl": "", "script": {}}', "unknown field `script`"),
        (b"\xff", "this is not JSON"),
    ],
)
async def test_a_body_that_is_no_order_is_refused(http: aiohttp.ClientSession, body: bytes, says: str) -> None:
    async with http.post("/v1/apply", data=body) as answer:
        assert answer.status == 400
        assert says in await answer.text()


async def test_files_given_at_start_are_deployed_before_anything_runs(tmp_path: Path) -> None:
    from tests.gateway.conftest import running, settings_for  # noqa: PLC0415 - used by this test alone

    (tmp_path / "copy.yaml").write_text(fdl())
    (tmp_path / "copy.sh").write_text(COPY)
    async with running(settings_for(tmp_path / "data"), apply=(tmp_path / "copy.yaml",)) as platform:
        assert [one.name for one in await platform.services.registry.list()] == ["copy"]
    (tmp_path / "copy.sh").unlink()
    with pytest.raises(InvalidInput, match=r"copy\.yaml: .*copy\.sh"):
        async with running(settings_for(tmp_path / "data"), apply=(tmp_path / "copy.yaml",)):
            pass
