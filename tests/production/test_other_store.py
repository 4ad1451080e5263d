"""Outputs that leave the installation, on the real node: with keys that may write there and nothing else, and that user
code does not see.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from penstock.adapters.kubernetes.resource import Hidden, secret_document
from penstock.model import Phase
from tests.production.node import Bench, on_the_node
from tests.production.platform import Platform
from tests.testbed.bed import Bed

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

#: What its container sees, beside the input.
SCRIPT = """cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"
exec >"$TMP_OUTPUT_DIR/seen" 2>/dev/null
env
cat /proc/mounts
find /oscar -path "$TMP_OUTPUT_DIR" -prune -o -type f -exec cat {} +
true
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with on_the_node(bed, tmp_path_factory.mktemp("other-store")) as made:
        yield made


async def test_keys_that_may_only_write_take_an_output_to_another_store(platform: Platform) -> None:
    bench = Bench(platform, "leave")
    far, key = f"{bench.name}-far", secrets.token_hex(16)
    await platform.make_bucket(far)
    minio = platform.bed.minio
    admin = MinioAdmin(
        endpoint=str(minio.address), credentials=StaticProvider(minio.user, minio.password), secure=False
    )
    await asyncio.to_thread(admin.user_add, bench.name, key)
    await asyncio.to_thread(admin.policy_set, "writeonly", user=bench.name)
    account = {"endpoint": await minio.url_for_pods(), "access_key": bench.name, "secret_key": key}
    hidden = Hidden(token="t" * 64, storage_providers={"minio": {"far": account}})
    name = f"{bench.name}-secret"
    path = f"/api/v1/namespaces/{platform.namespace}/secrets"
    await platform.api.send("POST", path, secret_document(name, bench.name, hidden, namespace=platform.namespace))
    elsewhere = {"provider": "minio", "provider_id": "far", "bucket": far, "folder": "kept"}
    await bench.deploy(SCRIPT, secretName=name, outputs=[{"bucket": bench.target}, elsewhere])
    record = await bench.end()
    assert record.phase is Phase.SUCCEEDED, record.reason
    assert sorted(await platform.keys(far)) == ["kept/a.txt", "kept/seen"]
    assert await platform.get(far, "kept/a.txt") == b"a.txt"
    seen = (await platform.get(bench.target, "seen")).decode(errors="replace")
    assert key not in seen
    assert "/oscar/stores" not in seen
