"""What the tests on the real node share: an installation for a module, and a user's steps with functions and objects.

One installation serves all tests of a module, since starting one takes longer than most tests. Each test has buckets
and functions of its own, so that none sees another's work.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.model import SYSTEM_BUCKET, Phase, Record
from penstock.model.objects import log_key
from tests.production.platform import Json, Platform, eventually, installed, resource
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

#: Copies its input to its output, and says so.
COPY = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"; echo "did $STORAGE_OBJECT_KEY"'

#: Small pods, and a short patience with what cannot start: the tests wait for its end.
SETTINGS = {
    "PENSTOCK_JOBS_DEFAULT_CPU_MILLIS": "50",
    "PENSTOCK_JOBS_DEFAULT_MEMORY_MIB": "64",
    "PENSTOCK_JOBS_START_LIMIT_S": "10",
    "PENSTOCK_JOBS_GRACE_S": "20",
    "PENSTOCK_DISPATCHER_PLATFORM_RETRIES": "1",
    "PENSTOCK_DISPATCHER_RETRY_BASE_S": "0.5",
}


@asynccontextmanager
async def on_the_node(
    bed: Bed, folder: Path, settings: Mapping[str, str] | None = None, *, level: str = "baseline"
) -> AsyncIterator[Platform]:
    """An installation whose namespace enforces a Pod Security profile."""
    try:
        await bed.start("minio", "kafka", "network", "images")
    except MissingPart as missing:
        pytest.skip(str(missing))
    async with installed(bed, folder, real=True, settings={**SETTINGS, **(settings or {})}) as platform:
        marks = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}}
        path = f"/api/v1/namespaces/{platform.namespace}"
        await platform.api.send("PATCH", path, marks, content_type="application/merge-patch+json")
        yield platform


class Bench:
    """One test's buckets and functions."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.platform = platform
        self.name = f"{name}-{platform.mark}"
        self.source = f"{self.name}-in"
        self.target = f"{self.name}-out"

    def spec(self, script: str = COPY, **more: Any) -> Json:
        """A function from this bench's first bucket to its second."""
        return {
            "script": script,
            "inputs": [{"bucket": self.source}],
            "outputs": [{"bucket": self.target}],
            **more,
        }

    async def deploy(self, script: str = COPY, *, name: str = "", state: str = "Ready", **more: Any) -> str:
        """Apply a function, wait until it is in this state, and return its name."""
        given = name or self.name
        await self.platform.apply(resource(given, self.spec(script, **more)))
        await self.ready(given, state)
        return given

    async def known(self, key: str, count: int) -> None:
        """Until so many versions of a key are in the history."""
        history = self.platform.history

        async def check() -> bool:
            await history.read()
            return len(history.versions(self.source, key)) >= count

        await eventually(f"{count} versions of {key} are known", check)

    async def ready(self, name: str, state: str = "Ready") -> None:
        """Until it is in this state and, unless it came with a Secret, has been given a token and its definition."""

        async def check() -> bool:
            found = await self.platform.function(name)
            return bool(found.get("status", {}).get("state") == state and found["spec"].get("secretName"))

        await eventually(f"the function {name} is {state}", check)

    async def put(self, key: str, data: bytes = b"x") -> None:
        await self.platform.put(self.source, key, data)

    async def run(self, *keys: str, seconds: float = 240.0) -> dict[str, Record]:
        """Upload and wait for the ends."""
        for key in keys:
            await self.put(key, key.encode())
        return await self.platform.ended(self.source, keys, seconds=seconds)

    async def end(self, key: str = "a.txt") -> Record:
        return (await self.run(key))[key]

    async def named(self, key: str, words: str) -> None:
        """Until the record of what does not get on says why, which a user is promised within a minute."""
        history = self.platform.history

        async def check() -> bool:
            await history.read()
            return any(words in one.reason for one in history.versions(self.source, key))

        await eventually(f"the record of {key} says {words!r}", check, 60)

    async def ends_of(self, bucket: str, key: str, count: int) -> list[Record]:
        """The final records of all versions of a key, oldest first."""
        history = self.platform.history

        async def check() -> bool:
            await history.read()
            return len([one for one in history.versions(bucket, key) if one.phase.final]) >= count

        await eventually(f"{count} versions of {bucket}/{key} have ended", check)
        return sorted(history.versions(bucket, key), key=lambda record: record.queued_ms)

    async def outputs(self) -> list[str]:
        return sorted(await self.platform.keys(self.target))

    async def log(self, record: Record) -> str:
        """The archived output of the newest attempt, when no pod of it is left."""
        await self.gone(record.job)
        key = log_key(record.function_uid, record.id, record.attempt)
        return (await self.platform.get(SYSTEM_BUCKET, key)).decode()

    async def gone(self, job: str) -> None:
        """Until a Job and its pod are there no more."""

        async def check() -> bool:
            found = await self.platform.pods(job)
            return not found

        await eventually(f"the pod of {job} is gone", check)


def good(records: Mapping[str, Record]) -> bool:
    """Whether all succeeded."""
    return {record.phase for record in records.values()} == {Phase.SUCCEEDED}


async def kubectl(platform: Platform, *words: str, text: str = "") -> str:
    """The real kubectl in the installation's namespace; returns what it says, raises with its complaint."""
    flags = ["--kubeconfig", str(platform.bed.kubernetes.kubeconfig), "--namespace", platform.namespace]
    argv: Sequence[str] = [str(obtain("kubectl")), *flags, *words]
    done = await asyncio.to_thread(
        subprocess.run, argv, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise Refused(done.stderr.strip())
    return done.stdout


class Refused(Exception):
    """kubectl's complaint."""
