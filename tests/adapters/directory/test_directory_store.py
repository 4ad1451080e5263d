"""What only a folder has: links, other programs' files, leases, holes, permissions, full disks, leftovers of kills."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.adapters.directory import DirectoryStore, copying, paths
from penstock.adapters.directory.durable import FolderSync
from penstock.adapters.directory.engine import Engine
from penstock.errors import (
    AlreadyExists,
    Closed,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PenstockError,
    Superseded,
    Unavailable,
    Unsupported,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    opened = DirectoryStore(tmp_path / "buckets", settle_s=60)
    await opened.create_bucket("pictures")
    yield opened
    await opened.close()


@pytest.fixture
def bucket(store: DirectoryStore) -> Path:
    return store.root / "pictures"


async def keys(store: DirectoryStore, prefix: str = "") -> list[str]:
    return [info.key async for page in store.list("pictures", prefix) for info in page]


async def content(store: DirectoryStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.read("pictures", key)])


def old(path: Path, text: str = "x") -> Path:
    """Make a file that lies there since long: `settle_s` of the fixture is a minute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def scratch_files(store: DirectoryStore) -> list[str]:
    return [name for name in inside(store.root / ".penstock-tmp") if name.startswith("new-")]


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's power to ignore permissions; other users have none to give up."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


# Names and links


async def test_buckets_are_real_folders_with_legal_names(store: DirectoryStore, tmp_path: Path) -> None:
    for name in ("UPPER", "ok-name", ".hidden", "a", "under_score"):
        (store.root / name).mkdir()
    (store.root / "file-here").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (store.root / "linked").symlink_to(tmp_path / "elsewhere")
    assert await store.buckets() == ["ok-name", "pictures"]
    with pytest.raises(AlreadyExists, match="taken by a file"):
        await store.create_bucket("file-here")
    for name in ("linked", ".penstock-tmp", "UPPER"):
        with pytest.raises(NotFound):
            await store.write(name, "k", b"x")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (store.root / "ok-name" / "link").symlink_to(tmp_path)
    with pytest.raises(Conflict):
        await store.delete_bucket("ok-name")


