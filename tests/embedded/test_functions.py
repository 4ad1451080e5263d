"""Functions that come and go: what is taken at the start, what is run again, what a removal does to its work."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import aiohttp
import pytest

from gateway.embedded import Embedded
from penstock.client import Client
from penstock.client_errors import RunFailed
from penstock.errors import NotFound
from penstock.model import TOPIC_EVENTS
from penstock.ports import LogEntry
from tests.embedded.shop import COPY, Shop, gone, until

# What a new function takes


async def test_start_now_takes_only_what_comes_after_it(shop: Shop) -> None:
    await shop.client.create_bucket("late-in")
    shop.drop("late-in/files/before", "old")
    await shop.deploy("late")
    shop.drop("late-in/files/after", "new")
    assert [one.key for one in await shop.settled("late", 1)] == ["files/after"]


async def test_start_existing_takes_what_is_there(shop: Shop) -> None:
    await shop.client.create_bucket("late-in")
    for number in range(3):
        shop.drop(f"late-in/files/{number}", str(number))
    await shop.deploy("late", start="existing")
    shop.drop("late-in/files/after", "new")
    assert {one.phase for one in await shop.settled("late", 4)} == {"succeeded"}
    assert len(await shop.outputs("late-out")) == 4


async def test_a_backfill_runs_what_never_ran_and_a_second_one_nothing(shop: Shop) -> None:
    await shop.client.create_bucket("late-in")
    for name in ("a", "b", "sub/c"):
        shop.drop(f"late-in/files/{name}", name)
    await shop.deploy("late", f"echo run >> {shop.note('runs')}\n{COPY}")
    assert (await shop.client.backfill("late", dry_run=True)).matched == 3
    assert await shop.records("late") == []
    assert (await shop.client.backfill("late")).matched == 3
    await shop.settled("late", 3)
    assert (await shop.client.backfill("late")).matched == 0
    assert [one.attempt for one in await shop.settled("late", 3)] == [1, 1, 1]
    assert (await shop.client.backfill("late", prefix="late-in/files/a", force=True)).matched == 1
    records = {one.key: one for one in await until(lambda: shop.records("late"), ran_again)}
    assert (records["files/a"].attempt, records["files/a"].phase) == (2, "succeeded")
    assert len(records) == 3
    assert len(shop.note("runs").read_text().splitlines()) == 4


def ran_again(records: object) -> bool:
    assert isinstance(records, list)
    return any(one.attempt == 2 for one in records) and all(one.final for one in records)


async def test_a_replay_takes_what_failed_and_force_takes_all(shop: Shop) -> None:
    script = f"""echo "$STORAGE_OBJECT_KEY" >> {shop.note("runs")}
