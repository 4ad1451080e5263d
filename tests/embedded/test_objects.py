"""Objects of every kind: odd names, odd sizes, files that change or vanish before their turn."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from penstock.client import Client
from penstock.errors import PenstockError
from tests.embedded.shop import COPY, Shop, until
from tests.gateway.cli.conftest import Cli

NAMES = [
    "a+b%2F c#?ñ日本.txt",
    " leading and trailing ",
    "two\nlines",
    "-rf",
    "x" * 251 + ".txt",
    "日" * 85,
    "'quotes\" $(touch pwned) `id` ; * \\n",
    "%41+%2B&=;:@",
    "e\u0301 and \u00e9",
    ".hidden",
    "\t\x01\x7f",
]


async def came_out(shop: Shop, name: str) -> None:
    [record] = await shop.settled("names", 1)
    assert (record.phase, record.key, record.reason) == ("succeeded", f"files/{name}", "")
    outputs = await shop.outputs("names-out")
    assert outputs == {f"files/{name}": name.encode()}
    assert shop.folder(f"names-out/files/{name}").read_bytes() == name.encode()
    assert (await shop.log(record.id)).decode() == f"files/{name}"


#: Tells the key as the script saw it through its log, byte for byte.
NAMES_SCRIPT = f'printf %s "$STORAGE_OBJECT_KEY"\n[ "${{INPUT_FILE_PATH##*/}}" ] || exit 9\n{COPY}'


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["folder", "client", "raw"])
async def test_any_name_goes_through_as_it_is(shop: Shop, http: aiohttp.ClientSession, name: str, way: str) -> None:
    await shop.deploy("names", NAMES_SCRIPT)
    content = name.encode()
    if way == "folder":
        shop.drop(f"names-in/files/{name}", content)
    elif way == "client":
        await shop.client.put("names-in", f"files/{name}", content)
    else:
        address = f"{shop.client.server}/v1/buckets/names-in/objects/files/{quote(name, safe='')}"
        async with http.put(URL(address, encoded=True), data=content) as answer:
            assert answer.status == 201, await answer.text()
    await came_out(shop, name)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_goes_up_and_down_by_command(cli: Cli, tmp_path: Path, name: str) -> None:
    source = tmp_path / "up" / name
    source.parent.mkdir()
    source.write_bytes(name.encode())
    cli("put", "--create-bucket", "--", source, "names/sent/")
    cli("get", "-o", "back", "--", f"names/sent/{name}")
    assert (tmp_path / "back").read_bytes() == name.encode()
    assert f"sent/{name}" in [one["key"] for one in cli.json("ls", "--all", "names")["objects"]]


async def test_a_name_longer_than_a_folder_can_hold_is_refused(shop: Shop) -> None:
    await shop.deploy("names")
    with pytest.raises(PenstockError, match="one of its parts is 256 bytes long; 255 are possible"):
        await shop.client.put("names-in", "files/" + "x" * 256, b"x")
    assert await shop.outputs("names-in") == {}


async def test_a_name_that_is_no_text_is_a_dead_letter_and_the_rest_goes_on(shop: Shop) -> None:
    await shop.deploy("names")
    shop.drop("names-in/files/" + os.fsdecode(b"\xff\xfe.bin"))
    shop.drop("names-in/files/good", "x")
    assert (await shop.ended("names")).key == "files/good"
    [letter] = await until(shop.client.dead, lambda found: len(found) == 1)
    assert letter["kind"] == "event"
    assert "UTF-8" in letter["message"]


@pytest.mark.parametrize("key", ["../escape", "files/../../escape", "files/..", "/abs", "a//b", "./a", "files/./a"])
async def test_no_key_leaves_the_data_folder(shop: Shop, http: aiohttp.ClientSession, key: str) -> None:
    await shop.deploy("names")
    for shape in (quote(key, safe=""), quote(key)):
        address = URL(f"{shop.client.server}/v1/buckets/names-in/objects/{shape}", encoded=True)
        async with http.put(address, data=b"x") as answer:
            said = await answer.text()
            assert answer.status in {400, 404, 422}, (shape, said)
            assert len(said.splitlines()) == 1
    assert not list(shop.data.parent.rglob("escape"))
    assert await shop.records("names") == []


async def test_an_empty_file_is_processed_like_any_other(shop: Shop) -> None:
    await shop.deploy("empty", f'[ -f "$INPUT_FILE_PATH" ] && [ ! -s "$INPUT_FILE_PATH" ] || exit 1\n{COPY}')
    shop.drop("empty-in/files/by-folder", b"")
    await shop.client.put("empty-in", "files/by-client", b"")
    records = await shop.settled("empty", 2)
    assert {one.phase for one in records} == {"succeeded"}
    assert {one.size for one in records} == {0}
    assert await shop.outputs("empty-out") == {"files/by-folder": b"", "files/by-client": b""}


@pytest.mark.slow
async def test_five_gibibytes_of_holes_arrive_whole_and_stay_holes(shop: Shop) -> None:
    size = 5 * 2**30
    script = f"""stat -c '%s %b' "$INPUT_FILE_PATH" >> {shop.note("seen")}
