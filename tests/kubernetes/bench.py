"""The runner for the contract suite: a directory store beside a namespace of its own.

Without the sidecars' programs no item is staged and nothing is published, so the suite runs the cases here that need
neither; the others are this folder's own tests, with pods that are played.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from dispatcher.kubernetes import KubernetesRunner, KubernetesSettings, StoreResults
from penstock.ports import Runner
from tests.kubernetes.support import CLUSTER, client, make_namespace
from tests.process_runner.support import Bench, opened_store
from tests.testbed.images import BUSYBOX

#: Cases of the suite that need no data plane in the pod.
WITHOUT_SIDECARS = frozenset(
    {
        "test_a_plan_that_cannot_run_is_refused_and_leaves_nothing",
        "test_an_environment_that_is_too_large_is_refused_with_a_sentence",
        "test_the_room_is_the_machine",
    }
)


@contextlib.asynccontextmanager
async def kubernetes_bench(folder: Path) -> AsyncIterator[Bench]:
    namespace = f"j-{hashlib.sha256(str(folder).encode()).hexdigest()[:20]}"
    async with opened_store(folder) as store, client() as api, contextlib.AsyncExitStack() as runners:
        if CLUSTER:
            await make_namespace(api, namespace, pods=True)
        settings = KubernetesSettings(namespace=namespace, default_image=BUSYBOX, default_cpu_millis=1000)

        async def reopen() -> Runner:
            await runners.aclose()
            made = KubernetesRunner(client=api, settings=settings, results=StoreResults(store))
            runners.push_async_callback(made.close)
            if CLUSTER:
                await made.start()
            return made

        yield Bench(await reopen(), store, folder, reopen)
