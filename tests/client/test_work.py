"""What a program does with a server, over a real one: deploy, upload, map, wait, read, download."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import errors
from penstock.client import Client, Definition, MapResult, Unreachable
from penstock.client.mapping import Item
from tests.client.conftest import Runs


async def _all(results: AsyncIterator[MapResult]) -> dict[str, MapResult]:
    return {result.name: result async for result in results}


def files(*texts: str) -> list[tuple[str, bytes]]:
    return [(f"{number}.txt", text.encode()) for number, text in enumerate(texts)]


async def test_deploy_takes_a_file_a_text_a_mapping_and_objects(client: Client, tmp_path: Path) -> None:
    (tmp_path / "one.sh").write_text("echo 1\n")
    text = "functions:\n  oscar:\n  - local:\n      name: NAME\n      image: x\n      script: one.sh\n"
    path = tmp_path / "one.yaml"
    path.write_text(text.replace("NAME", "of-file"))
    assert [one.action for one in (await client.deploy(path)).functions] == ["created"]
    assert (await client.deploy(str(path))).functions[0].action == "unchanged"
    whole = text.replace("NAME", "of-text").replace("one.sh", str(tmp_path / "one.sh"))
    assert (await client.deploy(whole)).functions[0].name == "of-text"
    several: list[Mapping[str, Any] | Definition] = [
        {"name": "of-mapping", "script": "echo 2\n"},
        Definition(name="of-object", script=tmp_path / "one.sh"),
    ]
    assert {one.name for one in (await client.deploy(several)).functions} == {"of-mapping", "of-object"}
    assert (await client.deploy({"name": "dry", "script": "echo\n"}, dry_run=True)).functions[0].action == "created"
    names = {one.name for one in await client.list_functions()}
    assert names == {"of-file", "of-text", "of-mapping", "of-object"}


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("/nowhere/at.yaml", errors.NotFound, "no file /nowhere/at.yaml"),
        ({"name": "Bad Name", "script": "echo\n"}, errors.InvalidInput, "name"),
        ({"name": "a", "script": "no-such.sh"}, errors.NotFound, "end it with a line break"),
        ({"name": "a", "script": 7}, errors.InvalidInput, "a script is its text or the path"),
        ({"name": "a", "script": "echo\n", "x": object()}, errors.InvalidInput, "plain values"),
    ],
)
async def test_what_cannot_be_deployed_is_said_in_a_sentence_and_nothing_is(
    client: Client,
    source: object,
    kind: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        await client.deploy(source)  # type: ignore[arg-type]  # on purpose
    assert await client.functions() == []


async def test_map_yields_every_result_and_goes_on_where_it_broke_off(
    client: Client, upper: Definition, runs: Runs, tmp_path: Path
) -> None:
    some = files("one", "two FAIL", "three")
    first = await _all(client.map("upper", some, in_flight=2))
    assert {name: one.succeeded for name, one in first.items()} == {"0.txt": True, "1.txt": False, "2.txt": True}
    failed = first["1.txt"].invocation
    assert failed is not None
    assert (failed.phase, failed.exit_code) == ("failed", 3)
    assert not any(one.resumed for one in first.values())
    assert runs.count == 3
    paths = await client.download(first["0.txt"], tmp_path / "got")
    assert [(path.name, path.read_text()) for path in paths] == [("0.txt.up", "ONE")]
    with pytest.raises(errors.AlreadyExists, match="overwrite"):
        await client.download(first["0.txt"], tmp_path / "got")
    assert await client.download(first["0.txt"], tmp_path / "got", overwrite=True) == paths

    # Again, with one more and one changed: only these two run.
    more = [*some[:2], ("2.txt", b"changed"), ("3.txt", b"new")]
    second = await _all(client.map("upper", more))
    assert {name: one.resumed for name, one in second.items()} == {
        "0.txt": True,
        "1.txt": True,
        "2.txt": False,
        "3.txt": False,
    }
    assert runs.count == 5
    third = await _all(client.map("upper", some[1:2], retry_failed=True))
    assert (third["1.txt"].resumed, runs.count) == (False, 6)


async def test_a_map_that_is_left_half_way_is_resumed(client: Client, upper: Definition, runs: Runs) -> None:
    some = files(*(f"text {number}" for number in range(12)))
    async for _ in client.map("upper", some, in_flight=3):
        break
    rest = await _all(client.map("upper", some, in_flight=5))
    assert len(rest) == 12
    assert all(one.succeeded for one in rest.values())
    assert runs.count == 12


async def test_files_that_are_missing_or_twice_there_do_not_stop_the_others(
    client: Client, upper: Definition, runs: Runs, tmp_path: Path
) -> None:
    (tmp_path / "there.txt").write_text("there")
    given: list[Item] = [tmp_path / "there.txt", tmp_path / "missing.txt", tmp_path / "there.txt", ("a/b", b"x")]
    found = [one async for one in client.map("upper", given)]
    assert sorted(one.name for one in found) == ["a/b", "missing.txt", "there.txt", "there.txt"]
    wrong = {one.name: one.error for one in found if one.error is not None}
    assert isinstance(wrong["missing.txt"], errors.NotFound)
    assert isinstance(wrong["a/b"], errors.InvalidInput)
    assert runs.count == 1


async def test_map_takes_a_stream_of_files_and_keeps_few_in_flight(client: Client, upper: Definition) -> None:
    done = 0
    asked = 0

    async def stream() -> AsyncIterator[tuple[str, bytes]]:
        nonlocal asked
        for number in range(10):
            asked += 1
            assert asked - done <= 4, "more was taken than may be in flight"
            yield f"{number}.txt", b"x"

    async for _ in client.map("upper", stream(), in_flight=3):
        done += 1
    assert done == 10


async def test_map_says_at_once_what_cannot_work(client: Client, upper: Definition) -> None:
    await client.deploy({"name": "bodies", "script": "cat\n"})
    with pytest.raises(errors.NotFound):
        await _all(client.map("nothing", files("x")))
    with pytest.raises(errors.Unsupported, match="no input bucket"):
        await _all(client.map("bodies", files("x")))
    with pytest.raises(errors.InvalidInput, match="in flight"):
        client.map("upper", files("x"), in_flight=0)
    assert await _all(client.map("upper", [])) == {}


async def test_a_server_that_goes_away_keeps_its_type_of_error(client: Client, upper: Definition) -> None:
    async with Client("http://127.0.0.1:9", "x") as nobody:
        with pytest.raises(Unreachable):
            await _all(nobody.map("upper", files("x")))


async def test_wait_logs_and_records(client: Client, upper: Definition) -> None:
    good = await client.submit("upper", b"good")
    bad = await client.submit("upper", b"FAIL")
    ended = await client.wait([bad, good, bad], timeout_s=30)
    assert [one.phase for one in ended] == ["failed", "succeeded", "failed"]
    assert await client.wait([]) == []
    lines = [line async for line in client.logs(bad)]
    assert lines[-1] == "cannot shout this"
    listed = await client.list_invocations(function="upper")
    records = listed.to_records()
    assert {record["id"] for record in records} == {good, bad}
    assert all(isinstance(value, (str, int, float, type(None))) or value.tzinfo is UTC for value in records[0].values())
    assert {tuple(record) for record in records} == {tuple(records[0])}
    assert records[0]["ran_s"] >= 0
    assert len(await client.list_invocations(limit=1)) == 1


async def test_waiting_may_have_a_limit_and_the_work_goes_on(client: Client, upper: Definition, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    await client.deploy({"name": "slow", "script": f"while [ ! -e '{gate}' ]; do sleep 0.02; done\n"})
    name = await client.submit("slow", b"")
    with pytest.raises(TimeoutError):
        await client.wait(name, timeout_s=0.3)
    gate.touch()
    assert (await client.wait(name, timeout_s=30))[0].phase == "succeeded"


async def test_upload_and_lists_of_objects(client: Client, tmp_path: Path) -> None:
    paths = []
    for number in range(9):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(b"x" * number)
        paths.append(path)
    sent = await client.upload(paths, "things/deep", create_bucket=True, progress=True)
    assert [one.key for one in sent] == [f"deep/{number}.bin" for number in range(9)]
    listed = await client.list_objects("things", prefix="deep/", limit=5)
    assert [record["size"] for record in listed.to_records()] == [0, 1, 2, 3, 4]
    assert listed.to_records()[0]["modified"].tzinfo is UTC
    assert await client.read("things", "deep/8.bin") == b"x" * 8
    with pytest.raises(errors.NotFound, match="no file"):
        await client.upload(tmp_path / "missing", "things/")


def test_the_package_offers_the_client_without_loading_it() -> None:
    assert penstock.Client is Client
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = penstock.Nonsense
    assert asyncio.iscoroutinefunction(penstock.Client.status)
