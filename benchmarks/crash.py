"""Crashes: files arrive while the platform is killed again and again. Is anything lost, does anything succeed twice?

Runs are counted outside the product: each script appends its key, its process id and whether it began or ended to a
file of the benchmark's own. Every second kill takes the running scripts along, as a reboot would; the others leave them
running, and the next life has to take them over.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.harness import Report, main
from benchmarks.product import Product, document, function
from penstock.answers import Invocation, InvocationPage

SEED = 20
SLOTS = os.cpu_count() or 1
#: One write of less than a page to a file opened for appending is atomic.
SCRIPT = """#!/bin/sh
echo "began $STORAGE_OBJECT_KEY $$" >> "$TALLY"
sleep 0.05
cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"
echo "ended $STORAGE_OBJECT_KEY $$" >> "$TALLY"
"""


def run(report: Report) -> None:
    files, kills = (300, 4) if report.small else (2000, 20)
    chance = random.Random(SEED)
    with Product() as product:
        tally = product.folder / "tally"
        tally.touch()
        entry = function("work", "work", environment="{variables: {TALLY: " + str(tally) + "}}")
        product.apply(document(entry), {"work.sh": SCRIPT})
        dropping = threading.Thread(target=_drop, args=(product.buckets / "bench/work/in", files, 0.02))
        dropping.start()
        while_running = 0
        for number in range(kills):
            time.sleep(chance.uniform(0.3, 1.5))
            while_running += _scripts_run(tally)
            _kill(product, scripts_too=number % 2 == 1)
            product.start()
        dropping.join()
        product.until(lambda: _succeeded(product) >= files, patience_s=600, pause_s=0.5)
        time.sleep(3)
        _judge(report, product, tally, files=files, kills=kills, while_running=while_running)


def _drop(folder: Path, files: int, pause_s: float) -> None:
    for number in range(files):
        (folder / f"file-{number:05d}").write_text(str(number), encoding="utf-8")
        time.sleep(pause_s)


def _scripts_run(tally: Path) -> bool:
    words = Counter(line.split(" ", 1)[0] for line in tally.read_text(encoding="utf-8").splitlines())
    return words["began"] > words["ended"]


def _kill(product: Product, *, scripts_too: bool) -> None:
    children = _descendants(product.pid) if scripts_too else []
    product.kill()
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = [int(word) for word in (task / "children").read_text(encoding="utf-8").split()]
        except FileNotFoundError:
            continue
        for child in children:
            found += [child]
            try:
                found += _descendants(child)
            except FileNotFoundError:
                continue
    return found


def _succeeded(product: Product) -> int:
    status = product.ask(lambda client: client.status())
    return int(status.functions[0].succeeded)


def _judge(report: Report, product: Product, tally: Path, *, files: int, kills: int, while_running: int) -> None:
    records = _records(product)
    successes = Counter(record.input for record in records if record.phase == "succeeded")
    outputs = {file.name for file in (product.buckets / "bench/work/out").iterdir()}
    wrong = [name for name in outputs if (product.buckets / "bench/work/out" / name).read_text() != str(int(name[5:]))]
    began = Counter(line.split()[1] for line in tally.read_text(encoding="utf-8").splitlines() if line[0] == "b")
    report.add("files", files)
    report.add("kills", kills, target=f"= {kills}")
    report.add("kills_while_running", while_running, target=f">= {kills * 3 // 4}")
    report.add("lost", files - len(outputs) + len(wrong), target="= 0", beside=f"{len(outputs)} outputs, all whole")
    report.add(
        "double_successes",
        sum(count - 1 for count in successes.values()) + files - len(successes),
        target="= 0",
        beside=f"{len(successes)} successful records, one each",
    )
    extra = sum(began.values()) - len(began)
    report.add("extra_runs", extra, target=f"<= {kills * SLOTS}", beside="bound: kills x slots")


def _page(product: Product, token: str) -> InvocationPage:
    page: InvocationPage = product.ask(lambda client: client.invocations(limit=1000, page=token))
    return page


def _records(product: Product) -> list[Invocation]:
    records: list[Invocation] = []
    token = ""
    while True:
        page = _page(product, token)
        records += page.invocations
        token = page.next
        if not token:
            return records


if __name__ == "__main__":
    main("crash", run)
