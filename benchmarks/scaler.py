"""The scaler: how fast it decides, how soon an unschedulable pod has its order, what it costs beside CLUES's policy.

The decision is the engine's, on a snapshot made up in memory. The way from pod to order is measured on a real API
server and scheduler with nodes that KWOK plays, seen from outside: from the moment that a pod's condition says that it
fits nowhere to the moment that the node made for it is there, less the batch window, which is waited for on purpose.
Energy and waiting are those of `python -m scaler.simulate --quality`.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial

from benchmarks.harness import Report, main, median, percentile
from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from scaler.configuration import parse_fleet
from scaler.engine import decide
from scaler.model import Amounts, Node, NodeState, Pod, PodSpec, Snapshot, Taint, View
from scaler.pools import Fleet, Options, Pool
from scaler.simulate.generate import KINDS, generate
from scaler.simulate.options import SimulationOptions
from scaler.simulate.quality import EXAMPLE_POOLS
from scaler.simulate.run import simulate
from tests.scaler.cluster.whole import Watcher, create_pods, delete_pods, life, until, watching
from tests.testbed.bed import Bed

NOW = 1_800_000_000_000
GIB = 1 << 30
PODS_PER_NODE = 30
#: Thirty pods of the ten shapes fill it, so that what waits needs nodes of its own.
RESOURCES: Amounts = (("cpu", 22_000), ("memory", 64 * GIB), ("pods", 110))
BATCH_IDLE_S = 1.0


def run(report: Report) -> None:
    _decisions(report)
    _memory(report)
    _year(report)
    _quality(report)
    asyncio.run(_cluster(report))


def snapshot(nodes: int) -> tuple[Snapshot, Fleet]:
    """`nodes` nodes with 30 pods each of ten shapes, and as many pods again as nodes that wait."""
    pool = Pool(name="cpu", name_pattern="cpu-{n}", max=2 * nodes, resources=RESOURCES)
    shapes = [
        PodSpec(requests=(("cpu", 500 + 50 * shape), ("memory", GIB + shape * (GIB >> 4)), ("pods", 1)))
        for shape in range(10)
    ]
    records = tuple(
        Node(name=f"cpu-{number}", pool="cpu", state=NodeState.USED, on_since_ms=NOW - 10**7, allocatable=RESOURCES)
        for number in range(1, nodes + 1)
    )
    bound = [
        Pod(uid=f"b{number}", spec=shapes[number % 10], node=f"cpu-{number % nodes + 1}")
        for number in range(nodes * PODS_PER_NODE)
    ]
    waiting = [Pod(uid=f"w{number}", spec=shapes[number % 10], unschedulable=True) for number in range(nodes)]
    view = View(as_of_ms=NOW)
    made = Snapshot(
        now_ms=NOW,
        nodes=records,
        pods=(*bound, *waiting),
        nodes_view=view,
        pods_view=view,
        provider_views={"simulated": view},
    )
    return made, Fleet(pools=(pool,), options=Options())


def _decisions(report: Report) -> None:
    before = 0.0
    for nodes in (10, 100, 1000, 5000):
        looked_at, fleet = snapshot(nodes)
        gc.collect()
        times = []
        for _ in range(3 if nodes == 5000 else 5):
            began = time.perf_counter()
            decide(looked_at, fleet)
            times.append(time.perf_counter() - began)
        took = median(times)
        beside = f"{nodes * PODS_PER_NODE} pods bound, {nodes} waiting"
        if nodes == 1000:
            report.add(
                "decide_1000_s", took, "s", target="< 1", beside=f"{beside}; CLUES: 9.3 observing, 9-76 deciding"
            )
        elif nodes == 5000:
            report.add("decide_5000_s", took, "s", beside=f"{beside}; {took / before:.1f} times that of 1000 nodes")
        else:
            report.note(f"{nodes} nodes, {beside}: {took * 1000:.1f} ms")
        before = took


def _memory(report: Report) -> None:
    """In a process of its own: the peak of what one decision needs with its snapshot."""
    code = "from benchmarks.scaler import peak; peak()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    report.add("rss_mb_1000", float(done.stdout), "MB", target="< 300", beside="snapshot and decision, 30,000 pods")


def peak() -> None:
    looked_at, fleet = snapshot(1000)
    decide(looked_at, fleet)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


async def _cluster(report: Report) -> None:
    nodes = 100 if report.small else 1000
    pods = nodes * PODS_PER_NODE
    bed = Bed()
    try:
        bed.kubernetes.options.fast_controllers = True
        await bed.start("kwok")
        await bed.kubernetes.make_namespace("bench")
        await _measure(report, bed, nodes, pods)
    finally:
        await asyncio.to_thread(bed.close)


async def _measure(report: Report, bed: Bed, nodes: int, pods: int) -> None:
    config = bed.kubernetes.kubeconfig_of("admin", bed.kubernetes.direct_url)
    pool = Pool(
        name="bench",
        driver="kwok",
        name_pattern="bench-{n}",
        max=nodes + 40,
        resources=(("cpu", 31_000), ("memory", 64 * GIB), ("pods", 110)),
        labels=(("penstock.test/scaled", "yes"),),
        taints=(Taint("penstock.test/scaler"),),
        idle_ms=5_000,
        boot_ms=1_000,
    )
    client = KubernetesClient(from_kubeconfig(config))
    fleet = Fleet(pools=(pool,), options=Options())
    try:
        async with (
            watching(config, namespace="bench", driver="bench") as watcher,
            life(config, fleet, namespace="bench", driver="bench") as one,
        ):
            began = time.monotonic()
            await create_pods(client, "bench", pods)
            await until("all pods run", lambda: len(watcher.bound) >= pods, seconds=3600)
            report.note(f"0 to {len(watcher.nodes)} nodes and {pods} pods running: {time.monotonic() - began:.0f} s")
            single = await _singles(client, watcher, count=20)
            report.add(
                "unschedulable_to_order_p95_s",
                max(0.0, percentile(single, 0.95) - BATCH_IDLE_S),
                "s",
                target="<= 2",
                beside=f"after the window of {BATCH_IDLE_S:g} s; {len(single)} pods one by one beside {pods} that run",
            )
            began = time.monotonic()
            await delete_pods(client, "bench")
            await until("no node is left", lambda: not watcher.nodes, seconds=3600)
            report.note(
                f"back to 0 nodes: {time.monotonic() - began:.0f} s; running pods killed: {len(watcher.killed)}; "
                f"decisions: {one.service.decisions}"
            )
    finally:
        await client.close()


def _year(report: Report) -> None:
    """The command as a user calls it, chart included, for each made-up load."""
    days = 30 if report.small else 365
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            words = ["simulate", "--generate", kind, "--days", str(days), "--chart", f"{folder}/{kind}.svg"]
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "gateway.cli", *words], check=True, stdout=subprocess.DEVNULL)
            took[kind] = time.perf_counter() - began
    beside = f"{days} days of 1,000 jobs; " + ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in took.items())
    report.add("simulate_year_s", max(took.values()), "s", target="" if report.small else "< 60", beside=beside)


def _more(watcher: Watcher, known: int) -> bool:
    return len(watcher.made_at) > known


def _bound(watcher: Watcher, known: set[str]) -> bool:
    return bool(watcher.bound.keys() - known)


async def _singles(client: KubernetesClient, watcher: Watcher, *, count: int) -> list[float]:
    """Pods that each need a whole node, one after the other: seconds from unschedulable to the node's object."""
    took = []
    for number in range(count):
        known, uids = len(watcher.made_at), set(watcher.pods)
        before = set(watcher.made_at)
        await create_pods(client, "bench", 1, prefix=f"single-{number}", cpu="31")
        await until("the node is made", partial(_more, watcher, known), seconds=300)
        await until("the pod runs", partial(_bound, watcher, uids), seconds=300)
        (pod,) = watcher.pods.keys() - uids
        if pod in watcher.unschedulable_at:  # else a node had room for it after all
            made = min(watcher.made_at[uid] for uid in watcher.made_at.keys() - before)
            took.append(made - watcher.unschedulable_at[pod])
    return took


def _quality(report: Report) -> None:
    fleet = parse_fleet(EXAMPLE_POOLS)
    energy, waiting = [], []
    for kind in KINDS:
        found = simulate(SimulationOptions(trace=generate(kind, days=14.0, per_day=1000.0, seed=1), fleet=fleet))
        ours, theirs = found.of("penstock"), found.of("clues")
        energy.append(ours.kwh / theirs.kwh)
        waiting.append(ours.wait_p95_s / theirs.wait_p95_s if theirs.wait_p95_s else 1.0)
        report.note(
            f"{kind}: {ours.kwh:.0f} kWh against {theirs.kwh:.0f}, p95 wait {ours.wait_p95_s:.0f} s against "
            f"{theirs.wait_p95_s:.0f}"
        )
    report.add("kwh_vs_clues", max(energy), target="<= 1", beside=f"the worst of {len(energy)} loads of 14 days")
    report.add("p95_wait_vs_clues", max(waiting), target="<= 1", beside=f"the worst of {len(waiting)} loads")


if __name__ == "__main__":
    main("scaler", run)