tail -c 4 "$INPUT_FILE_PATH" >> {shop.note("seen")}
cp --sparse=always "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"
"""
    await shop.deploy("big", script)
    before = resident()
    with shop.folder("big-in/files/disk.img").open("wb") as sink:
        sink.truncate(size - 4)
        sink.seek(size - 4)
        sink.write(b"END.")
    highest = before
    while not (records := await shop.records("big")) or not records[0].final:
        highest = max(highest, resident())
        await asyncio.sleep(0.02)
    record = await shop.ended("big")
    assert (record.phase, record.size) == ("succeeded", size)
    seen, tail = shop.note("seen").read_text().splitlines()
    assert int(seen.split()[0]) == size
    assert int(seen.split()[1]) * 512 < 2**20, "the holes were kept on the way to the script"
    assert tail == "END."
    output = shop.folder("big-out/files/disk.img").stat()
    assert output.st_size == size
    assert output.st_blocks * 512 < 2**20, "and on the way out"
    assert highest - before < 64 * 2**20, "it was never held in memory"


def resident() -> int:
    """Bytes of memory of this process, which the platform runs in."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Changes before and during a turn

GATED = 'echo "$$" >> {begun}\nwhile [ ! -e {gate} ]; do sleep 0.02; done\n' + COPY


def gated(shop: Shop) -> str:
    return GATED.format(begun=shop.note("begun"), gate=shop.note("gate"))


async def queued(shop: Shop, function: str, count: int) -> None:
    await until(lambda: shop.phases(function), lambda phases: phases == ["queued"] * count)


async def test_a_file_replaced_before_its_turn_is_superseded_and_the_new_one_runs(shop: Shop) -> None:
    await shop.deploy("turn")
    await shop.client.pause("turn")
    shop.drop("turn-in/files/a", "old")
    await queued(shop, "turn", 1)
    shop.drop("turn-in/files/a", "new content")
    await queued(shop, "turn", 2)
    await shop.client.resume("turn")
    old, new = await shop.settled("turn", 2)
    assert (old.phase, old.error) == ("superseded", "superseded")
    assert old.reason == "the object 'files/a' in bucket 'turn-in' was replaced by another version"
    assert old.outputs == ()
    assert new.phase == "succeeded"
    assert await shop.outputs("turn-out") == {"files/a": b"new content"}


async def test_a_file_replaced_while_it_is_processed_runs_again_as_the_new_version(shop: Shop) -> None:
    script = f'{gated(shop).removesuffix(COPY)}cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/$(cat "$INPUT_FILE_PATH")"\n'
    await shop.deploy("turn", script)
    shop.drop("turn-in/files/a", "first")
    await shop.noted("begun")
    temporary = shop.note("replacement")
    temporary.write_text("second")
    temporary.rename(shop.folder("turn-in/files/a"))
    await shop.noted("begun", 2)
    shop.note("gate").touch()
    records = await shop.settled("turn", 2)
    assert [one.phase for one in records] == ["succeeded"] * 2
    assert await shop.outputs("turn-out") == {"files/first": b"first", "files/second": b"second"}
    assert len(shop.note("begun").read_text().splitlines()) == 2


