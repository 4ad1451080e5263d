"""A user's view of a running platform: deploy a script, drop files into folders, look at records and at outputs.

Everything goes through the client or the file system, as a user's own programs would; nothing reaches into the
platform's objects.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from penstock.answers import Applied, Invocation
from penstock.client import Client

PATIENCE_S = 40.0

COPY = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"\n'


def entry(path: str, **filters: Any) -> str:
    extra = "".join(f", {key}: {value}" for key, value in filters.items())
    return f"{{storage_provider: minio, path: {path}{extra}}}"


def service(name: str, *, source: str | None = "", target: str | None = "", **keys: Any) -> str:
    """One function of an FDL document: NAME/in to NAME/out unless said otherwise; None = no such entry."""
    keys = {
        "input": None if source is None else f"[{entry(source or f'{name}-in/files')}]",
        "output": None if target is None else f"[{entry(target or f'{name}-out/files')}]",
    } | keys
    lines = [f"  - local:\n      name: {name}\n      image: none\n      script: {name}.sh\n"]
    return lines[0] + "".join(f"      {key}: {value}\n" for key, value in keys.items() if value is not None)


def document(*services: str) -> str:
    return "functions:\n  oscar:\n" + "".join(services)


async def until(
    look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], object], *, patience_s: float = PATIENCE_S
) -> Any:
    """Look until it is as wanted; fails with what was seen last."""
    value: Any = None
    try:
        async with asyncio.timeout(patience_s):
            while not wanted(value := await look()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"did not come about; last seen: {value!r}")
    return value


class Shop:
    def __init__(self, client: Client, data: Path, notes: Path) -> None:
        self.client = client
        self.data = data
        #: A folder of the test's own, for what scripts tell from inside.
        self.notes = notes

    async def deploy(self, name: str, script: str = COPY, **keys: Any) -> Applied:
        return await self.client.apply(document(service(name, **keys)), {f"{name}.sh": script})

    def folder(self, path: str) -> Path:
        return self.data / "buckets" / path

    def drop(self, path: str, content: bytes | str = b"x") -> Path:
        """Write a file into a bucket's folder as any program would."""
        target = self.folder(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        return target

    async def records(self, function: str = "") -> list[Invocation]:
        """All of a function's records, oldest first, each with its timeline."""
        found: list[Invocation] = []
        page = ""
        while True:
            told = await self.client.invocations(function=function, oldest=True, limit=1000, page=page)
            found += told.invocations
            if not (page := told.next):
                return found

    async def settled(self, function: str, count: int) -> list[Invocation]:
        """The records of a function once `count` are final. Fails when there are more."""

        async def look() -> list[Invocation]:
            return await self.records(function)

        found: list[Invocation] = await until(look, lambda seen: sum(one.final for one in seen) >= count)
        assert len(found) == count, found
        return found

    async def ended(self, function: str) -> Invocation:
        """The only record of a function once it is final, with its timeline."""
        [record] = await self.settled(function, 1)
        return await self.client.invocation(record.id)

    async def phases(self, function: str) -> list[str]:
        return [one.phase for one in await self.records(function)]

    async def log(self, invocation: str, *, attempt: int | None = None) -> bytes:
        return b"".join([chunk async for chunk in self.client.log(invocation, attempt=attempt)])

    async def outputs(self, bucket: str) -> dict[str, bytes]:
        """Everything in a bucket, read through the client; {} when there is no such bucket."""
        found = {}
        if bucket not in {one.name for one in await self.client.buckets()}:
            return {}
        for one in (await self.client.objects(bucket)).objects:
            async with self.client.get(bucket, one.key) as (_, chunks):
                found[one.key] = b"".join([chunk async for chunk in chunks])
        return found

    def note(self, name: str) -> Path:
        return self.notes / name

    async def noted(self, name: str, lines: int = 1) -> list[str]:
        """The lines that scripts have appended to a note, once there are so many."""
        path = self.note(name)

        async def look() -> list[str]:
            return path.read_text().splitlines() if path.exists() else []

        found: list[str] = await until(look, lambda seen: len(seen) >= lines)
        return found


def alive(pid: int) -> bool:
    """Whether a process exists and is more than an entry that nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def marked(word: str) -> list[int]:
    """Processes whose environment holds a word: how a test finds what scripts left behind, wherever it hides."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            holds = word.encode() in path.read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        pid = int(path.parent.name)
        if holds and pid != os.getpid() and alive(pid):
            found.append(pid)
    return found


async def gone(pids: Iterable[int]) -> None:
    async def look() -> list[int]:
        return [pid for pid in pids if alive(pid)]

    await until(look, lambda left: not left)
