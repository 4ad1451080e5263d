"""Job traces: what arrived when, how long it ran, what it needed. Read from CSV and from the Standard Workload Format.

A line that cannot be read is refused with its number; lines that describe no run (cancelled before start, no
processors) are left out and counted, so that a report can say how much of the trace it covers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from penstock.errors import InvalidInput
from penstock.quantity import cpu_millis, memory_bytes
from scaler.model import Amounts

_CSV_NEEDED = ("submit", "runtime", "cpu")
_CSV_HEADER = 'the first line must be a header such as "submit,runtime,cpu,memory,tasks"'
_LONGEST_S = 10 * 365 * 86_400


class Job(msgspec.Struct, frozen=True):
    """One job: `tasks` alike pods that start together."""

    id: str
    submit_ms: int
    runtime_ms: int
    #: Of one task.
    requests: Amounts
    tasks: int = 1


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    #: In order of submission.
    jobs: tuple[Job, ...]
    #: Lines that describe no run.
    left_out: int = 0
    #: How it was made or where it came from, in a sentence.
    about: str = ""


def read_trace(path: Path, *, cpu_per_processor: float = 1.0, memory_per_processor: int = 1 << 30) -> Trace:
    """Read `.swf` as Standard Workload Format, everything else as CSV. Raises InvalidInput with the line."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from error
    lines = text.splitlines()
    try:
        if path.suffix.lower() == ".swf":
            jobs, left_out = parse_swf(lines, cpu_per_processor, memory_per_processor)
        else:
            jobs, left_out = parse_csv(lines)
    except InvalidInput as error:
        raise InvalidInput(error.message, where=str(path)) from error
    if not jobs:
        raise InvalidInput("holds no job that ran", where=str(path))
    return Trace(
        name=path.name, jobs=tuple(sorted(jobs, key=_order)), left_out=left_out, about=f"read from {path.name}"
    )


def _order(job: Job) -> int:
    return job.submit_ms


def parse_csv(lines: Iterable[str]) -> tuple[list[Job], int]:
    """Columns: submit and runtime in seconds, cpu and memory as quantities, tasks; any other column is a resource."""
    reader = csv.reader(lines)
    first = next((row for row in reader if row and not row[0].startswith("#")), [])
    header = [name.strip() for name in first]
    missing = [name for name in _CSV_NEEDED if name not in header]
    if missing:
        raise InvalidInput(f"column {missing[0]!r} is missing; {_CSV_HEADER}", where=f"line {max(1, reader.line_num)}")
    if len(set(header)) != len(header):
        raise InvalidInput("a column is named twice", where=f"line {reader.line_num}")
    jobs: list[Job] = []
    left_out = 0
    for row in reader:
        where = f"line {reader.line_num}"
        if not row or row[0].startswith("#"):
            continue
        if len(row) != len(header):
            raise InvalidInput(f"has {len(row)} values for {len(header)} columns", where=where)
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        job = _csv_job(cells, len(jobs) + left_out + 1, where)
        if job.runtime_ms <= 0:
            left_out += 1
        else:
            jobs.append(job)
    return jobs, left_out


def _csv_job(cells: dict[str, str], number: int, where: str) -> Job:
    requests = {}
    for name, cell in cells.items():
        if name not in {"id", "submit", "runtime", "tasks"} and cell:
            field = f"{where}, column {name}"
            requests[name] = cpu_millis(cell, where=field) if name == "cpu" else memory_bytes(cell, where=field)
    requests["pods"] = 1
    return Job(
        id=cells.get("id") or str(number),
        submit_ms=_milliseconds(cells["submit"], f"{where}, column submit"),
        runtime_ms=_milliseconds(cells["runtime"], f"{where}, column runtime"),
        requests=tuple(sorted((name, amount) for name, amount in requests.items() if amount)),
        tasks=_count(cells.get("tasks") or "1", f"{where}, column tasks"),
    )


def _milliseconds(text: str, where: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < _LONGEST_S:
        raise InvalidInput(f"{text!r} is not a number of seconds from 0 to {_LONGEST_S}", where=where)
    return round(seconds * 1000)


def _count(text: str, where: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise InvalidInput(f"{text!r} is not a whole number of 1 or more", where=where)
    return int(text)


def parse_swf(
    lines: Iterable[str], cpu_per_processor: float = 1.0, memory_per_processor: int = 1 << 30
) -> tuple[list[Job], int]:
    """Standard Workload Format: 18 numbers a line, `;` opens a comment, -1 = unknown.

    Used: 1 id, 2 submit (s), 4 run time (s), 5 allocated else 8 requested processors, 7 used else 10 requested memory
    (KiB per processor). One processor is one task of one pod; pods of one job start together.
    """
    jobs: list[Job] = []
    left_out = 0
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith(";"):
            continue
        fields = _numbers(text, f"line {number}")
        processors = int(fields[4] if fields[4] > 0 else fields[7])
        runtime = fields[3]
        if runtime <= 0 or processors <= 0 or fields[1] < 0:
            left_out += 1
            continue
        kibibytes = fields[6] if fields[6] > 0 else fields[9]
        memory = int(kibibytes * 1024) if kibibytes > 0 else memory_per_processor
        requests = (("cpu", round(cpu_per_processor * 1000)), ("memory", memory), ("pods", 1))
        jobs.append(Job(f"{int(fields[0])}", round(fields[1] * 1000), round(runtime * 1000), requests, processors))
    return jobs, left_out


def _numbers(text: str, where: str) -> list[float]:
    parts = text.split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) < 11 or any(abs(number) > 1e15 for number in numbers):
        raise InvalidInput("is not a line of the Standard Workload Format (18 numbers)", where=where)
    return numbers


def joined(jobs: Iterable[Job], capacities: list[dict[str, int]]) -> Iterator[Job]:
    """Jobs of many one-processor tasks as fewer pods that fill nodes: what a batch system does with `processors`.

    Tasks are put together, as many as the largest node holds and as divide the job evenly, so that pods stay alike.
    """
    for job in jobs:
        most = max((_fit(job, capacity) for capacity in capacities), default=0)
        size = next((size for size in range(min(most, job.tasks), 1, -1) if job.tasks % size == 0), 1)
        if size == 1:
            yield job
            continue
        requests = tuple((name, amount if name == "pods" else amount * size) for name, amount in job.requests)
        yield Job(job.id, job.submit_ms, job.runtime_ms, requests, job.tasks // size)


def _fit(job: Job, capacity: dict[str, int]) -> int:
    return min((capacity.get(name, 0) // amount for name, amount in job.requests if name != "pods"), default=0)