async def test_links_are_never_followed(store: DirectoryStore, bucket: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (bucket / "folder").symlink_to(outside)
    (bucket / "file").symlink_to(outside / "secret")
    (bucket / "dangling").symlink_to("nowhere")
    old(bucket / "real")
    (bucket / "inner").symlink_to("real")
    for key in ("folder/secret", "file", "dangling", "inner"):
        with pytest.raises(NotFound):
            await store.head("pictures", key)
        with pytest.raises(NotFound):
            await content(store, key)
        await store.delete("pictures", key)
    with pytest.raises(Unsupported):
        await store.write("pictures", "folder/new", b"x")
    await store.write("pictures", "file", b"mine")
    assert (outside / "secret").read_text() == "secret"
    assert inside(outside) == ["secret"]
    assert await keys(store) == ["file"]
    assert await keys(store, "folder/") == []


async def test_a_fifo_and_a_folder_are_no_objects_and_do_not_block(store: DirectoryStore, bucket: Path) -> None:
    os.mkfifo(bucket / "fifo")
    (bucket / "folder").mkdir()
    for key in ("fifo", "folder"):
        with pytest.raises(NotFound):
            await store.head("pictures", key)
        with pytest.raises(NotFound):
            await content(store, key)
    assert await keys(store) == []
    await store.write("pictures", "folder", b"an empty folder is not in the way")
    assert await keys(store) == ["folder"]


hostile = st.lists(
    st.sampled_from(["..", ".", "", "a", "b", "\0", "up", "x" * 300, "%2e%2e", "\ud800", "\n", "../..", "~"]),
    max_size=6,
).map("/".join)


@settings(max_examples=80, deadline=None)
@given(key=hostile, bucket=st.sampled_from(["pictures", "..", ".", "", ".penstock-tmp", "pictures/..", "/tmp", "\0"]))
def test_no_name_reaches_outside_its_bucket(key: str, bucket: str) -> None:
    async def scenario() -> None:
        with TemporaryDirectory() as folder:
            top = Path(folder)
            (top / "victim").write_text("untouched")
            (top / "a").write_text("untouched")
            store = DirectoryStore(top / "buckets")
            await store.create_bucket("pictures")
            with contextlib.suppress(Unsupported, InvalidInput, NotFound):
                await store.write(bucket, key, b"evil")
            with contextlib.suppress(Unsupported, InvalidInput, NotFound):
                await store.publish(top / "victim", bucket, key)
            with contextlib.suppress(Unsupported, InvalidInput, NotFound):
                assert b"".join([chunk async for chunk in store.read(bucket, key)]) in {b"evil", b"untouched"}
            with contextlib.suppress(Unsupported, InvalidInput, NotFound):
                _ = [page async for page in store.list(bucket, key)]
            with contextlib.suppress(Unsupported, InvalidInput, NotFound):
                await store.delete(bucket, key)
            assert inside(top) == ["a", "buckets", "victim"]
            assert (top / "victim").read_text() == (top / "a").read_text() == "untouched"
            assert inside(top / "buckets") == [".penstock-tmp", "pictures"]
            assert scratch_files(store) == []
            await store.close()

    asyncio.run(scenario())


# Other programs' files


async def test_a_file_of_another_program_is_listed_when_it_has_settled(tmp_path: Path) -> None:
    patient = DirectoryStore(tmp_path / "buckets", settle_s=60)
    hasty = DirectoryStore(tmp_path / "buckets", settle_s=0)
    await patient.create_bucket("pictures")
    (patient.root / "pictures" / "k").write_text("x")
    assert await keys(patient) == []
    assert await keys(hasty) == ["k"]
    # Looked at by name it is there: a comparison needs the truth.
    assert await patient.head("pictures", "k") == await hasty.head("pictures", "k")
    # What came through a store, of whatever process, is complete and listed at once.
    await hasty.write("pictures", "own", b"")
    assert await keys(patient) == ["own"]
    await patient.close()
    await hasty.close()


async def test_a_settled_file_is_not_listed_while_a_writer_holds_it_open(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "buckets", settle_s=0)
    await store.create_bucket("pictures")
    with (store.root / "pictures" / "k").open("w"):
        assert await keys(store) == []
        (probe,) = await store.probe([("pictures", "k")])
        assert probe is not None
        assert probe.writer is True
        assert (await store.head("pictures", "k")).size == 0
    assert await keys(store) == ["k"]
    (probe,) = await store.probe([("pictures", "k")])
    assert probe is not None
    assert probe.writer is False
    await store.close()


async def test_an_old_time_of_modification_is_kept_and_the_arrival_is_known(
    store: DirectoryStore, bucket: Path
) -> None:
    begun = time.time_ns() // 1_000_000
    os.utime(old(bucket / "k"), (1_000_000, 1_000_000))
    info = await store.head("pictures", "k")
    assert info.modified_ms == 1_000_000_000
    assert info.arrived_ms >= begun


def test_asking_for_writers_kills_nobody(tmp_path: Path) -> None:
    """A writer that opens the file while the question is open makes the kernel send a signal; it must do no harm."""
    (tmp_path / "k").write_text("x")
    program = (
        "import os, sys, threading\n"
        "from penstock.adapters.directory import paths\n"
        "folder = os.open(sys.argv[1], os.O_RDONLY)\n"
        "end = threading.Event()\n"
        "def write():\n"
        "    while not end.is_set():\n"
        "        open(sys.argv[1] + '/k', 'a').close()\n"
        "thread = threading.Thread(target=write); thread.start()\n"
        "answers = {paths.being_written(folder, 'k') for _ in range(20000)}\n"
        "end.set(); thread.join(); print(sorted(answers))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout in {"[False, True]\n", "[False]\n"}


async def test_metadata_ends_with_the_version_it_was_given_to(store: DirectoryStore, bucket: Path) -> None:
    await store.write("pictures", "k", b"1", metadata={"penstock-hops": "3"})
    shutil.copy2(bucket / "k", bucket / "copy")
    assert (await store.head("pictures", "copy")).metadata == {"penstock-hops": "3"}
    (bucket / "k").write_text("written in place by another program")
    assert (await store.head("pictures", "k")).metadata == {}
    os.setxattr(bucket / "copy", "user.penstock", b"not ours")
    assert (await store.head("pictures", "copy")).metadata == {}


async def test_fallback_metadata_leaves_no_litter(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "buckets", attributes=False)
    await store.create_bucket("pictures")
    beside = store.root / ".penstock-tmp" / "meta" / "pictures"
    for turn in range(3):
        await store.write("pictures", "k", b"1", metadata={"turn": str(turn)})
        assert (await store.head("pictures", "k")).metadata == {"turn": str(turn)}
    assert len(inside(beside)) == 1
    await store.delete("pictures", "k")
    assert inside(beside) == []
    await store.delete_bucket("pictures")
    assert not beside.exists()
    await store.close()


# Copies


async def test_a_change_during_the_copy_is_superseded(
    store: DirectoryStore, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1000, 1_000_000):
        info = await store.write("pictures", "k", b"x" * size)

        def grow(real: Any, *arguments: Any) -> None:
            real(*arguments)
            with (bucket / "k").open("ab") as stream:
                stream.write(b"more")

        with monkeypatch.context() as patch:
            for name in ("copy", "copy_small"):
                real = getattr(copying, name)
                patch.setattr(copying, name, lambda *a, real=real: grow(real, *a))
            with pytest.raises(Superseded):
                await store.fetch(info, tmp_path / "target")
        assert not (tmp_path / "target").exists()


async def test_a_cancelled_copy_leaves_nothing(
    store: DirectoryStore, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1_000_000)
    info = await store.publish(source, "pictures", "k")
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_abort(_source: int, target: int, size: int, abort: threading.Event) -> None:
        os.ftruncate(target, size)
        loop.call_soon_threadsafe(begun.set)
        assert abort.wait(20)
        copying.check(abort)

    monkeypatch.setattr(copying, "copy", wait_for_abort)
    for work in (store.fetch(info, tmp_path / "target"), store.publish(source, "pictures", "other")):
        begun.clear()
        task = asyncio.create_task(work)
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not (tmp_path / "target").exists()
    assert await keys(store) == ["k"]
    assert scratch_files(store) == []


@pytest.mark.parametrize("in_kernel", [True, False])
def test_copies_keep_holes_with_and_without_help_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EXDEV, "as between two file systems")

    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse)
        monkeypatch.setattr(copying, "_clone", lambda *_: False)
    with (tmp_path / "source").open("w+b") as source, (tmp_path / "target").open("w+b") as target:
        for place, data in ((0, b"begin"), (5_000_000, b"x" * 3_000_000), (50_000_000, b"end")):
            source.seek(place)
            source.write(data)
        source.truncate(100_000_000)
        copying.copy(source.fileno(), target.fileno(), 100_000_000, threading.Event())
    assert (tmp_path / "source").read_bytes() == (tmp_path / "target").read_bytes()
    assert (tmp_path / "target").stat().st_blocks * 512 < 8_000_000


