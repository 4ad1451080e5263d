"""Folders of Jobs and items that are over: removed whatever is in them, or emptied and used again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dispatcher.process_runner import janitor as janitors
from dispatcher.process_runner.janitor import Janitor, emptied_item, emptied_job
from dispatcher.process_runner.layout import ItemFolder, JobFolder, remove_tree
from penstock.model import BucketEvent
from tests.process_runner.support import eventually, plan

EVENT = BucketEvent(bucket="pictures", key="k", etag="e", size=0, time_ms=1, arrived_ms=1, hops=0)


def test_a_folder_is_removed_whatever_its_rights(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "f").touch()
    (tmp_path / "a" / "link").symlink_to("/")
    deep.chmod(0)
    remove_tree(str(tmp_path / "a"))
    remove_tree(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("touch in/a work/.b code log; echo x >env; ln -s / out/link", True),
        ("rm -f env; ln -s /dev/null env", True),
        ("mkdir work/deep", False),
        ("chmod 700 work", False),
        ("rmdir in", False),
        ("rmdir in; ln -s /tmp in", False),
        ("mkdir extra", False),
        ("setfattr -n user.x -v 1 out || chmod 711 out", False),
    ],
)
def test_only_a_folder_that_looks_new_is_used_again(tmp_path: Path, change: str, *, again: bool) -> None:
    item = ItemFolder(str(tmp_path / "0"))
    item.create()
    subprocess.run(["sh", "-c", change], cwd=item.root, check=True, stderr=subprocess.DEVNULL)
    try:
        looks_new = emptied_item(item.root)
    except OSError:
        looks_new = False
    assert looks_new == again
    if again:
        left = {str(path.relative_to(item.root)) for path in Path(item.root).rglob("*")}
        assert {"in", "out", "work"} <= left <= {"code", "env", "in", "in/.blank", "log", "out", "work"}
        assert all(not path.stat().st_size for path in Path(item.root).rglob("*") if path.is_file())


def test_a_file_of_variables_with_a_second_name_is_not_used_again(tmp_path: Path) -> None:
    item = ItemFolder(str(tmp_path / "0"))
    item.create()
    (tmp_path / "mine").write_text("keep me")
    os.link(tmp_path / "mine", item.env)
    assert emptied_item(item.root)
    assert not Path(item.env).exists()
    assert (tmp_path / "mine").read_text() == "keep me"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("true", True),
        ("rm script.sh notes; ln -s /dev/null script.sh", True),
        ("ln plan.json second", True),
        ("echo left >extra", True),
        ("chmod 644 plan.json", False),
        ("mkdir deep", False),
    ],
)
def test_only_a_jobs_folder_without_strangers_is_used_again(tmp_path: Path, change: str, *, again: bool) -> None:
    folder = JobFolder(str(tmp_path), "job")
    folder.create(plan("secret", EVENT), "boot")
    folder.note_launcher(12, 34, "fifo")
    folder.note([])
    subprocess.run(["sh", "-c", change], cwd=folder.root, check=True)
    try:
        clean = emptied_job(folder.root)
    except OSError:  # its plan.json had a second name and is gone
        clean = True
    assert clean == again
    if again:
        assert folder.saved() is None
        assert folder.launcher() is None
        assert folder.notes() == ({}, {})
        assert {path.name for path in Path(folder.root).iterdir()} <= {"script.sh", "plan.json", "launcher", "notes"}


def test_an_old_input_becomes_the_next_one(tmp_path: Path) -> None:
    item = ItemFolder(str(tmp_path / "0"))
    item.create()
    Path(item.inputs, "picture.png").write_text("old")
    Path(item.inputs, "more").write_text("old")
    assert emptied_item(item.root)
    assert Path(item.blank).read_bytes() == b""
    assert list(Path(item.inputs).iterdir()) == [Path(item.blank)]


async def test_an_emptied_folder_serves_the_next_item_and_the_bin_is_emptied(tmp_path: Path) -> None:
    old = tmp_path / ".bin" / "left"
    old.mkdir(parents=True)
    janitor = Janitor(str(tmp_path))
    job = tmp_path / "job"
    job.mkdir()
    item = ItemFolder(str(job / "0"))
    item.create(janitor.spare_item)
    inode = (job / "0").stat().st_ino
    (job / "0" / "code").touch()
    janitor.throw(str(job))
    janitor.throw(str(job))
    await eventually(lambda: bool(janitor._spare_items))
    again = ItemFolder(str(tmp_path / "1"))
    again.create(janitor.spare_item)
    assert os.stat(again.root).st_ino == inode  # noqa: PTH116  (a local folder)
    assert sorted(os.listdir(again.root)) == ["code", "in", "out", "work"]  # noqa: PTH208  (as the code does)
    assert again.code() is None
    assert not again.staged()
    assert not again.started()
    await janitor.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]  # noqa: ASYNC240  (a local folder)


async def test_too_much_in_the_bin_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitors, "_MOST", 3)
    janitor = Janitor(str(tmp_path))
    for number in range(12):
        (tmp_path / f"job{number}").mkdir()
        await janitor.discard(str(tmp_path / f"job{number}"))
        assert len(janitor._waiting) <= 3
    await janitor.close()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  (a local folder)
