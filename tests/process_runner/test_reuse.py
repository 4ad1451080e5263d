"""Files and folders of Jobs that are used again: only what is as it was, and never half of what was there before."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.process_runner import reuse
from dispatcher.process_runner.layout import ItemFolder, JobFolder, read, write
from tests.process_runner.support import plan


@pytest.mark.parametrize("aged", [True, False], ids=["by-the-clock", "read-through"])
@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("true", True),
        ("echo half >>in/a; echo 0 >>code", True),
        ("touch out/left", False),
        ("touch work/left", False),
        ("touch left", False),
        ("touch in/left", False),
        ("rm in/a", True),
        ("rm in/a; mkdir in/a", False),
        ("rm in/a; ln -s ../env in/a", False),
        ("ln in/a ../kept", False),
        ("echo printed >>log", False),
        ("rm log", False),
        ("mv code code2; ln -s env code", False),
        ("chmod 700 work", False),
        ("chmod 700 in", False),
        ("rmdir out", False),
        ("mkdir work/deep", False),
    ],
)
def test_an_item_is_reset_at_once_only_when_it_is_as_it_was(
    tmp_path: Path, change: str, *, again: bool, aged: bool
) -> None:
    item = ItemFolder(str(tmp_path / "0"))
    item.create()
    for path in (item.env, f"{item.root}/code", item.log, f"{item.inputs}/a"):
        Path(path).write_text("" if path == item.log else "old")
    changed_ns = 1 if aged else time.time_ns() + 3600 * 10**9  # long ago, or too lately
    for folder in (item.root, item.work):
        os.utime(folder, ns=(changed_ns, changed_ns))
    mark = reuse.mark(item.root)
    assert (mark is not None) == aged
    subprocess.run(["sh", "-c", change], cwd=item.root, check=True)
    try:
        assert reuse.reset(item.root, mark) == again
    except OSError:
        assert not again
    if again:
        assert sorted(os.listdir(item.root)) == ["code", "env", "in", "log", "out", "work"]  # noqa: PTH208  (as the code does)
        assert set(os.listdir(item.inputs)) <= {reuse.BLANK}  # noqa: PTH208
        assert not item.staged()
        assert not item.started()
    elif (tmp_path / "kept").exists():
        assert (tmp_path / "kept").read_text() == "old"


@given(st.lists(st.binary(max_size=9000), min_size=1, max_size=4))
def test_a_file_holds_what_was_written_last(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    path = str(tmp_path_factory.mktemp("files") / "f")
    for content in contents:
        write(path, content)
        assert read(path) == content


def test_a_file_that_is_torn_by_a_kill_does_not_look_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = JobFolder(str(tmp_path), "job")
    folder.create(plan("secret"), "boot")
    real, left = os.pwrite, 2

    def torn(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "killed")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", torn)
    with pytest.raises(OSError, match="killed"):
        write(f"{folder.root}/plan.json", Path(f"{folder.root}/plan.json").read_bytes())
    assert folder.saved() is None
