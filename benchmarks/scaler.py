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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.deadlines import Stalled, reached, within
from benchmarks.harness import Report, main, median, percentile
from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from scaler.configuration import parse_fleet
from scaler.engine import decide
from scaler.model import Amounts, Node, NodeState, Pod, PodSpec, Snapshot, View
from scaler.pools import Fleet, Options, Pool
from scaler.simulate.generate import KINDS, generate
from scaler.simulate.options import SimulationOptions
from scaler.simulate.quality import EXAMPLE_POOLS
from scaler.simulate.run import simulate
from tests.scaler.cluster.process import ScalerProcess, scaler_process
from tests.scaler.cluster.whole import Watcher, create_pods, delete_pods, watching
from tests.testbed.bed import Bed

NOW = 1_800_000_000_000
GIB = 1 << 30
PODS_PER_NODE = 30
#: Thirty pods of the ten shapes fill it, so that what waits needs nodes of its own.
RESOURCES: Amounts = (("cpu", 22_000), ("memory", 64 * GIB), ("pods", 110))
BATCH_IDLE_S = 1.0
#: A wait ends the benchmark after this long, and when nothing moved for so long; it tells how far it is so often.
LIMIT_S, STALL_S, TELL_S = 3600.0, 600.0, 60.0
DECISION = "penstock_scaler_decision_seconds"
POOLS = """
pools:
  - {{name: bench, driver: bench, name_pattern: "bench-{{n}}", max: {most}, boot: 1s, idle: 5s,
     resources: {{cpu: 31, memory: 64Gi}}, labels: {{penstock.test/scaled: "yes"}},
     taints: [{{key: penstock.test/scaler}}]}}
drivers:
  bench: {{type: kwok}}
"""


def run(report: Report) -> None:
    _decisions(report)
    _memory(report)
    _year(report)
    _quality(report)
    asyncio.run(_cluster(report, 100 if report.small else 1000))


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


async def _cluster(report: Report, nodes: int) -> None:
    bed = Bed()
    try:
        bed.kubernetes.options.fast_controllers = True
        await bed.start("kwok")
        await bed.kubernetes.make_namespace("bench")
        config = bed.kubernetes.kubeconfig_of("admin", bed.kubernetes.direct_url)
        client = KubernetesClient(from_kubeconfig(config))
        # The scaler is a process of its own, as it is for users: its memory and its requests are its alone. Without a
        # Lease: where all that a cluster is shares two processors, a renewal may be late, and nobody starts it again.
        settings = {"PENSTOCK_SCALER_SETTLE_S": "3", "PENSTOCK_SCALER_LEASE": "false"}
        try:
            with tempfile.TemporaryDirectory() as folder:
                async with (
                    watching(config, namespace="bench", driver="bench") as watcher,
                    scaler_process(
                        config, Path(folder), POOLS.format(most=nodes + 40), namespace="bench", settings=settings
                    ) as scaler,
                ):
                    await _there_and_back(report, Run(report, client, watcher, scaler), nodes * PODS_PER_NODE)
        finally:
            await client.close()
    finally:
        await asyncio.to_thread(bed.close)


@dataclass
class Run:
    report: Report
    client: KubernetesClient
    watcher: Watcher
    scaler: ScalerProcess

    async def until(self, what: str, left: Callable[[], int], *, seconds: float = LIMIT_S) -> None:
        """Wait until nothing of `what` is left. Raises Stalled at the deadline, when nothing moves for `STALL_S`, and
        when the scaler ends.
        """
        whole, began = left(), time.monotonic()
        told = began

        async def gone() -> float:
            nonlocal told
            now, still = time.monotonic(), left()
            if now - told > TELL_S:
                told = now
                print(f"    after {now - began:.0f} s: {still} {what}", flush=True)
            if self.scaler.ended:
                last = "".join(self.scaler.other[-5:]).strip() or str(self.scaler.said[-1:])
                raise Stalled(f"the scaler ended after {now - began:.0f} s, with {still} {what}: {last}")
            return whole - still

        async with within(seconds, f"there are no {what}"):
            await reached(f"{what}, gone", gone, whole, pause_s=0.1, quiet_s=STALL_S, why=self._waiting_orders)

    def _waiting_orders(self) -> str:
        why = "; ".join(str(one.get("error", one)) for one in self.scaler.actions("order_waits")[-1:])
        return f"orders that wait: {why or 'none'}"