async def test_writing_over_a_file_in_place_does_not_change_what_the_running_script_reads(shop: Shop) -> None:
    await shop.deploy("turn", gated(shop))
    target = shop.drop("turn-in/files/a", "first")
    await shop.noted("begun")
    with target.open("r+") as stream:  # same inode: a link into the bucket would show through
        stream.write("SECOND version")
    await shop.noted("begun", 2)
    shop.note("gate").touch()
    first, second = await shop.settled("turn", 2)
    assert [first.phase, second.phase] == ["succeeded"] * 2
    sizes = [[one.size for one in record.outputs] for record in (first, second)]
    assert sizes == [[5], [14]]


async def test_a_file_deleted_before_its_turn_is_skipped(shop: Shop) -> None:
    await shop.deploy("turn")
    await shop.client.pause("turn")
    shop.drop("turn-in/files/a")
    await queued(shop, "turn", 1)
    shop.folder("turn-in/files/a").unlink()
    await shop.client.resume("turn")
    record = await shop.ended("turn")
    assert (record.phase, record.error) == ("skipped", "gone")
    assert record.reason == "there is no object 'files/a' in bucket 'turn-in'"
    assert await shop.outputs("turn-out") == {}


async def test_the_same_file_touched_by_mode_and_links_starts_nothing_again(shop: Shop) -> None:
    await shop.deploy("turn")
    path = shop.drop("turn-in/files/a")
    await shop.ended("turn")
    path.chmod(0o600)
    with path.open("rb") as stream:
        stream.read()
    shop.drop("turn-in/files/b")
    assert [one.key for one in await shop.settled("turn", 2)] == ["files/a", "files/b"]


async def test_a_folder_is_no_file(shop: Shop) -> None:
    await shop.deploy("turn")
    shop.folder("turn-in/files/empty-folder").mkdir()
    shop.folder("turn-in/files/moved").mkdir()
    shop.drop("turn-in/files/moved/inside", "x")
    record = await shop.ended("turn")
    assert record.key == "files/moved/inside"


async def test_a_folder_marker_is_refused_or_skipped_but_never_run(shop: Shop, client: Client) -> None:
    await shop.deploy("turn")
    with pytest.raises(PenstockError, match="files/marker/"):
        await client.put("turn-in", "files/marker/", b"")
    shop.drop("turn-in/files/a")
    assert (await shop.ended("turn")).key == "files/a"


async def test_links_pipes_and_sockets_in_a_bucket_are_no_uploads(shop: Shop) -> None:
    await shop.deploy("turn")
    secret = shop.note("secret")
    secret.write_text("not for upload")
    shop.folder("turn-in/files/link").symlink_to(secret)
    os.mkfifo(shop.folder("turn-in/files/pipe"))
    shop.drop("turn-in/files/a")
    assert (await shop.ended("turn")).key == "files/a"
    assert set(await shop.outputs("turn-out")) == {"files/a"}


async def test_a_file_that_is_still_being_written_waits_until_it_is_whole(shop: Shop) -> None:
    await shop.deploy("turn")
    shop.drop("turn-in/files/first")
    await shop.settled("turn", 1)
    with shop.folder("turn-in/files/slow").open("wb", buffering=0) as sink:
        for number in range(5):
            sink.write(b"%d" % number)
            # Something else comes and goes meanwhile, so the platform had every chance to take it.
            shop.drop(f"turn-in/files/other-{number}")
            await shop.settled("turn", number + 2)
        assert "files/slow" not in {one.key for one in await shop.records("turn")}
    await shop.settled("turn", 7)
    assert (await shop.outputs("turn-out"))["files/slow"] == b"01234"


async def test_a_folder_moved_in_brings_all_its_files(shop: Shop) -> None:
    await shop.deploy("turn")
    shop.drop("turn-in/files/first")
    await shop.settled("turn", 1)
    source = shop.note("batch")
    for name in ("a", "b", "deep/er/c"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    os.utime(source / "a", (1, 1))
    source.rename(shop.folder("turn-in/files/batch"))
    records = await shop.settled("turn", 4)
    assert {one.key for one in records} == {"files/first", *(f"files/batch/{name}" for name in ("a", "b", "deep/er/c"))}
    assert {one.phase for one in records} == {"succeeded"}
