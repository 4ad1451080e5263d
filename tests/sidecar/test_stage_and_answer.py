"""Staging by error class, and the answers of synchronous runs."""

from __future__ import annotations

import base64
import io
import os
import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.sidecar import staging
from dispatcher.sidecar.answer import read_answer, read_log, write_answer
from dispatcher.sidecar.outputs import walk
from dispatcher.sidecar.stage import Staged, StageError, stage
from penstock.adapters.directory import DirectoryStore
from penstock.model import SYSTEM_BUCKET, BucketEvent, ErrorClass, Origin, Submission
from penstock.model.objects import answer_key, log_key
from tests.process_runner.support import collect, opened_store, plan, submission


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    async with opened_store(tmp_path) as opened:
        await opened.create_bucket(SYSTEM_BUCKET)
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


async def put(
    store: DirectoryStore, key: str, data: bytes = b"data", hops: int | None = 0, about: str = ""
) -> BucketEvent:
    return BucketEvent.of(
        await store.write("pictures", key, data, metadata={"penstock-hops": about}), Origin.PUSH, hops
    )


async def staged(store: DirectoryStore, trigger: BucketEvent | Submission, folder: Path, **changes: Any) -> Staged:
    made = plan("true", trigger, **changes)
    return await stage(store, made, made.items[0], str(folder))