async def _there_and_back(report: Report, run: Run, pods: int) -> None:
    watcher = run.watcher
    began = time.monotonic()
    await create_pods(run.client, "bench", pods)
    created = time.monotonic() - began
    await run.until("pods that do not run yet", lambda: pods - len(watcher.bound))
    up = len(watcher.nodes)
    report.add(
        "up_s", time.monotonic() - began, "s", beside=f"0 to {up} nodes, {pods} pods running; made in {created:.0f} s"
    )
    single = await _singles(run, count=20)
    report.add(
        "unschedulable_to_order_p95_s",
        max(0.0, percentile(single, 0.95) - BATCH_IDLE_S),
        "s",
        target="<= 2",
        beside=f"after the window of {BATCH_IDLE_S:g} s; {len(single)} pods one by one beside {pods} that run",
    )
    await _back(report, run)


async def _back(report: Report, run: Run) -> None:
    """All pods end but those that stay, then these: at the end there is no node."""
    watcher, scaler = run.watcher, run.scaler
    staying = {uid: watcher.bound[uid] for uid, pod in watcher.pods.items() if pod.metadata.labels.get("stays")}
    before, whole, began = await scaler.metrics(), len(watcher.nodes), time.monotonic()
    needed = set(staying.values())
    await delete_pods(run.client, "bench", selector="!stays")
    deleted = time.monotonic() - began
    await run.until("nodes without work", lambda: len(watcher.nodes.keys() - needed))
    emptied = time.monotonic() - began
    lost = [uid for uid, node in staying.items() if watcher.bound.get(uid) != node]
    report.add(
        "back_s",
        emptied,
        "s",
        beside=f"{whole} nodes to the {len(needed)} with work; pods deleted in {deleted:.0f} s of it",
    )
    await delete_pods(run.client, "bench")
    await run.until("nodes", lambda: len(watcher.nodes))
    report.add("back_to_zero_s", time.monotonic() - began, "s", beside=f"{whole} nodes to none")
    report.add(
        "pods_killed",
        len(watcher.killed) + len(lost),
        target="= 0",
        beside=f"seen by an outsider; {len(staying)} pods went on running beside the removals",
    )
    after = await scaler.metrics()
    asked = _answered(after) - _answered(before)
    report.add(
        "requests_per_removal", asked / whole, beside=f"{asked:.0f} to the API server, lists and journal among them"
    )
    decisions = after[f"{DECISION}_count"] - before[f"{DECISION}_count"]
    mean = (after[f"{DECISION}_sum"] - before[f"{DECISION}_sum"]) / max(1.0, decisions)
    report.add("scaler_peak_mb", scaler.peak_mb(), "MB", beside="the scaler's process, over all of it")
    report.note(f"the way back: {decisions:.0f} decisions of {mean * 1000:.0f} ms on average, writing included")


def _answered(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if name.startswith("penstock_kubernetes_requests_total"))


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


async def _singles(run: Run, *, count: int) -> list[float]:
    """Pods that each need a whole node, one after the other: seconds from unschedulable to the node's object. They stay
    while the others go.
    """
    took, watcher = [], run.watcher
    for number in range(count):
        uids, before = set(watcher.pods), set(watcher.made_at)
        await create_pods(run.client, "bench", 1, prefix=f"single-{number}", cpu="31", labels={"stays": "yes"})
        bound = partial(_unbound, watcher, uids)
        await run.until("pods that wait for a node of their own", bound, seconds=300)
        (pod,) = watcher.pods.keys() - uids
        made = [watcher.made_at[uid] for uid in watcher.made_at.keys() - before]
        if made and pod in watcher.unschedulable_at:  # else a node had room for it after all
            took.append(min(made) - watcher.unschedulable_at[pod])
    if not took:
        raise Stalled(f"none of {count} pods needed a node of its own, so nothing was measured")
    return took


def _unbound(watcher: Watcher, known: set[str]) -> int:
    return 0 if watcher.bound.keys() - known else 1


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