async def test_what_could_still_change_is_copied_instead_of_moved(
    store: DirectoryStore, bucket: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_text("1")
    os.link(source, tmp_path / "second-name")
    await store.publish(source, "pictures", "linked", consume=True)
    (tmp_path / "second-name").write_text("changed afterwards")
    with source.open("w") as stream:
        stream.write("2")
        stream.flush()
        await store.publish(source, "pictures", "open", consume=True)
        stream.write("changed afterwards")
    (tmp_path / "link").symlink_to(tmp_path / "second-name")
    await store.publish(tmp_path / "link", "pictures", "through-a-link", consume=True)
    assert not source.exists()
    assert await content(store, "linked") == b"1"
    assert await content(store, "open") == b"2"
    assert await content(store, "through-a-link") == b"changed afterwards"
    assert not (bucket / "through-a-link").is_symlink()


async def test_a_moved_file_can_be_read_like_any_other(store: DirectoryStore, bucket: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("1")
    source.chmod(0o600)
    inode = source.stat().st_ino
    await store.publish(source, "pictures", "k", consume=True)
    mask = os.umask(0)
    os.umask(mask)
    assert (bucket / "k").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (bucket / "k").stat().st_ino == inode


# Durability


async def test_content_is_on_disk_before_the_name_and_the_name_before_the_answer(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink()}")
        real_sync(descriptor)

    def rename(*arguments: Any, **more: Any) -> None:
        calls.append("rename")
        real_rename(*arguments, **more)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    await store.write("pictures", "a/b/k", b"x")
    folder = str(store.root / "pictures")
    assert calls[0].startswith(f"sync {store.root / '.penstock-tmp'}/new-")
    assert calls[1] == "rename"
    assert sorted(calls[2:]) == [f"sync {folder}", f"sync {folder}/a", f"sync {folder}/a/b"]
    calls.clear()
    (tmp_path / "source").write_text("x")
    await store.publish(tmp_path / "source", "pictures", "a/b/moved", consume=True)
    assert calls == [f"sync {tmp_path / 'source'}", "rename", f"sync {folder}/a/b"]


def test_threads_that_sync_one_folder_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = FolderSync()
    first, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        first.set()
        assert go_on.wait(20)

    monkeypatch.setattr(os, "fsync", slow)
    folder = os.open(tmp_path, os.O_RDONLY)
    threads = [threading.Thread(target=sync.sync, args=(folder,)) for _ in range(10)]
    threads[0].start()
    assert first.wait(20)
    for thread in threads[1:]:
        thread.start()
    while next(iter(sync._queues.values())).asked < 10:  # all have asked while the first sync runs
        time.sleep(0)
    go_on.set()
    for thread in threads:
        thread.join(20)
    os.close(folder)
    assert len(calls) == 2
    assert not sync._queues


def test_leftovers_of_a_killed_process_are_removed_and_living_ones_kept(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from penstock.adapters.directory.engine import Engine\n"
        "print(Engine(Path(sys.argv[1]), settle_s=0).scratch.create()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    name = process.stdout.readline().strip()
    engine = Engine(tmp_path, settle_s=0)
    later = time.time_ns() + 61 * 10**9
    assert engine.scratch.sweep(now_ns=later) == 0
    process.kill()
    process.wait()
    assert engine.scratch.sweep() == 0
    assert engine.scratch.sweep(now_ns=later) == 1
    assert not (tmp_path / ".penstock-tmp" / name).exists()
    process.stdin.close()
    process.stdout.close()
    engine.close()


# Refusals of the system


async def test_what_may_not_be_read_is_forbidden_with_a_sentence(
    store: DirectoryStore, bucket: Path, tmp_path: Path
) -> None:
    info = await store.write("pictures", "deep/k", b"x")
    await store.write("pictures", "closed/k", b"x")
    await store.write("pictures", "open/k", b"x")
    hasty = DirectoryStore(store.root, settle_s=0)  # nobody can see any more that the file came through a store
    (bucket / "deep/k").chmod(0o000)
    (bucket / "closed").chmod(0o000)
    with unprivileged():
        with pytest.raises(Forbidden, match="the file 'deep/k' in bucket 'pictures' cannot be read by the user"):
            await content(store, "deep/k")
        with pytest.raises(Forbidden, match="cannot be read by the user running penstock"):
            await store.fetch(info, tmp_path / "target")
        assert (await store.head("pictures", "deep/k")).identity == info.identity
        pages = hasty.list("pictures")
        assert [found.key for found in await anext(pages)] == ["deep/k", "open/k"]
        with pytest.raises(Forbidden, match="closed"):
            await anext(pages)
        with pytest.raises(Forbidden, match="closed"):
            await keys(hasty, "closed/")
        assert await keys(hasty, "deep/") == ["deep/k"]
        with pytest.raises(Forbidden, match="written"):
            await store.write("pictures", "new", b"x")
        with pytest.raises(Forbidden, match="deleted"):
            await store.delete("pictures", "deep/k")
        probes = await store.probe([("pictures", "closed/k"), ("pictures", "deep/k"), ("pictures", "../k")])
    assert [probe is not None for probe in probes] == [False, True, False]
    await hasty.close()
    (bucket / "closed").chmod(0o755)
    assert not (tmp_path / "target").exists()


FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from penstock.adapters.directory import DirectoryStore
from penstock.errors import OutOfSpace

async def main(folder):
    store = DirectoryStore(folder / "buckets")
    await store.create_bucket("pictures")
    kept = await store.write("pictures", "k", b"old")
    (folder.parent / "big").write_bytes(b"x" * 8_000_000)
    (folder.parent / "source").write_bytes(b"x" * 3_900_000)
    info = await store.publish(folder.parent / "source", "pictures", "filler")
    refused = 0
    for work in (
        lambda: store.write("pictures", "k", b"x" * 8_000_000),
        lambda: store.publish(folder.parent / "big", "pictures", "k"),
        lambda: store.publish(folder.parent / "big", "pictures", "k", consume=True),
        lambda: store.fetch(info, folder / "target"),
    ):
        try:
            await work()
        except OutOfSpace as error:
            assert "full" in error.message
            refused += 1
    assert refused == 4, refused
    assert await store.head("pictures", "k") == kept
    assert not (folder / "target").exists()
    assert (folder.parent / "big").exists()
    assert [n for n in os.listdir(folder / "buckets" / ".penstock-tmp") if n.startswith("new-")] == []
    await store.delete("pictures", "filler")
    await store.write("pictures", "k", b"x" * 3_000_000)
    await store.close()

asyncio.run(main(Path(sys.argv[1])))
print("done")
"""


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """On a file system of 6 MB of its own, mounted in a namespace that ends with the process."""
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=6m none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(small), sys.executable, FULL_DISK]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"this system mounts nothing for users: {result.stderr.strip()}")
    assert result.stdout == "done\n", result.stderr


async def test_trouble_with_the_target_is_not_trouble_with_the_object(store: DirectoryStore, tmp_path: Path) -> None:
    for size in (1, 100_000):
        info = await store.write("pictures", "k", b"x" * size)
        with pytest.raises(Unavailable, match="cannot be copied to"):
            await store.fetch(info, tmp_path / "missing" / "target")
        (tmp_path / "taken").symlink_to(tmp_path / "victim")
        with pytest.raises(AlreadyExists):
            await store.fetch(info, tmp_path / "taken")
        (tmp_path / "taken").unlink()
    assert not (tmp_path / "victim").exists()


def test_a_data_folder_that_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in ("file", "file/below"):
        with pytest.raises(InvalidInput, match="data folder"):
            DirectoryStore(tmp_path / folder)
    (tmp_path / "closed").mkdir(mode=0o500)
    with unprivileged(), pytest.raises(Forbidden, match="data folder"):
        DirectoryStore(tmp_path / "closed" / "buckets")


async def test_each_of_several_writers_gets_its_own_version_as_answer(store: DirectoryStore) -> None:
    infos = await asyncio.gather(*(store.write("pictures", "k", b"x" * size) for size in range(1, 40)))
    assert [info.size for info in infos] == list(range(1, 40))
    assert (await store.head("pictures", "k")).identity in {info.identity for info in infos}


async def test_a_closed_store_says_so(store: DirectoryStore, tmp_path: Path) -> None:
    info = await store.write("pictures", "k", b"x")
    await store.close()
    await store.close()
    for work in (store.head("pictures", "k"), store.fetch(info, tmp_path / "t"), store.delete("pictures", "k")):
        with pytest.raises(Closed):
            await work
    assert issubclass(Closed, PenstockError)


async def test_the_loop_is_free_while_a_folder_is_listed(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing thread is held up until the loop has done something else."""
    await store.write("pictures", "k", b"x")
    passed = threading.Event()
    real = paths.status_of

    def held(parent: int, name: str) -> os.stat_result:
        assert passed.wait(20)
        return real(parent, name)

    monkeypatch.setattr(paths, "status_of", held)
    listing = asyncio.create_task(keys(store))
    await asyncio.sleep(0)
    assert not listing.done()
    passed.set()
    assert await listing == ["k"]
