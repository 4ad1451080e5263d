"""The client without `await`: the same names, from a script, from a running loop, from threads."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.embedded import Embedded
from penstock import errors
from penstock.client import Client, Definition, SyncClient, Unauthenticated
from tests.client.conftest import Runs


def test_every_public_name_of_the_client_is_there_with_the_same_arguments() -> None:
    public = {name for name in dir(Client) if not name.startswith("_")}
    assert public - set(dir(SyncClient)) == set()
    for name in public - {"close", "get", "changes"}:
        own, other = getattr(SyncClient, name), getattr(Client, name)
        assert inspect.signature(own).parameters.keys() == inspect.signature(other).parameters.keys(), name


async def test_it_works_beside_a_running_loop(
    platform: Embedded, upper: Definition, runs: Runs, tmp_path: Path
) -> None:
    """As in a notebook: the calls block this thread, whose loop serves the platform, so they run in another one."""

    def work() -> None:
        async def beside() -> None:
            with SyncClient(platform.address, platform.services.credentials.token) as client:
                results = list(client.map("upper", [("a.txt", b"one"), ("b.txt", b"two")]))
                assert sorted(one.name for one in results if one.succeeded) == ["a.txt", "b.txt"]
                invocation = client.submit("upper", b"FAIL")
                assert client.wait(invocation, timeout_s=30)[0].phase == "failed"
                assert list(client.logs(invocation))[-1] == "cannot shout this"
                with client.get("texts", results[0].key) as (size, chunks):
                    assert size == len(b"".join(chunks))
                with client.changes() as changes:
                    client.submit("upper", b"x")
                    assert next(changes).invocation.function == "upper"
                for _ in client.map("upper", [("c.txt", b"left half way")]):
                    break
                with pytest.raises(errors.NotFound):
                    client.function("nothing")

        asyncio.run(beside())

    await asyncio.to_thread(work)


async def test_errors_keep_their_type_and_a_closed_client_says_so(platform: Embedded) -> None:
    def work() -> None:
        client = SyncClient(platform.address, "wrong")
        with pytest.raises(Unauthenticated):
            client.status()
        client.close()
        client.close()
        with pytest.raises(errors.Closed, match="closed"):
            client.status()
        assert not [one for one in threading.enumerate() if one.name == "penstock client"]

    await asyncio.to_thread(work)


async def test_a_program_that_forgets_to_close_ends_cleanly(platform: Embedded) -> None:
    program = "import sys, penstock; c = penstock.SyncClient(*sys.argv[1:]); print(c.status().version)"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-X", "dev", "-c", program, platform.address, platform.services.credentials.token],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
