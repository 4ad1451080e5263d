"""What `helm test` runs: deploys a function, puts a file, waits for its result, and takes the function away again."""

# ruff: noqa: INP001
# It is mounted as a file of its own and imported by nobody.
from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

from penstock.client import Client
from penstock.errors import NotFound, PenstockError

FOLDER = Path(__file__).parent
NAME = "penstock-helm-test"
SECONDS = 480.0
FINAL = {"succeeded", "failed", "dead", "cancelled", "superseded", "skipped"}


async def ready(client: Client, deadline: float) -> None:
    """The services may still be starting when the release counts as installed."""
    while True:
        try:
            await client.status()
        except PenstockError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"Penstock does not answer: {error.message}") from error
            await asyncio.sleep(1)
        else:
            return


async def result(client: Client, key: str, deadline: float) -> bytes:
    """The function's answer, or an exit that says how far its file came."""
    while True:
        found = await client.invocations(function=NAME, prefix=f"{NAME}/in/{key}", limit=1)
        phase = found.invocations[0].phase if found.invocations else "not noticed yet"
        if phase == "succeeded":
            async with client.get(NAME, f"out/{key}") as (_, chunks):
                return b"".join([chunk async for chunk in chunks])
        if phase in FINAL or time.monotonic() > deadline:
            reason = found.invocations[0].reason or found.invocations[0].error if found.invocations else ""
            raise SystemExit(f"The file {key} has no result: it is {phase}. {reason}")
        await asyncio.sleep(0.5)


async def main() -> None:
    deadline = time.monotonic() + SECONDS
    started = time.monotonic()
    async with Client(os.environ["PENSTOCK_SERVER"], os.environ["PENSTOCK_TOKEN"]) as client:
        await ready(client, deadline)
        definition = (FOLDER / "function.yaml").read_text(encoding="utf-8")
        script = (FOLDER / "upper.sh").read_text(encoding="utf-8")
        await client.apply(definition, {"upper.sh": script})
        try:
            key = f"{time.time_ns()}.txt"
            await client.put(NAME, f"in/{key}", b"every file becomes a job\n")
            answer = await result(client, key, deadline)
            if answer != b"EVERY FILE BECOMES A JOB\n":
                raise SystemExit(f"The result of {key} is wrong: {answer[:100]!r}")
            for place in ("in", "out"):
                await client.delete_object(NAME, f"{place}/{key}")
        finally:
            with contextlib.suppress(NotFound):
                await client.delete_function(NAME)
    seconds = time.monotonic() - started
    sys.stdout.write(f"A file was put, its Job ran, and its result is right, after {seconds:.1f} s.\n")


asyncio.run(main())
