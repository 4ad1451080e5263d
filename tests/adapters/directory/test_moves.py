"""Files that are published in one turn of the loop: each has its own fate, all share the syncs of their folders."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.directory import DirectoryStore
from penstock.adapters.directory.moving import Move
from penstock.errors import NotFound, Unavailable, Unsupported
from penstock.model import ObjectInfo


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    opened = DirectoryStore(tmp_path / "buckets", settle_s=60)
    await opened.create_bucket("results")
    yield opened
    await opened.close()


def made(folder: Path, count: int) -> list[Path]:
    files = [folder / f"made-{number}" for number in range(count)]
    for number, file in enumerate(files):
        file.write_text(str(number))
    return files


async def read(store: DirectoryStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.read("results", key)])


async def test_each_file_of_a_turn_has_its_own_fate(store: DirectoryStore, tmp_path: Path) -> None:
    files = made(tmp_path, 9)
    (store.root / "results/taken").mkdir()
    (store.root / "results/taken/inside").write_text("x")
    os.link(files[5], tmp_path / "second name")
    keys = ["a/0", "a/1", "taken", "b/../c", "a/4", "a/5", "a/6", "a/4", "a/8"]
    files[1].unlink()
    answers = await asyncio.gather(
        *(
            store.publish(file, "none" if key == "a/8" else "results", key, metadata={"n": key}, consume=True)
            for file, key in zip(files, keys, strict=True)
        ),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds[:4] == [ObjectInfo, NotFound, Unsupported, Unsupported]
    assert kinds[4:] == [ObjectInfo, ObjectInfo, ObjectInfo, ObjectInfo, NotFound]
    assert {await read(store, "a/4")} <= {b"4", b"7"}  # both were published, in some order
    assert [await read(store, key) for key in ("a/0", "a/5", "a/6")] == [b"0", b"5", b"6"]
    assert (tmp_path / "second name").read_text() == "5"  # copied: somebody may still change it by that name
    assert (await store.head("results", "a/6")).metadata == {"n": "a/6"}
    assert [file.name for file in files if file.exists()] == ["made-2", "made-3", "made-8"]


def moves(files: list[Path], key: str) -> list[Move]:
    return [Move(file, "results", key + file.name, None, threading.Event()) for file in files]


def watch_syncs(monkeypatch: pytest.MonkeyPatch, steps: list[str], *, fail: bool = False) -> None:
    real_sync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        folder = os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112
        steps.append("folder" if folder else "file")
        if folder and fail:
            raise OSError(5, "Input/output error")
        real_sync(descriptor)

    def rename(*arguments: Any, **places: Any) -> None:
        steps.append("rename")
        real_rename(*arguments, **places)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)


async def test_files_are_on_disk_before_they_have_names_and_a_folder_is_synced_once(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "results/a").mkdir()
    steps: list[str] = []
    watch_syncs(monkeypatch, steps)
    answers = store._engine.publish_moves(moves(made(tmp_path, 3), "a/"))
    assert all(isinstance(answer, ObjectInfo) for answer in answers)
    assert steps == ["file"] * 3 + ["rename"] * 3 + ["folder"]


async def test_a_folder_that_cannot_be_synced_fails_every_file_in_it(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "results/a").mkdir()
    steps: list[str] = []
    watch_syncs(monkeypatch, steps, fail=True)
    answers = store._engine.publish_moves(moves(made(tmp_path, 3), "a/"))
    assert [type(answer) for answer in answers] == [Unavailable] * 3
    assert steps.count("folder") == 1  # a second sync would not report the error of the first


async def test_closing_completes_what_was_begun(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "buckets", settle_s=60)
    await store.create_bucket("results")
    (file,) = made(tmp_path, 1)
    publishing = asyncio.create_task(store.publish(file, "results", "k", consume=True), name="publish")
    await asyncio.sleep(0)
    await store.close()
    assert (await publishing).key == "k"


async def test_a_cancelled_move_is_done_or_undone(store: DirectoryStore, tmp_path: Path) -> None:
    files = made(tmp_path, 12)
    tasks = [
        asyncio.create_task(store.publish(file, "results", file.name, consume=True), name=file.name) for file in files
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(answer) for answer in answers[1::2]} == {ObjectInfo}
    assert {type(answer) for answer in answers[::2]} == {asyncio.CancelledError}
    for file in files:
        assert file.exists() != (store.root / "results" / file.name).exists()


async def test_metadata_goes_along_where_files_have_no_attributes(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "buckets", settle_s=60, attributes=False)
    await store.create_bucket("results")
    kept = tmp_path / "buckets/.penstock-tmp/meta/results"
    for turn in ("first", "second"):
        (file,) = made(tmp_path, 1)
        await store.publish(file, "results", "a/k", metadata={"turn": turn}, consume=True)
        assert (await store.head("results", "a/k")).metadata == {"turn": turn}
        assert len(list(kept.iterdir())) == 1  # what was kept of the replaced one is gone
    await store.close()


async def test_a_folder_that_is_deleted_meanwhile_is_made_anew(store: DirectoryStore, tmp_path: Path) -> None:
    turn = store._engine.begin_moves(moves(made(tmp_path, 2), "a/b/"))
    (store.root / "results/a/b").rmdir()
    (store.root / "results/a").rmdir()
    answers = store._engine.finish_moves(turn)
    assert all(isinstance(answer, ObjectInfo) for answer in answers)
    assert await read(store, "a/b/made-1") == b"1"


async def test_many_at_once_are_on_disk_before_they_have_names(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "results/a").mkdir()
    steps: list[str] = []
    watch_syncs(monkeypatch, steps)
    for slow in (False, True):
        store._sync_s = 1.0 if slow else 0.0  # the first time one thread syncs all, then several share them
        files = made(tmp_path, 10)
        infos = await asyncio.gather(
            *(store.publish(file, "results", f"a/{slow}-{file.name}", consume=True) for file in files)
        )
        assert [info.key for info in infos] == [f"a/{slow}-{file.name}" for file in files]
        assert steps == ["file"] * 10 + ["rename"] * 10 + ["folder"]
        steps.clear()


async def test_closing_completes_many_that_were_begun(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "buckets", settle_s=60)
    await store.create_bucket("results")
    publishing = [
        asyncio.create_task(store.publish(file, "results", file.name, consume=True), name=file.name)
        for file in made(tmp_path, 10)
    ]
    for _ in range(3):  # the files are being synced; they have no names yet
        await asyncio.sleep(0)
    await store.close()
    assert len(await asyncio.gather(*publishing)) == 10
    assert len(list((tmp_path / "buckets/results").iterdir())) == 10


async def test_one_that_fails_takes_no_other_along(store: DirectoryStore, tmp_path: Path) -> None:
    files = made(tmp_path, 6)
    (store.root / "results/taken").mkdir()
    (store.root / "results/taken/k").write_text("x")
    keys = ["taken" if number == 2 else file.name for number, file in enumerate(files)]
    answers = await asyncio.gather(
        *(store.publish(file, "results", key, consume=True) for file, key in zip(files, keys, strict=True)),
        return_exceptions=True,
    )
    assert [isinstance(answer, ObjectInfo) for answer in answers] == [True, True, False, True, True, True]
    assert isinstance(answers[2], Unsupported)
    assert files[2].exists()
