"""Embedded mode: what the platform costs beside the bare script, how much it takes in, and whether it is fair."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Report, main, median, percentile
from benchmarks.product import Product, document, function
from benchmarks.scripts import TRIVIAL, bare_s, busy, make_inputs, xargs_s
from penstock.answers import Invocation, InvocationPage

SLOTS = os.cpu_count() or 1


def run(report: Report) -> None:
    for part in (latency, throughput, backlog, idle, fairness, output):
        part(report)


def _scale(report: Report, full: int, small: int) -> int:
    return small if report.small else full


def _copies(files: list[Path], name: str) -> list[Path]:
    """Copies beside the originals, ready to be moved into a bucket: an upload that ends with a rename."""
    folder = files[0].parent.with_name(f"{files[0].parent.name}-{name}")
    folder.mkdir()
    return [Path(shutil.copy(file, folder)) for file in files]


def _move_in(files: list[Path], folder: Path) -> None:
    for file in files:
        file.rename(folder / file.name)


def _count(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(1 for _ in entries)
    except FileNotFoundError:
        return 0


def latency(report: Report) -> None:
    """One file at a time on an idle system: from the file's arrival to its output in the bucket."""
    rounds = _scale(report, 100, 15)
    with Product() as product:
        product.apply(document(function("one", "one")), {"one.sh": TRIVIAL})
        files = make_inputs(product.folder / "files", rounds)
        into, out = product.buckets / "bench/one/in", product.buckets / "bench/one/out"
        ours, bare = [], []
        for file in files:
            bare.append(bare_s(TRIVIAL, file) * 1000)
            began = time.perf_counter()
            file.rename(into / file.name)
            product.until((out / file.name).exists, pause_s=0.0005)
            ours.append((time.perf_counter() - began) * 1000)
            time.sleep(0.05)
        report.add(
            "overhead_p50_ms",
            median(ours) - median(bare),
            "ms",
            target="< 50",
            beside=f"whole {median(ours):.1f} ms (p95 {percentile(ours, 0.95):.1f}), bare script {median(bare):.1f} ms",
        )


def throughput(report: Report) -> None:
    """All files at once, against xargs with as many processes as there are processors, in turn in one run."""
    files_count, rounds = _scale(report, 2000, 200), _scale(report, 3, 1)
    script = busy(20)
    with Product() as product:
        product.apply(
            document(function("single", "single"), function("many", "many", batch=50)),
            {"single.sh": script, "many.sh": TRIVIAL},
        )
        singles, batches, cpu = [], [], []
        for number in range(rounds):
            files = make_inputs(product.folder / f"files-{number}", files_count)
            before = product.cpu_s()
            ours = _through(product, "single", files, number)
            cpu.append((product.cpu_s() - before) * 1000 / files_count)
            singles.append(xargs_s(script, files, SLOTS) / ours)
            ours = _through(product, "many", files, number)
            batches.append(xargs_s(TRIVIAL, files, SLOTS) / ours)
    told = ", ".join(f"{value:.2f}" for value in singles)
    report.add("throughput_vs_xargs_single", median(singles), "ratio", target=">= 0.9", beside=f"20 ms script: {told}")
    told = ", ".join(f"{value:.2f}" for value in batches)
    report.add("throughput_vs_xargs_batch", median(batches), "ratio", target=">= 0.8", beside=f"lists of 50: {told}")
    report.add("cpu_ms_per_item", median(cpu), "ms", beside="the platform's own process, one item per Job")


def _through(product: Product, name: str, files: list[Path], number: int) -> float:
    """Seconds from the first file's arrival to the last output, files of each round in a folder of their own."""
    into, out = product.buckets / f"bench/{name}/in", product.buckets / f"bench/{name}/out"
    copies = _copies(files, f"{name}-{number}")
    # Moved away, not deleted: for minutes after thousands of deletions some file systems are slow at making files, and
    # the baseline works in a fresh folder.
    aside = product.folder / "aside" / f"{name}-{number}"
    aside.mkdir(parents=True)
    into.rename(aside / "in")
    if out.exists():
        out.rename(aside / "out")
    into.mkdir()
    time.sleep(1)
    began = time.perf_counter()
    _move_in(copies, into)
    product.until(lambda: _count(out) >= len(files), patience_s=600)
    return time.perf_counter() - began


def backlog(report: Report) -> None:
    """A paused function under which files pile up: speed of intake, and memory with all of them waiting."""
    total, burst = _scale(report, 1_000_000, 20_000), _scale(report, 20_000, 5_000)
    with Product() as product:
        product.apply(document(function("idle", "idle")), {"idle.sh": TRIVIAL})
        product.ask(lambda client: client.pause("idle"))
        first = _intake(product, "first", burst)
        target = ">= 5000"
        report.add("intake_events_per_s", burst / first, "events/s", target=target, beside="files to durable queue")
        if report.small or report.skip_million:
            report.note(f"memory with {burst} waiting: {product.rss_mb():.0f} MB (a full run has a real million)")
            return
        filled = _intake(product, "fill", total - burst)
        report.note(f"a million files: {(total - burst) / filled:.0f} events/s over {filled:.0f} s")
        report.add("rss_mb_at_1m", product.rss_mb(), "MB", target="< 500", beside="1,000,000 queued")
        again = _intake(product, "last", burst)
        report.add(
            "intake_at_1m_vs_empty",
            first / again,
            "ratio",
            target=">= 0.8",
            beside=f"{burst / again:.0f} events/s behind a million, {burst / first:.0f} before",
        )


