"""Keeps one `rclone serve s3` running over the buckets: started, checked, started again, and gone with this process.

The flags decide what the watcher sees. An upload is written beside its place under a name that the directory store
hides (`UPLOAD_PREFIXES`) and renamed when it is whole. `--local-no-set-modtime`: rclone would otherwise set the time of
a copied object after the rename, which makes it another version and the function run twice. `--inplace`: where a rename
fails rclone would copy through a second, visible name. `--dir-cache-time 0`: outputs must be seen at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import structlog

from gateway.children import end
from gateway.s3.access import S3Access
from penstock.adapters.directory.names import HIDDEN_FOLDER, UPLOAD_PREFIXES
from penstock.adapters.s3 import sigv4
from penstock.errors import Unavailable, Unsupported
from penstock.model.objects import SYSTEM_BUCKET

log = structlog.get_logger("gateway.s3")

#: The first version whose uploads are hidden and renamed as told above.
OLDEST = (1, 75, 2)
GUARD = Path(__file__).with_name("guard.py")

START_S = 30.0
#: Between two checks, and how long one may take; three failures in a row are a hang.
CHECK_EVERY_S = 10.0
CHECK_S = 10.0
CHECKS = 3
STOP_S = 3.0
#: Waits before a new start, in seconds; the first again after a minute of health.
WAITS = (0.1, 0.5, 2.0, 5.0)
HEALTHY_S = 60.0
#: So many failed starts before the first good one are no accident.
TRIES = 3


def find_program(environ: Mapping[str, str]) -> Path:
    """Find rclone: beside this Python (the extra installs it there), else on PATH. Raises Unsupported."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("rclone", path=os.pathsep.join((beside, environ.get("PATH", ""))))
    if found is None:
        raise Unsupported("--s3 needs the program rclone: install penstock[s3]")
    return Path(found)


async def check_version(program: Path) -> None:
    """Raise Unsupported for an rclone whose uploads could be seen half-written."""
    process = await asyncio.create_subprocess_exec(
        program, "version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    found = re.match(rb"rclone v(\d+)\.(\d+)\.(\d+)", said)
    version = tuple(map(int, found.groups())) if found else (0, 0, 0)
    if version < OLDEST:
        told = ".".join(map(str, version)) if found else "of an unknown version"
        raise Unsupported(
            f"{program} is {told}; --s3 needs {'.'.join(map(str, OLDEST))} or newer: install penstock[s3]"
        )


def command(program: Path, buckets: Path) -> list[str]:
    """Return the command line; the key pair is not on it, where other users could read it."""
    hidden = [word for name in (HIDDEN_FOLDER, SYSTEM_BUCKET) for word in ("--exclude", f"/{name}/**")]
    flags = ["--config", "", "--dir-cache-time", "0", "--vfs-cache-mode", "off", "--inplace"]
    return [str(program), "serve", "s3", *flags, "--local-no-set-modtime", *hidden, str(buckets)]


def environment(environ: Mapping[str, str], access: S3Access) -> dict[str, str]:
    """Return rclone's environment: the user's own settings of rclone must not change what is served, or how."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("RCLONE_", "LISTEN_"))}
    return kept | {"RCLONE_AUTH_KEY": f'"{access.access_key},{access.secret_key}"'}


def sweep(folder: str) -> int:
    """Delete the unfinished uploads that a killed rclone left below a folder; returns how many. Follows no links."""
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                removed += sweep(entry.path)
            elif entry.name.startswith(UPLOAD_PREFIXES) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):  # gone by itself, or not ours: it stays hidden anyway
                    os.unlink(entry.path)  # noqa: PTH108 - one of possibly a million entries
                    removed += 1
    return removed


class Rclone:
    """One served folder. `address` is where rclone answers, on this machine only, whether it runs just now or not."""

    def __init__(self, program: Path, buckets: Path, access: S3Access) -> None:
        self._program = program
        self._buckets = buckets
        self._access = access
        # Ours, and handed to each rclone: while there is none, connections wait instead of being refused.
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._last_words = ""
        self.pid: int | None = None

    @property
    def address(self) -> str:
        return f"http://{self._host}"

    def close(self) -> None:
        self._socket.close()

    async def run(self, up: asyncio.Event) -> None:
        """Serve until cancelled; `up` is set while rclone answers. Raises Unavailable when it never does."""
        failures = 0
        try:
            while True:
                began = time.monotonic()
                served = await self._life(up)
                up.clear()
                failures = 0 if served and time.monotonic() - began > HEALTHY_S else failures + 1
                if not served and failures >= TRIES:
                    raise Unavailable(f"rclone does not start: {self._last_words or 'it says nothing'}")
                log.warning("rclone ended and is started again", action="s3_restart", last_words=self._last_words)
                await asyncio.sleep(WAITS[min(failures, len(WAITS)) - 1])
        finally:
            up.clear()

    async def _life(self, up: asyncio.Event) -> bool:
        """One process from start to end; tells whether it ever answered."""
        removed = await asyncio.to_thread(sweep, str(self._buckets))
        if removed:
            log.info("unfinished uploads removed", action="s3_sweep", count=removed)
        process = await self._start()
        self.pid = process.pid
        assert process.stderr is not None
        listening = asyncio.create_task(self._listen(process.stderr), name="rclone's words")
        ended = asyncio.create_task(process.wait(), name="rclone")
        try:
            if not await self._answers(ended):
                return False
            up.set()
            await self._while_healthy(ended)
            return True
        finally:
            self.pid = None
            await end(process, grace_s=STOP_S)
            await asyncio.gather(listening, ended)

    async def _start(self) -> asyncio.subprocess.Process:
        descriptor = self._socket.fileno()
        guard = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(descriptor)]
        return await asyncio.create_subprocess_exec(
            *guard,
            *command(self._program, self._buckets),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            env=environment(os.environ, self._access),
            # Not in our process group: Ctrl-C is for us, and running uploads may end first.
            start_new_session=True,
        )

    async def _answers(self, ended: asyncio.Task[int]) -> bool:
        """Wait until it answers for the first time; False = it ended, or took too long."""
        first = asyncio.create_task(self.check(START_S), name="first answer")
        await asyncio.wait({first, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            first.cancel()
        answered = (await asyncio.gather(first, return_exceptions=True))[0]
        return answered is True and not ended.done()

    async def _while_healthy(self, ended: asyncio.Task[int]) -> None:
        failed = 0
        while failed < CHECKS:
            done, _ = await asyncio.wait({ended}, timeout=CHECK_EVERY_S)
            if done:
                return
            failed = 0 if await self.check(CHECK_S) else failed + 1
        log.error("rclone hangs and is killed", action="s3_hung")

    async def check(self, patience_s: float) -> bool:
        """Ask for the list of buckets, signed; True = it came."""
        headers = sigv4.sign(
            sigv4.Credentials(self._access.access_key, self._access.secret_key),
            sigv4.Scope(region=self._access.region),
            time.time(),
            method="GET",
            path="/",
            query="",
            headers={"host": self._host},
            payload_hash=sigv4.EMPTY_SHA256,
        )
        timeout = aiohttp.ClientTimeout(total=patience_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self.address, headers=headers) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            self._last_words = line[:300]
            log.debug(self._last_words, action="rclone")


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield lines, however long: rclone repeats whole keys."""
    rest = b""
    while chunk := await stream.read(64 * 1024):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
        rest = rest[-64 * 1024 :]
