"""The command line as processes: pipes, signals, terminals, and several servers at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from penstock.adapters.sqlite import SqliteEventLog
from penstock.model import TOPIC_EVENTS
from penstock.ports import LogEntry
from tests.gateway.cli.conftest import COMMAND, Cli, Up

T = TypeVar("T")

DEADLINE_S = 30.0


@contextlib.contextmanager
def started(up: Up, *arguments: str | Path, **options: int) -> Iterator[subprocess.Popen[bytes]]:
    process = up.child(*arguments, stderr=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()


def read_until(source: int, wanted: bytes) -> bytes:
    """Read a descriptor until the bytes have come."""
    got = b""
    deadline = time.monotonic() + DEADLINE_S
    while wanted not in got:
        ready, _, _ = select.select([source], [], [], max(deadline - time.monotonic(), 0))
        chunk = os.read(source, 65536) if ready else b""
        assert chunk, f"{wanted!r} did not come: {got!r}"
        got += chunk
    return got


def test_stdin_is_an_object_whatever_it_is(up: Up, cli: Cli, tmp_path: Path) -> None:
    data = os.urandom(700_000)
    piped = subprocess.run(
        [*COMMAND, "put", "--create-bucket", "-", "stdin/piped"],
        input=data,
        env=up.environ,
        capture_output=True,
        check=True,
    )
    assert b"stdin/piped (683.6 KiB)" in piped.stdout
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        subprocess.run([*COMMAND, "put", "-", "stdin/file"], stdin=file, env=up.environ, check=True)
    subprocess.run([*COMMAND, "put", "-", "stdin/null"], stdin=subprocess.DEVNULL, env=up.environ, check=True)
    stored = up.data / "buckets" / "stdin"
    assert (stored / "piped").read_bytes() == data
    assert (stored / "file").read_bytes() == data
    assert (stored / "null").read_bytes() == b""


def test_a_reader_that_leaves_ends_a_listing_quietly(up: Up, cli: Cli, tmp_path: Path) -> None:
    # More than two pipes hold, so that the writer is still at it when the reader leaves after its first read.
    for number in range(250):
        (tmp_path / f"{number:0200}").touch()
    cli("put", "-r", "--create-bucket", tmp_path, f"long/{f'{0:0200}/' * 3}")
    with started(up, "ls", "long", "--all") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        read_until(process.stdout.fileno(), b"KEY")
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(DEADLINE_S) == 141
        assert told == b""


@pytest.mark.parametrize("arguments", [["watch"], ["run", "gated"], ["submit", "gated", "--wait"], ["put", "-", "b/k"]])
def test_an_interrupt_ends_with_130_and_no_traceback(up: Up, cli: Cli, arguments: list[str]) -> None:
    read, write = os.pipe()  # a stdin that never says anything
    with started(up, *arguments, stdin=read) as process:
        assert process.stderr is not None
        # Interrupted once it waits for the server: then its connection is open.
        _wait_for_connection(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        told = process.stderr.read().decode()
    os.close(read)
    os.close(write)
    assert told.endswith("penstock: interrupted\n")
    assert "Traceback" not in told
    for one in cli.json("invocation", "ls", "--function", "gated", "--all")["invocations"]:
        if one["phase"] in {"queued", "planned", "submitted", "running"}:
            cli("invocation", "cancel", one["id"])


def _wait_for_connection(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            # Its event loop has two sockets of its own (a pair that wakes it).
            if sum(link.startswith("socket:") for link in links) > 2:
                return
        select.select([], [], [], 0.02)
    pytest.fail("the command never connected")


def test_watch_writes_a_line_per_change_into_a_pipe(up: Up, cli: Cli) -> None:
    with started(up, "watch", "--function", "upper") as process:
        assert process.stdout is not None
        _wait_for_connection(process.pid)
        identity = ""
        ready: list[int] = []
        deadline = time.monotonic() + DEADLINE_S
        while not ready:  # submitted again until the subscription stands
            assert time.monotonic() < deadline
            identity = cli.submitted("upper", "x")
            ready, _, _ = select.select([process.stdout.fileno()], [], [], 0.5)
        seen = read_until(process.stdout.fileno(), b"succeeded").decode()
    assert identity[:12] in seen
    assert "(posted body)" in seen


def test_watch_writes_json_lines(up: Up, cli: Cli) -> None:
    with started(up, "watch", "--output", "json") as process:
        assert process.stdout is not None
        _wait_for_connection(process.pid)
        ready: list[int] = []
        deadline = time.monotonic() + DEADLINE_S
        while not ready:
            assert time.monotonic() < deadline
            cli.submitted("upper", "x")
            ready, _, _ = select.select([process.stdout.fileno()], [], [], 0.5)
        document = json.loads(process.stdout.readline())
    assert document["function"] == "upper"


def test_watch_draws_a_live_table_on_a_terminal(up: Up, cli: Cli) -> None:
    master, slave = pty.openpty()
    environ = up.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    process = subprocess.Popen([*COMMAND, "watch"], env=environ, stdout=slave, stderr=slave, stdin=slave)
    os.close(slave)
    try:
        read_until(master, b"Latest changes")
        cli.submitted("upper", "x")
        read_until(master, b"succeeded")
        process.send_signal(signal.SIGINT)
        read_until(master, b"interrupted")
        assert process.wait(DEADLINE_S) == 130
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_transfer_shows_its_progress_on_a_terminal_only(up: Up, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    assert cli("put", "--create-bucket", tmp_path / "big", "big/").err == ""
    master, slave = pty.openpty()
    environ = up.environ | {"TERM": "xterm", "COLUMNS": "140"}
    target = tmp_path / "copy"
    process = subprocess.Popen([*COMMAND, "get", "big/big", "-o", target], env=environ, stdout=slave, stderr=slave)
    os.close(slave)
    try:
        assert b"MiB" in read_until(master, b"copy (2.9 MiB)")
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert target.stat().st_size == 3_000_000


def test_a_full_disk_is_told_and_leaves_no_file(up: Up, cli: Cli, tmp_path: Path) -> None:
    cli("put", "--create-bucket", up.fdl, "big/f")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "get", "big/f", "-o", "-"], env=up.environ, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"penstock: No space left on device\n"


def test_names_that_are_no_text_are_listed_and_fetched(up: Up, cli: Cli, tmp_path: Path) -> None:
    name = b"bad\xff"
    (tmp_path / "f").write_text("x")
    cli("put", "--create-bucket", tmp_path / "f", os.fsdecode(b"raw/" + name))
    assert (up.data / "buckets" / "raw" / os.fsdecode(name)).read_text() == "x"
    assert r"bad\udcff" in cli("ls", "raw").out
    assert cli("get", os.fsdecode(b"raw/" + name), "-o", "-").out == "x"


def test_logs_are_followed_live_to_the_end(up: Up, cli: Cli) -> None:
    up.gate.unlink(missing_ok=True)
    identity = cli.submitted("gated", "x")
    with started(up, "invocation", "logs", "-f", identity) as process:
        assert process.stdout is not None
        read_until(process.stdout.fileno(), b"begun")
        up.gate.touch()
        read_until(process.stdout.fileno(), b"ended")
        assert process.wait(DEADLINE_S) == 0
    up.gate.unlink()


def test_a_second_up_on_the_same_folder_or_port_is_refused_in_a_sentence(up: Up, tmp_path: Path) -> None:
    port = up.address.rsplit(":", 1)[1]
    for data, listen in ((up.data, "127.0.0.1:0"), (tmp_path / "other", f"127.0.0.1:{port}")):
        with started(up, "up", "--data", data, "--listen", listen) as second:
            assert second.stderr is not None
            told = second.stderr.read().decode()
            assert second.wait(DEADLINE_S) == 6, told
        assert told.startswith("penstock: ")
        assert len(told.splitlines()) == 1
    assert up.process.poll() is None


def test_up_deploys_files_and_refuses_bad_ones_before_anything_runs(up: Up, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("functions: [")
    with started(up, "up", "--data", tmp_path / "d", "--listen", "127.0.0.1:0", "--apply", bad) as process:
        assert process.stderr is not None
        assert process.wait(DEADLINE_S) == 7
        assert "bad.yaml" in process.stderr.read().decode()


def test_up_stops_in_order_and_is_forgotten(tmp_path: Path) -> None:
    server = Up(tmp_path)
    files = list((tmp_path / "state" / "penstock" / "servers").iterdir())
    assert [path.stem for path in files] == [server.address.rsplit(":", 1)[1]]
    assert server.stop() == 0
    assert not files[0].exists()
    assert "Traceback" not in (tmp_path / "up.log").read_text()


async def _append_garbage(data: Path) -> None:
    log = await SqliteEventLog.open(data / "db" / "log.sqlite")
    await log.append(TOPIC_EVENTS, [LogEntry("texts/x", b'{"half": ')])
    await log.close()


def test_dead_letters_are_shown_with_their_bytes_tried_again_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert Up(tmp_path).stop() == 0
    asyncio.run(_append_garbage(tmp_path / "data"))
    server = Up(tmp_path)
    try:
        cli = Cli(server, capfd)
        (letter,) = _until(lambda: cli.json("dead", "ls")["dead"])
        assert letter["kind"] == "event"
        short = letter["id"][:12]
        assert short in cli("dead", "ls").out
        assert cli("dead", "show", short).out.endswith('original bytes:\n{"half": \n')
        cli("dead", "retry", short)
        # It comes back as a letter of its own, since the bytes are as they were.
        (again,) = _until(lambda: [one for one in cli.json("dead", "ls")["dead"] if one["id"] != letter["id"]])
        assert again["original"] == letter["original"]
        cli("dead", "drop", "--all")
        _until(lambda: cli("dead", "ls").out == "Nothing is dead.\n")
    finally:
        server.stop()


def _until(look: Callable[[], T]) -> T:
    """Look until there is something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, "it never came"
    return seen
