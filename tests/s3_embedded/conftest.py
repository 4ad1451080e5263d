"""A real platform that serves S3, one function on a bucket, and stock clients of S3."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
from minio import Minio

from gateway.embedded import Embedded
from gateway.s3.access import S3Access
from penstock import settings as penstock_settings
from penstock.client import Client
from tests.live import own_state_folder, running, settings_for, until

__all__ = ["own_state_folder", "until"]

#: The dev dependencies bring it; it has no types of its own.
botocore_session: Any = pytest.importorskip("botocore.session", reason="botocore is not installed (dev dependency)")

FDL = """\
functions:
  oscar:
  - local:
      name: digest
      image: none
      script: digest.sh
      input: [{storage_provider: local, path: inbox/in}]
      output: [{storage_provider: local, path: outbox/sums}]
"""
#: Tells each run by its own means: the key, and what the script saw of the content.
SCRIPT = """\
name=$(basename "$INPUT_FILE_PATH")
sum=$(sha256sum < "$INPUT_FILE_PATH" | cut -d' ' -f1)
echo "$name $sum" >> SEEN
echo "$sum" > "$TMP_OUTPUT_DIR/$name.sum"
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Bench:
    """The platform that runs just now, and what its function was seen to run on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._seen = folder / "seen"
        self.platform: Embedded | None = None

    @asynccontextmanager
    async def up(self, *, apply: bool = True) -> AsyncIterator[None]:
        settings = settings_for(self.data)
        settings = penstock_settings.override(settings, "up", s3=True, s3_listen="127.0.0.1:0")
        files = (self.folder / "digest.yaml",) if apply else ()
        async with running(settings, apply=files) as self.platform:
            yield

    @property
    def access(self) -> S3Access:
        assert self.platform is not None
        assert self.platform.services.s3 is not None
        return self.platform.services.s3

    @property
    def buckets(self) -> Path:
        return self.data / "buckets"

    def minio(self) -> Minio:
        """A client that gives up at once: a test wants the first answer."""
        return Minio(
            self.access.endpoint.removeprefix("http://"),
            self.access.access_key,
            self.access.secret_key,
            secure=False,
            region=self.access.region,
            http_client=urllib3.PoolManager(retries=False, timeout=30),
        )

    def boto(self) -> Any:
        return botocore_session.get_session().create_client(
            "s3",
            region_name=self.access.region,
            endpoint_url=self.access.endpoint,
            aws_access_key_id=self.access.access_key,
            aws_secret_access_key=self.access.secret_key,
        )

    def client(self) -> Client:
        assert self.platform is not None
        return Client(self.platform.address, self.platform.services.credentials.token)

    def rclone_pid(self) -> int:
        """The process that serves just now; 0 while there is none."""
        assert self.platform is not None
        return self.platform.s3_pid or 0

    def seen(self) -> list[tuple[str, str]]:
        """(name, SHA-256) of each run, in order."""
        if not self._seen.exists():
            return []
        lines = self._seen.read_text().splitlines()
        return [(line.split()[0], line.split()[1]) for line in lines]

    async def quiet(self) -> None:
        """Wait until nothing is queued or running and the log is read."""
        async with self.client() as client, asyncio.timeout(30):
            while True:
                told = await client.status()
                counts = told.functions[0]
                if not (told.backlog or told.events_pending or counts.queued or counts.running):
                    return
                await asyncio.sleep(0.02)


@pytest.fixture
def stopped(tmp_path: Path) -> Bench:
    """A bench whose platform does not run yet."""
    (tmp_path / "digest.yaml").write_text(FDL)
    (tmp_path / "digest.sh").write_text(SCRIPT.replace("SEEN", f"'{tmp_path / 'seen'}'"))
    return Bench(tmp_path)


@pytest.fixture
async def bench(stopped: Bench) -> AsyncIterator[Bench]:
    async with stopped.up():
        yield stopped


@pytest.fixture
def seen(until: Callable[..., Awaitable[Any]]) -> Callable[[Bench, int], Awaitable[list[tuple[str, str]]]]:
    """`await seen(bench, n)`: the runs, once there are n."""

    async def seen(bench: Bench, count: int) -> list[tuple[str, str]]:
        async def look() -> list[tuple[str, str]]:
            return bench.seen()

        found: list[tuple[str, str]] = await until(look, lambda runs: len(runs) >= count)
        return found

    return seen
