"""Which files go where: walk, routing, publication, lineage, and what happens to a repeat or a failure."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sidecar import outputs
from dispatcher.sidecar.outputs import Lineage, prepare, publish, route, walk
from penstock.adapters.directory import DirectoryStore
from penstock.model import StorageIO
from tests.process_runner.support import OUTPUT, opened_store

LINEAGE = Lineage(invocation="inv", input="identity", hops=2)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    async with opened_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def fill(out: Path, **files: bytes) -> None:
    for name, data in files.items():
        (out / name).write_bytes(data)


def names(out: Path) -> list[str]:
    return [file.name for file in walk(str(out)).files]


def test_hidden_empty_and_deep_files_count_and_empty_folders_do_not(out: Path) -> None:
    (out / "sub/deep").mkdir(parents=True)
    (out / "void").mkdir()
    for name in (".hidden", "empty", "sub/deep/c", " lead trail "):
        (out / name).touch()
    assert names(out) == [" lead trail ", ".hidden", "empty", "sub/deep/c"]


def test_links_are_followed_only_to_files_inside(out: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").touch()
    (out / "real").write_text("r")
    (out / "folder").mkdir()
    targets: dict[str, str | Path] = {
        "good": "real",
        "leak": tmp_path / "secret",
        "up": "../secret",
        "dangling": "nothing",
        "linked-folder": "folder",
        "linked-outside": tmp_path / "outside",
        "loop": "loop",
    }
    for name, target in targets.items():
        (out / name).symlink_to(target)
    found = walk(str(out))
    assert [file.name for file in found.files] == ["good", "real"]
    assert len(found.notes) == 6
    assert sum("leads out of" in note for note in found.notes) == 3


def test_what_is_no_file_is_noted_and_never_opened(out: Path) -> None:
    os.mkfifo(out / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(out / "socket"))
    (out / "file").touch()
    found = walk(str(out))
    assert [file.name for file in found.files] == ["file"]
    assert sorted(note.split()[0] for note in found.notes) == ["fifo", "socket"]


def test_a_missing_folder_is_noted(out: Path) -> None:
    out.rmdir()
    assert walk(str(out)).files == []
    assert "cannot be read" in walk(str(out)).notes[0]


def test_filters_look_at_the_relative_name() -> None:
    filtered = StorageIO(provider="minio", bucket="b", prefix=("result-",), suffix=(".txt", ".csv"))
    assert route("result-a.csv", [filtered]) == [(filtered, "result-a.csv")]
    assert route("sub/result-b.txt", [filtered]) == []
    assert route("result-a.png", [filtered]) == []
    foldered = StorageIO(provider="minio", bucket="b", folder="out/deep")
    assert [key for _, key in route("sub/x", [filtered, foldered, foldered])] == ["out/deep/sub/x"] * 2


@given(st.text(min_size=1), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_routing_is_all_or_nothing_per_output(name: str, prefixes: list[str]) -> None:
    output = StorageIO(provider="minio", bucket="b", folder="f", prefix=tuple(prefixes))
    expected = not prefixes or any(name.startswith(prefix) for prefix in prefixes)
    assert route(name, [output]) == ([(output, f"f/{name}")] if expected else [])


async def test_a_file_goes_to_every_output_that_takes_it(store: DirectoryStore, out: Path) -> None:
    fill(out, a=b"1", b=b"22")
    other = StorageIO(provider="local", bucket="pictures", folder="copy", prefix=("a",))
    published = await publish(store, await prepare(str(out), [OUTPUT, other]), LINEAGE)
    assert published.missing == ()
    assert sorted((o.bucket, o.key, o.size) for o in published.outputs) == [
        ("pictures", "copy/a", 1),
        ("results", "out/a", 1),
        ("results", "out/b", 2),
    ]
    info = await store.head("pictures", "copy/a")
    assert info.metadata["penstock-hops"] == "3"


async def test_the_same_output_of_the_same_invocation_is_not_written_again(store: DirectoryStore, out: Path) -> None:
    fill(out, a=b"1")
    first = await publish(store, await prepare(str(out), [OUTPUT], keep=True), LINEAGE)
    before = await store.head("results", "out/a")
    again = await publish(store, await prepare(str(out), [OUTPUT], keep=True), LINEAGE)
    assert await store.head("results", "out/a") == before
    assert [output.written for output in first.outputs + again.outputs] == [True, False]
    assert again.outputs[0].etag == first.outputs[0].etag
    forced = await publish(store, await prepare(str(out), [OUTPUT], keep=True), LINEAGE, force=True)
    assert forced.outputs[0].written
    other = Lineage(invocation="another", input="identity", hops=2)
    assert (await publish(store, await prepare(str(out), [OUTPUT], keep=True), other)).outputs[0].written
    fill(out, a=b"2")
    assert (await publish(store, await prepare(str(out), [OUTPUT], keep=True), other)).outputs[0].written


async def test_one_failed_upload_stops_no_other_and_is_named(store: DirectoryStore, out: Path) -> None:
    await store.write("results", "out/taken/x", b"")
    fill(out, a=b"1", taken=b"2", z=b"3")
    published = await publish(store, await prepare(str(out), [OUTPUT]), LINEAGE)
    assert sorted(output.key for output in published.outputs) == ["out/a", "out/z"]
    (missing,) = published.missing
    assert missing.startswith("taken was not uploaded to results/out/taken: ")


@pytest.mark.parametrize(
    ("provider", "identity", "says"),
    [
        ("s3", "default", "must have its access_key and secret_key under storage_providers.s3.default"),
        ("minio", "elsewhere", "must have its endpoint, access_key and secret_key under storage_providers.minio.else"),
        ("webdav", "x", "outputs can go to stores that speak S3 (minio, s3), and webdav is none"),
    ],
)
async def test_another_provider_is_an_error_and_no_silent_success(
    store: DirectoryStore, out: Path, provider: str, identity: str, says: str
) -> None:
    fill(out, a=b"1")
    other = StorageIO(provider=provider, provider_id=identity, bucket="there")
    published = await publish(store, await prepare(str(out), [OUTPUT, other]), LINEAGE)
    assert [output.key for output in published.outputs] == ["out/a"]
    assert f"{provider}.{identity}:there" in published.missing[0]
    assert says in published.missing[0]


async def test_a_deleted_output_bucket_is_made_again(store: DirectoryStore, out: Path) -> None:
    await store.delete_bucket("results")
    fill(out, a=b"1")
    published = await publish(store, await prepare(str(out), [OUTPUT]), LINEAGE)
    assert [output.key for output in published.outputs] == ["out/a"]


async def test_a_large_file_is_hashed_and_published(store: DirectoryStore, out: Path) -> None:
    data = os.urandom(3_000_000)
    fill(out, large=data)
    published = await publish(store, await prepare(str(out), [OUTPUT]), LINEAGE)
    assert [(output.size, output.sha256) for output in published.outputs] == [
        (len(data), hashlib.sha256(data).hexdigest())
    ]


def test_a_name_that_is_no_text_is_noted(out: Path) -> None:
    (out / os.fsdecode(b"\xff")).touch()
    found = walk(str(out))
    assert found.files == []
    assert "\\xff" in found.notes[0]


async def test_what_is_needed_elsewhere_is_copied_and_not_moved(
    store: DirectoryStore, out: Path, tmp_path: Path
) -> None:
    fill(out, sole=b"1", twice=b"2")
    os.link(out / "twice", tmp_path / "kept")
    (out / "link").symlink_to("twice")
    prepared = await prepare(str(out), [OUTPUT])
    assert {target.name: target.consume for target in prepared.targets} == {"sole": True, "twice": False, "link": False}
    await publish(store, prepared, LINEAGE)
    assert not (out / "sole").exists()
    assert (tmp_path / "kept").read_bytes() == b"2"


async def test_an_unreadable_file_is_missing(store: DirectoryStore, out: Path) -> None:
    fill(out, a=b"1")
    prepared = outputs.Walk(files=[outputs.OutputFile(name="gone", path=str(out / "gone"), size=1)], notes=[])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "walk", lambda _: prepared)
        found = await prepare(str(out), [OUTPUT])
    assert found.targets == ()
    assert "gone cannot be read" in found.missing[0]


async def test_confirm_finds_only_what_this_invocation_wrote(store: DirectoryStore, out: Path) -> None:
    fill(out, a=b"1", b=b"2")
    published = await publish(store, await prepare(str(out), [OUTPUT]), LINEAGE)
    await store.write("results", "out/b", b"somebody else's")
    confirmed = await outputs.confirm(store, published.outputs, LINEAGE)
    assert [output.key for output in confirmed] == ["out/a"]


def test_a_writer_is_noticed(out: Path) -> None:
    fill(out, a=b"1")
    with (out / "a").open("rb") as reader:
        assert not outputs.has_writer(reader.fileno())
        with (out / "a").open("ab"):
            assert outputs.has_writer(reader.fileno())
        assert not outputs.has_writer(reader.fileno())
