import asyncio
import contextlib
import importlib
import io
import pathlib
import sys
import time
import traceback

import pytest

from tests.kubernetes import bench
from tests.kubernetes.support import client

pytestmark = [pytest.mark.components, pytest.mark.slow]
D = pathlib.Path("/tmp/drive")


async def test_drive(tmp_path_factory, minio, kafka, kubernetes, network, node, images):
    await bench.prepare_node(kubernetes, node, images, minio)
    (D / "up").write_text("up")
    end = time.time() + 1500
    n = 0
    while time.time() < end and not (D / "stop").exists():
        go = D / f"{n}.go"
        if not go.exists():
            await asyncio.sleep(0.3)
            continue
        words = go.read_text().split()
        for name in list(sys.modules):
            if name.startswith(("gateway", "tests.resident.test_node", "tests.resident.local", "tests.oscar")):
                del sys.modules[name]
        out = D / f"{n}.out"
        buf = io.StringIO()
        try:
            with contextlib.redirect_stdout(buf):
                m = importlib.import_module("tests.resident.test_node")
                place = m.SyncPlace(
                    tmp_path_factory.mktemp("p"), minio, kafka, kubernetes, f"sync-{time.time_ns() % 10**9}"
                )
                async with client() as api:
                    await bench.furnish(api, place.namespace)
                    try:
                        async with asyncio.timeout(200):
                            await getattr(m, words[0])(place, *[int(w) for w in words[1:]])
                    except BaseException:
                        print(
                            "PODS",
                            [
                                (
                                    p["metadata"]["name"],
                                    p["status"].get("containerStatuses"),
                                    p["status"].get("conditions"),
                                )
                                for p in await m.pods(place)
                            ],
                        )
                        raise
                    finally:
                        await api.request("DELETE", f"/api/v1/namespaces/{place.namespace}")
            text = buf.getvalue() + "\nPASSED\n"
        except BaseException as e:
            text = buf.getvalue() + "\n" + traceback.format_exc()
            if isinstance(e, (KeyboardInterrupt, SystemExit)):
                raise
        out.write_text(text)
        n += 1