def _intake(product: Product, name: str, count: int) -> float:
    """Move `count` ready files into folders of 1,000; returns seconds until all of them are queued.

    The files are made before the clock runs: on some disks making one costs more than taking it in.
    """
    parts = []
    for start in range(0, count, 1000):
        part = product.folder / "ready" / f"{name}-{start // 1000:04d}"
        part.mkdir(parents=True)
        for number in range(min(1000, count - start)):
            os.close(os.open(part / f"{number:04d}.txt", os.O_CREAT | os.O_WRONLY, 0o644))
        parts.append(part)
    before = _queued(product)
    began = time.perf_counter()
    for part in parts:
        folder = product.buckets / "bench/idle/in" / part.name
        folder.mkdir(parents=True)
        with os.scandir(part) as entries:
            for entry in entries:
                os.rename(entry.path, folder / entry.name)  # noqa: PTH104  a Path object costs more than the call
    product.until(lambda: _queued(product) >= before + count, patience_s=1800, pause_s=0.1)
    return time.perf_counter() - began


def _queued(product: Product) -> int:
    return int(product.ask(lambda client: client.status()).backlog)


def idle(report: Report) -> None:
    seconds = _scale(report, 30, 5)
    with Product() as product:
        product.apply(document(function("idle", "idle")), {"idle.sh": TRIVIAL})
        time.sleep(5)
        before = product.cpu_s()
        time.sleep(seconds)
        report.add("idle_cpu_percent", (product.cpu_s() - before) / seconds * 100, "%", target="< 1")
        report.add("idle_rss_mb", product.rss_mb(), "MB", target="< 120")


def fairness(report: Report) -> None:
    """A holds thousands of files, B gets ten: when does B's last one start, and what does A lose?"""
    queued, seconds = _scale(report, 20_000, 1_500), _scale(report, 10, 3)
    with Product() as product:
        script = busy(20)
        product.apply(document(function("a", "a"), function("b", "b")), {"a.sh": script, "b.sh": script})
        files = make_inputs(product.folder / "files", queued, size=10)
        product.ask(lambda client: client.pause("a"))
        tens = _copies(files[:10], "b")
        _move_in(files, product.buckets / "bench/a/in")
        product.until(lambda: _queued(product) >= queued, patience_s=300)
        product.ask(lambda client: client.resume("a"))
        out = product.buckets / "bench/a/out"
        product.until(lambda: _count(out) >= 100)
        alone = _rate(out, seconds)
        arrived = time.time() * 1000
        _move_in(tens, product.buckets / "bench/b/in")
        shared = _rate(out, seconds)
        starts = sorted(item.started_ms - arrived for item in _invocations(product, "b"))
        each_ms = 1000 * SLOTS / alone
        ideal = 9 * each_ms * 2 / SLOTS
        report.add(
            "fair_start_vs_ideal",
            (starts[-1] - each_ms) / ideal,
            "ratio",
            target="<= 1.1",
            beside=f"slowest of B after {starts[-1]:.0f} ms; ideal {ideal:.0f}, one running item {each_ms:.0f}",
        )
        report.add(
            "fair_throughput_loss_percent",
            (1 - shared / alone) * 100,
            "%",
            target="< 5",
            beside=f"A: {alone:.1f} items/s alone, {shared:.1f} with B",
        )
        product.ask(lambda client: client.delete_function("a"))


def _rate(folder: Path, seconds: float) -> float:
    before, began = _count(folder), time.perf_counter()
    time.sleep(seconds)
    return (_count(folder) - before) / (time.perf_counter() - began)


def _invocations(product: Product, name: str) -> tuple[Invocation, ...]:
    page: InvocationPage = product.ask(lambda client: client.invocations(function=name, limit=100))
    assert len(page.invocations) == 10
    return page.invocations


def output(report: Report) -> None:
    """A script that prints ten megabytes of lines, beside the same one that throws them away."""
    rounds = _scale(report, 10, 3)
    lines = "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
    loud, quiet = f"{lines} | head -c 10000000\n", f"{lines} | head -c 10000000 > /dev/null\n"
    with Product() as product:
        product.apply(
            document(function("loud", "loud"), function("quiet", "quiet")), {"loud.sh": loud, "quiet.sh": quiet}
        )
        times: dict[str, list[float]] = {"loud": [], "quiet": []}
        for number in range(rounds):
            for name, taken in times.items():
                began = time.perf_counter()
                (product.buckets / f"bench/{name}/in" / f"{number}.txt").write_text("x", encoding="utf-8")
                product.until(_ended(product, name, number + 1), pause_s=0.005)
                taken.append((time.perf_counter() - began) * 1000)
    report.add(
        "log_10mb_extra_ms",
        median(times["loud"]) - median(times["quiet"]),
        "ms",
        target="< 100",
        beside=f"{median(times['loud']):.0f} ms printing, {median(times['quiet']):.0f} ms to /dev/null",
    )


def _ended(product: Product, name: str, count: int) -> Callable[[], bool]:
    def ended() -> bool:
        page = product.ask(lambda client: client.invocations(function=name, phase="succeeded", limit=100))
        return len(page.invocations) >= count

    return ended


if __name__ == "__main__":
    main("embedded", run)
