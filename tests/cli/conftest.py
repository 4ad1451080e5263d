"""A user with a home of their own, the platform with single sign-on, and what stands between: proxies."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from tests.live import own_state_folder, until
from tests.oscar.world import World, world_of

__all__ = ["own_state_folder", "until"]

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class User:
    """Runs commands as processes of their own, with a home, a configuration and a state that are theirs alone."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state-of-nobody"),
            "PYTHONPATH": str(ROOT),
        }

    @property
    def contexts(self) -> Path:
        return self.home / "config" / "penstock" / "contexts.toml"

    async def __call__(self, *arguments: str, stdin: str = "", code: int = 0, **environ: str) -> Done:
        process = await self.start(*arguments, **environ)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        done = Done(process.returncode or 0, out.decode(), err.decode())
        assert done.code == code, done
        assert "Traceback" not in done.err
        return done

    async def start(self, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.cli",
            *arguments,
            env=self.environ | environ,
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture
def user(tmp_path: Path) -> User:
    home = tmp_path / "home"
    home.mkdir()
    return User(home)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path / "data") as world:
        yield world


@asynccontextmanager
async def below_a_path(target: str, prefix: str, **site: Any) -> AsyncIterator[str]:
    """A proxy as ingresses are: it takes PREFIX/... and passes it on without the prefix. Yields its address."""

    async def forward(request: web.Request) -> web.StreamResponse:
        if not request.raw_path.startswith(f"{prefix}/"):
            return web.Response(status=404, text="nothing here")
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                target + request.raw_path.removeprefix(prefix),
                headers={k: v for k, v in request.headers.items() if k not in {"Host", "Transfer-Encoding"}},
                data=await request.read(),
                allow_redirects=False,
            ) as came,
        ):
            kept = {k: v for k, v in came.headers.items() if k not in {"Transfer-Encoding", "Content-Length"}}
            return web.Response(status=came.status, headers=kept, body=await came.read())

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, **site).start()
        scheme = "https" if "ssl_context" in site else "http"
        yield f"{scheme}://localhost:{runner.addresses[0][1]}{prefix}"
    finally:
        await runner.cleanup()
