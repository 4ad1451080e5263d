"""Work over HTTP: submit, run, list, show, follow, cancel, backfill, replay, dead letters."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from gateway.embedded import Embedded
from penstock.client import Client
from penstock.client_errors import RunFailed, RunTimedOut
from penstock.errors import Conflict, InvalidInput, NotFound
from penstock.model import (
    SYSTEM_BUCKET,
    TOPIC_EVENTS,
    Phase,
    Record,
)
from penstock.ports import LogEntry, Positions, RecordPage, RecordQuery, StoredEntry
from tests.factories import make_event
from tests.gateway.conftest import COPY, ended, fdl

Until = Callable[..., Awaitable[Any]]

#: Runs until the file `go` appears beside the data folder's buckets, telling its pid first.
HELD = 'echo "begun $$"\nwhile [ ! -e {gate} ]; do sleep 0.02; done\necho done\n'


@pytest.fixture
async def copy(client: Client) -> str:
    await client.apply(fdl(), {"copy.sh": COPY})
    return "copy"


# ---- submit and run


async def test_what_was_answered_201_is_listed_at_once(http: aiohttp.ClientSession, client: Client, copy: str) -> None:
    for _ in range(20):
        async with http.post(f"/v1/functions/{copy}/submit", data=b"x") as answer:
            assert answer.status == 201
            invocation = (await answer.json())["invocation"]
            assert answer.headers["Location"] == f"/v1/invocations/{invocation}"
        listed = await client.invocations(function=copy)
        assert invocation in [one.id for one in listed.invocations]
        assert (await client.invocation(invocation)).id == invocation


async def test_a_submission_is_listed_while_intake_stands_still(
    platform: Embedded, client: Client, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_log = platform.services.log
    read, stalled, go_on = event_log.read, asyncio.Event(), asyncio.Event()

    async def slow(topic: str, positions: Positions, **options: Any) -> list[StoredEntry]:
        if topic == TOPIC_EVENTS:
            stalled.set()
            await go_on.wait()
        return await read(topic, positions, **options)

    monkeypatch.setattr(event_log, "read", slow)
    async with asyncio.timeout(20):
        await stalled.wait()
    invocation = await client.submit(copy, b"x")
    assert await platform.services.ledger.get(invocation) is None
    assert (await client.invocation(invocation[:10])).phase == "queued"
    for wanted, filters in (
        (1, {"function": copy}),
        (1, {"phase": "queued"}),
        (0, {"phase": "dead"}),
        (0, {"prefix": "a"}),
    ):
        listed = await client.invocations(**filters)  # type: ignore[arg-type]
        assert [one.id for one in listed.invocations] == [invocation] * wanted, filters
    go_on.set()
    assert (await ended(client, invocation)).phase == "succeeded"
    assert platform.services.changes.pending.all() == []


async def test_a_submission_that_is_recorded_while_the_page_is_read_is_listed(
    platform: Embedded, client: Client, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_log, ledger = platform.services.log, platform.services.ledger
    read, query = event_log.read, ledger.query
    stalled, go_on = asyncio.Event(), asyncio.Event()

    async def slow(topic: str, positions: Positions, **options: Any) -> list[StoredEntry]:
        if topic == TOPIC_EVENTS:
            stalled.set()
            await go_on.wait()
        return await read(topic, positions, **options)

    async def overtaken(wanted: RecordQuery) -> RecordPage:
        """The record appears after the page was read and before it is answered."""
        page = await query(wanted)
        go_on.set()
        while not await ledger.known([invocation]):
            await asyncio.sleep(0.005)
        return page

    monkeypatch.setattr(event_log, "read", slow)
    async with asyncio.timeout(20):
        await stalled.wait()
        invocation = await client.submit(copy, b"x")
        monkeypatch.setattr(ledger, "query", overtaken)
        listed = await client.invocations(function=copy)
    assert [one.id for one in listed.invocations] == [invocation]


async def test_run_answers_with_the_scripts_output(client: Client) -> None:
    await client.apply(fdl("say"), {"say.sh": "echo hello; cat $INPUT_FILE_PATH\n"})
    answer = await client.run("say", b'{"a": 1}')
    assert b"hello" in answer.text
    assert (await client.invocation(answer.invocation)).phase == "succeeded"


async def test_run_answers_with_the_file_it_wrote(client: Client, copy: str, platform: Embedded) -> None:
    answer = await client.run(copy, b"\x00\x01binary")
    assert base64.b64decode(answer.text) == b"\x00\x01binary"
    pages = platform.services.store.list(SYSTEM_BUCKET, "answers/")
    assert [info.key async for page in pages for info in page] == []


async def test_a_body_above_the_inline_limit_is_stored_first(client: Client, copy: str, platform: Embedded) -> None:
    body = b"\xff" * 200_000
    answer = await client.run(copy, body)
    assert base64.b64decode(answer.text) == body
    record = await platform.services.ledger.get(answer.invocation)
    assert record is not None
    assert len(json.dumps(str(record))) < 5000


async def test_a_script_that_fails_is_500_with_code_and_last_lines(client: Client) -> None:
    await client.apply(fdl("bad"), {"bad.sh": "echo reason on stdout\nexit 3\n"})
    with pytest.raises(RunFailed, match="the script ended with code 3") as caught:
        await client.run("bad", b"x")
    assert "reason on stdout" in caught.value.message
    assert (await client.invocation(caught.value.invocation)).exit_code == 3


async def test_a_run_that_takes_too_long_is_504_and_the_work_goes_on(client: Client, platform: Embedded) -> None:
    gate = platform.data / "go"
    await client.apply(fdl("held"), {"held.sh": HELD.format(gate=gate)})
    with pytest.raises(RunTimedOut, match=r"no answer within 0\.1 s; the work goes on") as caught:
        await client.run("held", b"x", timeout_s=0.1)
    gate.touch()
    assert (await ended(client, caught.value.invocation)).phase == "succeeded"


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "1e9"])
async def test_a_bad_timeout_is_refused(http: aiohttp.ClientSession, copy: str, seconds: str) -> None:
    async with http.post(f"/v1/functions/{copy}/run", params={"timeout_s": seconds}, data=b"x") as answer:
        assert answer.status == 400
        assert "?timeout_s" in await answer.text()


# ---- listing and showing


async def test_filters_pages_and_order(client: Client, copy: str) -> None:
    ids = [await client.submit(copy, b"x") for _ in range(5)]
    await client.put("inbox", "files/a.txt", b"x")
    for one in ids:
        await ended(client, one)
    seen, page = [], ""
    while True:
        told = await client.invocations(function=copy, phase="succeeded", limit=2, page=page, oldest=True)
        seen += [one.id for one in told.invocations if one.submission]
        if not (page := told.next):
            break
    assert sorted(seen) == sorted(ids)
    assert (await client.invocations(function="other")).invocations == ()
    assert {one.key for one in (await client.invocations(prefix="inbox/files/")).invocations} <= {"files/a.txt"}


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("phase=done", "?phase"),
        ("limit=0", "?limit"),
        ("limit=many", "?limit"),
        ("since_ms=-1", "?since_ms"),
        ("oldest=perhaps", "?oldest"),
        ("functoin=copy", "?functoin"),
        ("page=garbage", "page"),
    ],
)
async def test_a_bad_parameter_is_named(http: aiohttp.ClientSession, query: str, where: str) -> None:
    async with http.get(f"/v1/invocations?{query}") as answer:
        assert answer.status == 400
        assert where in await answer.text()


async def test_one_is_found_by_a_unique_beginning(client: Client, copy: str) -> None:
    invocation = await client.submit(copy, b"x")
    record = await ended(client, invocation[:8])
    assert record.id == invocation
    assert [step.phase for step in record.timeline][:1] == ["queued"]
    assert record.timeline[-1].phase == "succeeded"
    with pytest.raises(InvalidInput, match="too short: give at least 6"):
        await client.invocation(invocation[:5])
    with pytest.raises(NotFound, match="no invocation whose id begins with ffffffff"):
        await client.invocation("ffffffff")
    with pytest.raises(InvalidInput, match="only hexadecimal digits"):
        await client.invocation("nonsense")


async def test_a_log_is_followed_live_to_its_end_and_read_again_from_anywhere(
    client: Client, platform: Embedded
) -> None:
    gate = platform.data / "go"
    await client.apply(fdl("held"), {"held.sh": HELD.format(gate=gate)})
    invocation = await client.submit("held", b"x")
    text = b""
    async with asyncio.timeout(20):
        async for chunk in client.log(invocation, follow=True):
            text += chunk
            if text.startswith(b"begun") and text.endswith(b"\n"):
                gate.touch()
    assert text.splitlines()[-1] == b"done"
    await ended(client, invocation)
    assert b"".join([chunk async for chunk in client.log(invocation)]) == text
    assert b"".join([chunk async for chunk in client.log(invocation, offset=6)]) == text[6:]
    with pytest.raises(NotFound, match="has had 1 attempts, not 2"):
        async for _ in client.log(invocation, attempt=2):
            pass


async def test_cancel_ends_what_runs_and_refuses_what_has_ended(client: Client, platform: Embedded) -> None:
    await client.apply(fdl("held"), {"held.sh": HELD.format(gate=platform.data / "never")})
    invocation = await client.submit("held", b"x")
    async with asyncio.timeout(20):
        async for chunk in client.log(invocation, follow=True):
            if b"begun" in chunk:
                break
    await client.cancel(invocation)
    record = await ended(client, invocation)
    assert (record.phase, record.error) == ("cancelled", "cancelled")
    with pytest.raises(Conflict, match="has ended already: cancelled"):
        await client.cancel(invocation)


# ---- backfill and replay


async def test_backfill_counts_then_runs_what_never_ran(client: Client, until: Until) -> None:
    await client.create_bucket("inbox")
    for name in ("a", "b", "c"):
        await client.put("inbox", f"files/{name}", b"x")
    await client.apply(fdl(), {"copy.sh": COPY})
    told = await client.backfill("copy", prefix="inbox/files/", dry_run=True)
    assert (told.matched, told.command) == (3, None)
    assert sorted(told.examples) == ["inbox/files/a", "inbox/files/b", "inbox/files/c"]
    assert (await client.backfill("copy", prefix="inbox/files/b", dry_run=True)).matched == 1
    assert (await client.invocations(function="copy")).invocations == ()
    told = await client.backfill("copy")
    assert (told.matched, bool(told.command)) == (3, True)

    async def outputs() -> Any:
        return [one.key for one in (await client.objects("outbox")).objects]

    await until(outputs, lambda keys: len(keys) == 3)
    assert (await client.backfill("copy", dry_run=True)).matched == 0


async def test_replay_runs_what_failed_once_more(client: Client, platform: Embedded, until: Until) -> None:
    marker = platform.data / "mended"
    script = f"[ -e {marker} ] || exit 9\n"
    await client.apply(fdl("once"), {"once.sh": script})
    invocation = await client.submit("once", b"x")
    assert (await ended(client, invocation)).phase == "failed"
    marker.touch()
    assert (await client.replay("once", dry_run=True)).matched == 1
    await client.replay("once")

    async def phase() -> Any:
        return (await client.invocation(invocation)).phase

    await until(phase, lambda name: name == "succeeded")
    assert (await client.invocation(invocation)).attempt == 2
    assert (await client.replay("once", dry_run=True)).matched == 0
    assert (await client.replay("once", dry_run=True, force=True)).matched == 1


async def test_backfill_refuses_an_age(http: aiohttp.ClientSession, copy: str) -> None:
    async with http.post(f"/v1/functions/{copy}/backfill", json={"since_ms": 5}) as answer:
        assert answer.status == 400
        assert "since_ms: backfill takes objects of any age" in await answer.text()


# ---- dead letters


async def test_an_event_that_cannot_be_read_is_listed_shown_retried_and_dropped(
    client: Client, platform: Embedded, until: Until
) -> None:
    garbage = b"not an event \xff"
    await platform.services.log.append(TOPIC_EVENTS, [LogEntry("k", garbage)])
    [letter] = await until(client.dead, lambda found: len(found) == 1)
    assert (letter["kind"], letter["error"]) == ("event", "undecodable")
    shown = await client.dead_letter(letter["id"])
    assert base64.b64decode(shown["original"]) == garbage
    await client.retry_dead(letter["id"])  # comes back: it is still no event
    [again] = await until(client.dead, lambda found: found and found[0]["id"] != letter["id"])
    await client.drop_dead(again["id"])
    await until(client.dead, lambda found: found == [])
    with pytest.raises(NotFound, match="no dead letter and no dead invocation"):
        await client.dead_letter(again["id"])


async def test_a_dead_invocation_is_in_the_same_list_and_can_be_retried(
    http: aiohttp.ClientSession, client: Client, platform: Embedded, copy: str, until: Until
) -> None:
    function = await platform.services.registry.get(copy)
    dead = Record(
        id="d" * 40,
        function=copy,
        function_uid=function.uid,
        generation=1,
        trigger=make_event("files/gone", bucket="inbox"),
        phase=Phase.DEAD,
        reason="retries are used up",
        queued_ms=1,
        finished_ms=2,
    )
    await platform.services.ledger.apply([dead])
    [entry] = await client.dead()
    assert (entry["kind"], entry["id"], entry["key"], entry["message"]) == (
        "invocation",
        dead.id,
        "files/gone",
        "retries are used up",
    )
    async with http.delete(f"/v1/dead/{dead.id}") as answer:
        assert answer.status == 422
        assert "part of the history" in await answer.text()
    await client.retry_dead(dead.id)
    await until(client.dead, lambda found: found == [])