case $STORAGE_OBJECT_KEY in *bad*) [ -e {shop.note("mended")} ] || exit 6;; esac
{COPY}"""
    await shop.deploy("again", script)
    for name in ("good", "bad-1", "bad-2"):
        shop.drop(f"again-in/files/{name}", name)
    await shop.settled("again", 3)
    shop.note("mended").touch()
    assert (await shop.client.replay("again")).matched == 2
    records = await until(lambda: shop.records("again"), lambda seen: all(one.phase == "succeeded" for one in seen))
    assert sorted(one.attempt for one in records) == [1, 2, 2]
    assert (await shop.client.replay("again")).matched == 0
    assert (await shop.client.replay("again", force=True)).matched == 3
    await until(
        lambda: shop.records("again"), lambda seen: sorted(one.attempt for one in seen if one.final) == [2, 3, 3]
    )
    assert len(shop.note("runs").read_text().splitlines()) == 8
    assert len(await shop.outputs("again-out")) == 3


# What a removal does


async def test_removing_a_function_cancels_what_waits_and_what_runs(shop: Shop) -> None:
    held = f"echo $$ >> {shop.note('pids')}\nsleep 600\n"
    await shop.deploy("doomed", held, concurrency=1)
    await shop.deploy("other", source="doomed-in/files")
    for number in range(5):
        shop.drop(f"doomed-in/files/{number}")
    [pid] = await shop.noted("pids")
    await until(lambda: shop.phases("doomed"), lambda phases: len(phases) == 5)
    await shop.settled("other", 5)
    await shop.client.delete_function("doomed")
    records = await shop.settled("doomed", 5)
    assert {one.phase for one in records} == {"cancelled"}
    assert {one.reason for one in records} == {"the function doomed was deleted"}
    await gone([int(pid)])
    assert len(shop.note("pids").read_text().splitlines()) == 1, "none of the others started"
    assert await shop.outputs("doomed-out") == {}
    assert len(await shop.outputs("doomed-in")) == 5, "objects stay"
    shop.drop("doomed-in/files/later")
    await shop.settled("other", 6)
    assert len(await shop.records("doomed")) == 5


async def test_a_function_deployed_anew_under_the_same_name_begins_a_history_of_its_own(shop: Shop) -> None:
    await shop.deploy("twin", "exit 1\n")
    shop.drop("twin-in/files/a")
    await shop.settled("twin", 1)
    await shop.client.delete_function("twin")
    await shop.deploy("twin", start="existing")
    records = await shop.settled("twin", 2)
    assert [one.phase for one in records] == ["failed", "succeeded"]


async def test_submitting_to_what_was_removed_is_told(shop: Shop) -> None:
    await shop.deploy("gone")
    await shop.client.delete_function("gone")
    with pytest.raises(NotFound, match="gone"):
        await shop.client.submit("gone", b"x")


async def test_a_new_script_is_used_for_what_has_not_started(shop: Shop) -> None:
    await shop.deploy("version", 'echo one > "$TMP_OUTPUT_DIR/v"\n')
    await shop.client.pause("version")
    shop.drop("version-in/files/a")
    await until(lambda: shop.phases("version"), lambda phases: phases == ["queued"])
    await shop.deploy("version", 'echo two > "$TMP_OUTPUT_DIR/v"\n')
    await shop.client.resume("version")
    await shop.ended("version")
    assert await shop.outputs("version-out") == {"files/v": b"two\n"}


# Events that cannot be used


async def test_one_event_that_cannot_be_used_is_kept_whole_and_the_rest_goes_on(shop: Shop, platform: Embedded) -> None:
    await shop.deploy("steady")
    shop.drop("steady-in/files/before")
    await shop.settled("steady", 1)
    rubbish = [b"\x00\xff no event", b"", b'{"type":"object","bucket":7}', b"[" * 5000]
    for text in rubbish:
        await platform.services.log.append(TOPIC_EVENTS, [LogEntry("steady-in/files/x", text)])
    shop.drop("steady-in/files/after")
    assert {one.phase for one in await shop.settled("steady", 2)} == {"succeeded"}
    letters = await until(shop.client.dead, lambda found: len(found) == len(rubbish))
    originals = [base64.b64decode((await shop.client.dead_letter(one["id"]))["original"]) for one in letters]
    assert sorted(originals) == sorted(rubbish)
    for letter in letters:
        assert letter["kind"] == "event"
        assert "not a trigger" in letter["message"]
    await shop.client.retry_dead(letters[0]["id"])
    ids = {one["id"] for one in letters}
    told = await until(shop.client.dead, lambda found: len(found) == 4 and {one["id"] for one in found} != ids)
    for letter in told:
        await shop.client.drop_dead(letter["id"])
    await until(shop.client.dead, lambda found: not found)


# Bodies


@pytest.mark.parametrize("size", [0, 100, 65_536, 65_537, 2**20])
async def test_a_posted_body_arrives_byte_for_byte(shop: Shop, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)
    await shop.deploy("posted", f'cksum < "$INPUT_FILE_PATH"; cp "$INPUT_FILE_PATH" {shop.note("body")}\n', source=None)
    invocation = await shop.client.submit("posted", body)
    record = await shop.ended("posted")
    assert (record.id, record.phase, record.size) == (invocation, "succeeded", size)
    assert record.bucket is None
    assert shop.note("body").read_bytes() == body


async def test_run_answers_as_oscar_does(shop: Shop) -> None:
    script = """mode=$(cat "$INPUT_FILE_PATH")
cd "$TMP_OUTPUT_DIR"
echo "said $mode"
case $mode in
  one) printf 'one\\0file' > result ;;
  several) mkdir d; echo 1 > a; echo 2 > d/b ;;
  empty) : > result ;;
  fail) echo left > result; echo "reason here" >&2; exit 42 ;;
esac
"""
    await shop.deploy("asked", script, source=None)
    plain = "text/plain"

    async def ask(mode: str) -> bytes:
        return (await shop.client.run("asked", mode.encode(), content_type=plain)).text

    assert base64.b64decode(await ask("one")) == b"one\0file"
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(await ask("several")))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"a": b"1\n", "d/b": b"2\n"}
    assert (await ask("none")).strip() == b"said none"
    assert (await ask("empty")).strip() == b""
    with pytest.raises(RunFailed, match="code 42") as caught:
        await ask("fail")
    assert "reason here" in caught.value.message
    record = await shop.client.invocation(caught.value.invocation)
    assert (record.phase, record.exit_code) == ("failed", 42)
    assert set(await shop.outputs("asked-out")) == {"files/result", "files/a", "files/d/b"}, "uploads happen as well"


async def test_a_failed_run_is_a_500_with_its_code(shop: Shop, http: aiohttp.ClientSession) -> None:
    await shop.deploy("asked", "echo last words\nexit 3\n", source=None)
    async with http.post("/v1/functions/asked/run", data=b"x") as answer:
        said = await answer.text()
        assert answer.status == 500
    assert "the script ended with code 3" in said
    assert "last words" in said


async def test_a_bad_backfill_prefix_and_what_nobody_knows(shop: Shop, client: Client, tmp_path: Path) -> None:
    await shop.deploy("known")
    with pytest.raises(NotFound, match="unknown"):
        await client.backfill("unknown")
    assert (await client.backfill("known", prefix="elsewhere/")).matched == 0
    with pytest.raises(NotFound):
        await client.retry_dead("0" * 32)