async def refused(store: DirectoryStore, trigger: BucketEvent | Submission, folder: Path, **changes: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        await staged(store, trigger, folder, **changes)
    return caught.value


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def content_of(done: Staged) -> bytes:
    return Path(done.input_path).read_bytes()


async def test_an_object_becomes_a_file_that_anybody_may_write(store: DirectoryStore, folder: Path) -> None:
    done = await staged(store, await put(store, "d/e/x y.txt"), folder)
    assert done.input_path == str(folder / "x y.txt")
    assert (folder / "x y.txt").read_bytes() == b"data"
    assert stat.S_IMODE((folder / "x y.txt").stat().st_mode) == 0o666
    assert left(folder) == ["x y.txt"]


async def test_a_payload_becomes_a_file(store: DirectoryStore, folder: Path) -> None:
    done = await staged(store, submission(b"aGVsbG8="), folder)
    assert done.input_path == str(folder / "event-file-job-1-0")
    assert content_of(done) == b"hello"
    assert stat.S_IMODE((folder / "event-file-job-1-0").stat().st_mode) == 0o666


async def test_replaced_deleted_and_unreadable_inputs_are_told_apart(store: DirectoryStore, folder: Path) -> None:
    event = await put(store, "x")
    await store.write("pictures", "x", b"other")
    error = await refused(store, event, folder)
    assert (error.error, error.exit_code) == (ErrorClass.SUPERSEDED, None)
    await store.delete("pictures", "x")
    assert (await refused(store, event, folder)).error is ErrorClass.GONE
    (folder / "y").mkdir()
    error = await refused(store, await put(store, "y"), folder)
    assert (error.error, error.exit_code) == (ErrorClass.STAGE_IN, 120)
    assert "could not be staged" in error.message


async def test_bad_bodies_are_invalid(store: DirectoryStore, folder: Path) -> None:
    error = await refused(store, submission(b"hello world!"), folder)
    assert (error.error, error.exit_code) == (ErrorClass.INVALID, 123)
    assert left(folder) == []


@pytest.mark.parametrize(("hops", "about"), [(3, ""), (None, "3")])
async def test_the_hop_limit_is_kept_before_anything_runs(
    store: DirectoryStore, folder: Path, hops: int | None, about: str
) -> None:
    event = await put(store, "x", hops=hops, about=about)
    assert (await refused(store, event, folder, max_hops=3)).error is ErrorClass.HOP_LIMIT
    assert (await staged(store, event, folder, max_hops=4)).hops == 3


async def test_hops_that_are_no_number_count_as_none(store: DirectoryStore, folder: Path) -> None:
    event = await put(store, "x", hops=None, about="-1; drop")
    assert (await staged(store, event, folder)).hops == 0


async def test_file_stage_in_means_that_nothing_is_downloaded(store: DirectoryStore, folder: Path) -> None:
    done = await staged(store, await put(store, "x"), folder, file_stage_in=True)
    assert done.input_path == ""
    assert left(folder) == []


async def test_a_posted_storage_event_stages_its_object_and_tries_the_key_as_it_is(
    store: DirectoryStore, folder: Path
) -> None:
    await put(store, "a+b.txt", b"plus")
    body = b'{"Records":[{"eventSource":"minio:s3","s3":{"bucket":{"name":"pictures"},"object":{"key":"a+b.txt"}}}]}'
    done = await staged(store, submission(body), folder)
    assert content_of(done) == b"plus"
    missing = body.replace(b"a+b", b"zzz")
    assert (await refused(store, submission(missing), folder)).error is ErrorClass.GONE


@pytest.mark.parametrize("limit", [staging.MEMORY_BYTES, 10])
@pytest.mark.parametrize(
    "case",
    [
        (base64.encodebytes(b"hello " * 100), "", b"hello " * 100),
        (b"hello world, not base64", "text/plain", b"hello world, not base64"),
        (b'{"a": "' + b"x" * 100 + b'"}', "", b'{"a": "' + b"x" * 100 + b'"}'),
        (b"\xff\xd8" * 20, "", b"\xff\xd8" * 20),
    ],
)
async def test_bodies_kept_in_the_store(
    store: DirectoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int, case: tuple[bytes, str, bytes]
) -> None:
    body, content_type, content = case
    monkeypatch.setattr(staging, "MEMORY_BYTES", limit)
    await store.write(SYSTEM_BUCKET, "payloads/1", body)
    posted = submission(b"", body_key="payloads/1", content_type=content_type, size=len(body))
    done = await staged(store, posted, folder)
    assert content_of(done) == content
    assert left(folder) == ["event-file-job-1-0"]


@given(data=st.binary(max_size=300), width=st.integers(1, 80), chunk=st.sampled_from([12, 24, 3072]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_base64_is_decoded_on_disk_whatever_its_lines(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, width: int, chunk: int
) -> None:
    encoded = base64.b64encode(data)
    lines = b"\n".join(encoded[start : start + width] for start in range(0, len(encoded), width))
    path = tmp_path_factory.mktemp("decode") / "body"
    path.write_bytes(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_CHUNK", chunk)
        staging.decode_file(str(path))
    assert path.read_bytes() == data


async def test_a_large_body_that_is_no_base64_is_invalid(
    store: DirectoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MEMORY_BYTES", 5)
    await store.write(SYSTEM_BUCKET, "payloads/1", b"hello world!")
    assert (await refused(store, submission(b"", body_key="payloads/1"), folder)).error is ErrorClass.INVALID


def answer_of(folder: Path) -> bytes | None:
    sink = io.BytesIO()
    return sink.getvalue() if write_answer(walk(str(folder)).files, sink) else None


def test_one_file_answers_with_its_base64(folder: Path) -> None:
    (folder / "f").write_bytes(os.urandom(2_000_000))
    answer = answer_of(folder)
    assert answer is not None
    assert answer.endswith(b"\n")
    assert base64.b64decode(answer) == (folder / "f").read_bytes()


def test_an_empty_file_answers_with_an_empty_line_and_none_with_nothing(folder: Path) -> None:
    assert answer_of(folder) is None
    (folder / "f").touch()
    assert answer_of(folder) == b"\n"


def test_several_files_answer_with_a_zip_of_relative_paths(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"2")
    answer = answer_of(folder)
    assert answer is not None
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(answer))) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {"b": b"2", "sub/a": b"1"}
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in packed.infolist())


async def test_the_answer_is_the_files_else_the_script_output(store: DirectoryStore) -> None:
    assert await collect(read_answer(store, "u", "inv", 1)) == b""
    await store.write(SYSTEM_BUCKET, log_key("u", "inv", 1), b"printed")
    assert await collect(read_answer(store, "u", "inv", 1)) == b"printed"
    assert await collect(read_log(store, "u", "inv", 1, 5)) == b"ed"
    assert await collect(read_log(store, "u", "inv", 1, 50)) == b""
    await store.write(SYSTEM_BUCKET, answer_key("u", "inv", 1), b"made\n")
    assert await collect(read_answer(store, "u", "inv", 1)) == b"made\n"
