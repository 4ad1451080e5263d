from pathlib import Path
import pytest, time
from tests.sidecar.pods import LocalPod, opened_shop, started
from tests.testbed.minio import Minio
@pytest.mark.components
async def test_one(minio: Minio, tmp_path: Path) -> None:
    async with opened_shop(minio, "quick") as shop:
        event = await shop.put(data=b"hello")
        pod = LocalPod(tmp_path, shop, shop.plan(event, name="quick-1"), 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"; echo done')
        t=time.time()
        with started(pod):
            try:
                codes=pod.end()
            except Exception:
                pod.close
                for n,p in pod.processes.items():
                    p.kill(); print(n, p.communicate()[0].decode())
                raise
            print(codes, time.time()-t, pod.said("input"), pod.said("output"), pod.said("user"))
            print(await pod.result(), await pod.log())
            print(await shop.store.head(shop.results,"out/pic ture.txt"))
