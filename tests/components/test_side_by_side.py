"""Two beds on one machine do not meet: ports, data, node networks, and the end of one leaves the other alone."""

from __future__ import annotations

import asyncio
import io

import pytest

from tests.components.helpers import pod
from tests.testbed import Bed, MissingPart
from tests.testbed.images import BUSYBOX

pytestmark = pytest.mark.components


async def test_two_beds_do_not_disturb_each_other() -> None:
    async with Bed() as one, Bed() as other:
        await asyncio.gather(one.start("minio"), other.start("minio"))
        for name, bed in (("one", one), ("other", other)):
            bed.minio.client().make_bucket(name)
            bed.minio.client().put_object(name, "key", io.BytesIO(b"x"), 1)
        assert [bucket.name for bucket in one.minio.client().list_buckets()] == ["one"]
        assert [bucket.name for bucket in other.minio.client().list_buckets()] == ["other"]
        assert one.minio.address != other.minio.address
        await one.minio.kill()
        assert [bucket.name for bucket in other.minio.client().list_buckets()] == ["other"]


async def test_two_nodes_do_not_disturb_each_other(node: object, network: object, bed: Bed) -> None:
    try:
        async with Bed() as other:
            await other.start("network")
            mine, theirs = await bed.node.network(), await other.node.network()
            assert mine.pod_range != theirs.pod_range
            assert mine.device != theirs.device
            async with bed.kubernetes.api() as here, other.kubernetes.api() as there:
                document = pod("same-name", BUSYBOX, "hostname -i")
                pods = await asyncio.gather(bed.node.run_pod(here, document), other.node.run_pod(there, document))
                assert pods[0]["status"]["podIP"].startswith(f"{mine.prefix}.")
                assert pods[1]["status"]["podIP"].startswith(f"{theirs.prefix}.")
                await there.delete("/api/v1/namespaces/default/pods/same-name", grace=0)
                assert await here.get("/api/v1/namespaces/default/pods/same-name")
    except MissingPart as missing:
        pytest.skip(str(missing))
    async with bed.kubernetes.api() as api:
        # The other bed is gone, and this one's node still runs pods.
        after = await bed.node.run_pod(api, pod("afterwards", BUSYBOX, "true"))
        assert after["status"]["phase"] == "Succeeded"
        for name in ("same-name", "afterwards"):
            await api.delete(f"/api/v1/namespaces/default/pods/{name}", grace=0)
