"""A user at a terminal: the real `penstock`, with a home of its own, talking to a gateway of an installation."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.production.platform import ADMIN_PASSWORD, eventually
from tests.testbed.paths import REPOSITORY

#: One command, on a machine that has much else to do.
PATIENCE_S = 120.0


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class User:
    """Runs commands; each is a process of its own, as for everybody."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.env = clean | {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": str(REPOSITORY),
        }

    async def start(self, *words: str | Path, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        """A command that goes on; whoever starts it ends it."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.cli",
            *map(str, words),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.env,
            cwd=self.home,
        )

    async def __call__(self, *words: str | Path, text: str = "", code: int = 0) -> Done:
        """Run a command to its end; fails unless it ends with `code`."""
        process = await self.start(*words, stdin=asyncio.subprocess.PIPE)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(text.encode())
        done = Done(process.returncode or 0, out.decode(), err.decode())
        assert done.code == code, (words, done)
        assert "Traceback" not in done.err, done.err
        return done

    async def json(self, *words: str | Path) -> Any:
        return (await self("--output", "json", *words)).json

    async def login(self, address: str) -> None:
        await self("login", address, "--user", "oscar", "--password-stdin", text=ADMIN_PASSWORD)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.home / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    async def invocations(self, *filters: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.json("invocation", "ls", "--all", *filters))["invocations"]
        return found

    async def shown(self, invocation: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.json("invocation", "show", invocation)
        return found

    async def until(self, invocation: str, *phases: str, seconds: float = 240.0) -> dict[str, Any]:
        """The invocation once it is in one of these phases."""
        seen: dict[str, Any] = {}

        async def check() -> bool:
            nonlocal seen
            seen = await self.shown(invocation)
            return seen["phase"] in phases

        try:
            await eventually(f"{invocation} is {' or '.join(phases)}", check, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: it is {seen}") from error
        return seen
