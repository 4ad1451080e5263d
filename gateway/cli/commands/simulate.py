"""`penstock simulate`: what a load would cost in waiting, energy and money; needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import failures, session
from gateway.cli.options import command

if TYPE_CHECKING:
    from scaler.pools import Fleet
    from scaler.simulate import Report, Trace

_FILE = click.Path(dir_okay=False, path_type=Path)
#: By name, so that help need not import the simulation.
_KINDS = ("steady", "bursty", "diurnal")


@command(
    """
    penstock simulate --trace jobs.csv --pools pools.yaml --chart out.svg
    penstock simulate --quality
    penstock simulate --record jobs.csv --kubeconfig ~/.kube/config --minutes 60
    """
)
@click.option("--trace", "traces", type=_FILE, multiple=True, metavar="FILE", help="Jobs: CSV, or SWF by its suffix.")
@click.option("--generate", "kinds", type=click.Choice(_KINDS), multiple=True, help="A made-up load of this kind.")
@click.option("--quality", is_flag=True, help="All made-up loads and a recorded one; fails where CLUES does better.")
@click.option("--pools", "pools_file", type=_FILE, metavar="FILE", help="Pools, as for the scaler; else 20 machines.")
@click.option(
    "--days", type=click.FloatRange(0.01, 3660), default=14.0, metavar="N", help="Days of a made-up load (14)."
)
@click.option("--per-day", type=click.FloatRange(min=0.01), default=1000.0, metavar="N", help="Its jobs a day (1000).")
@click.option("--seed", type=int, default=1, metavar="N", help="Its seed (1).")
@click.option("--energy-price", type=click.FloatRange(min=0), default=0.0, metavar="N", help="Money per kWh, added.")
@click.option("--pack", is_flag=True, help="The cluster's scheduler packs nodes instead of spreading over them.")
@click.option("--chart", "chart_file", type=_FILE, metavar="FILE", help="Write a chart there (SVG); for one load only.")
@click.option("--record", "record_file", type=_FILE, metavar="FILE", help="Record a trace from a cluster instead.")
@click.option("--kubeconfig", type=_FILE, metavar="FILE", help="The cluster to record from; else this pod's own.")
@click.option("--namespace", metavar="NAME", help="Record the pods of this namespace only.")
@click.option("--minutes", type=click.FloatRange(min=0), default=60.0, metavar="N", help="How long to record (60).")
def simulate(
    *,
    traces: tuple[Path, ...],
    kinds: tuple[str, ...],
    quality: bool,
    pools_file: Path | None,
    days: float,
    per_day: float,
    seed: int,
    energy_price: float,
    pack: bool,
    chart_file: Path | None,
    record_file: Path | None,
    kubeconfig: Path | None,
    namespace: str | None,
    minutes: float,
) -> int:
    """Replay jobs on pools: waiting, energy and money beside always on and beside CLUES's policy.

    The decisions are those of the real engine. `--record` writes down what runs on a cluster now, to be replayed later.
    """
    if record_file is not None:
        return _record(record_file, kubeconfig, namespace, minutes)
    from scaler.simulate.quality import shortfalls  # noqa: PLC0415 - 200 ms that help must not pay

    loads = _loads(traces, kinds, quality=quality, days=days, per_day=per_day, seed=seed)
    if chart_file is not None and len(loads) != 1:
        raise click.UsageError(f"--chart draws one load, and these are {len(loads)}.", click.get_current_context())
    fleet = _fleet(pools_file)
    reports = [_run(load, fleet, energy_price=energy_price, pack=pack, chart_file=chart_file) for load in loads]
    missed = [problem for report in reports for problem in shortfalls(report)] if quality else []
    _show(reports, missed)
    if not missed:
        return failures.OK
    session.note("penstock: CLUES's policy did better in what is named above")
    return failures.FAILED


def _fleet(path: Path | None) -> Fleet:
    from scaler.configuration import parse_fleet, read_fleet  # noqa: PLC0415 - see above
    from scaler.simulate.quality import EXAMPLE_POOLS  # noqa: PLC0415 - see above

    return read_fleet(path) if path is not None else parse_fleet(EXAMPLE_POOLS)


def _loads(
    files: tuple[Path, ...], kinds: tuple[str, ...], *, quality: bool, days: float, per_day: float, seed: int
) -> list[Trace]:
    from scaler.simulate.generate import generate  # noqa: PLC0415 - see above
    from scaler.simulate.quality import recorded  # noqa: PLC0415 - see above
    from scaler.simulate.trace import read_trace  # noqa: PLC0415 - see above

    made = [generate(kind, days=days, per_day=per_day, seed=seed) for kind in (_KINDS if quality else kinds)]
    found = [*made, *([recorded()] if quality else []), *(read_trace(file) for file in files)]
    if not found:
        raise click.UsageError("Give --trace FILE, --generate KIND or --quality.", click.get_current_context())
    return found


def _run(load: Trace, fleet: Fleet, *, energy_price: float, pack: bool, chart_file: Path | None) -> Report:
    from scaler.simulate import SimulationOptions, simulate_with_chart  # noqa: PLC0415 - see above

    options = SimulationOptions(
        trace=load, fleet=fleet, energy_price=energy_price, pack=pack, chart=chart_file is not None
    )
    report, drawing = simulate_with_chart(options)
    if chart_file is not None:
        chart_file.write_text(drawing, encoding="utf-8")
    return report


def _show(reports: list[Report], missed: list[str]) -> None:
    from scaler.simulate import table  # noqa: PLC0415 - see above

    session.show(
        {"reports": reports, "missed": missed},
        lambda: "\n\n".join([*(table(report) for report in reports), *(["\n".join(missed)] if missed else [])]),
    )


def _record(target: Path, kubeconfig: Path | None, namespace: str | None, minutes: float) -> int:
    import asyncio  # noqa: PLC0415 - see above

    from penstock.adapters.kubernetes import from_kubeconfig, in_cluster  # noqa: PLC0415 - see above
    from scaler.simulate.record import record  # noqa: PLC0415 - see above

    access = from_kubeconfig(kubeconfig) if kubeconfig is not None else in_cluster()
    session.note(f"recording for {minutes:g} minutes; Ctrl-C ends it sooner and keeps what was seen")
    jobs = asyncio.run(record(access, target, seconds=minutes * 60, namespace=namespace or ""))
    session.show({"file": str(target), "jobs": jobs}, lambda: f"{jobs} jobs are in {target}")
    return failures.OK
