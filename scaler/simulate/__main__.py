"""`python -m scaler.simulate`: the simulation from a command line where only the scaler is installed.

python -m scaler.simulate --trace jobs.csv --pools pools.yaml [--chart out.svg]
python -m scaler.simulate --quality
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypedDict, Unpack

import click
import msgspec

from penstock.errors import PenstockError
from scaler.configuration import parse_fleet, read_fleet
from scaler.pools import Fleet
from scaler.simulate.generate import KINDS, generate
from scaler.simulate.options import SimulationOptions
from scaler.simulate.quality import EXAMPLE_POOLS, recorded, shortfalls
from scaler.simulate.report import Report, table
from scaler.simulate.run import simulate_with_chart
from scaler.simulate.trace import Trace, read_trace


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--trace", "trace_file", type=click.Path(path_type=Path), help="Jobs: CSV, or SWF by its suffix.")
@click.option("--generate", "kind", type=click.Choice(list(KINDS)), help="A made-up load instead of a trace.")
@click.option("--days", default=14.0, show_default=True, help="Length of a made-up load.")
@click.option("--per-day", default=1000.0, show_default=True, help="Jobs a day of a made-up load.")
@click.option("--seed", default=1, show_default=True, help="Seed of a made-up load.")
@click.option("--pools", "pools_file", type=click.Path(path_type=Path), help="Pools (YAML); else 20 alike machines.")
@click.option("--energy-price", default=0.0, help="Price of a kWh, added to what the machines cost.")
@click.option("--pack", is_flag=True, help="The scheduler packs nodes instead of spreading over them.")
@click.option("--chart", "chart_file", type=click.Path(path_type=Path), help="Write a chart (SVG) there.")
@click.option("--quality", is_flag=True, help="Compare with CLUES on all loads; exit 1 if it does better.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON, one a line.")
def main(
    trace_file: Path | None, kind: str | None, pools_file: Path | None, quality: bool, **rest: Unpack[_Rest]
) -> None:
    """Replay a trace of jobs on pools of machines: waiting, energy and money beside always on and beside CLUES."""
    try:
        fleet = read_fleet(pools_file) if pools_file else parse_fleet(EXAMPLE_POOLS)
        kinds = list(KINDS) if quality else [kind] if kind else []
        traces = [generate(one, days=rest["days"], per_day=rest["per_day"], seed=rest["seed"]) for one in kinds]
        if quality:
            traces.append(recorded())
        if trace_file is not None:
            traces.append(read_trace(trace_file))
        if not traces:
            raise click.UsageError("give --trace FILE, --generate KIND or --quality")
        reports = [_show(trace, fleet, rest) for trace in traces]
    except PenstockError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(7)
    if quality:
        missed = [problem for report in reports for problem in shortfalls(report)]
        for problem in missed:
            click.echo(problem, err=True)
        sys.exit(1 if missed else 0)


class _Rest(TypedDict):
    days: float
    per_day: float
    seed: int
    energy_price: float
    pack: bool
    chart_file: Path | None
    as_json: bool


def _show(trace: Trace, fleet: Fleet, rest: _Rest) -> Report:
    chart_file = rest["chart_file"]
    options = SimulationOptions(
        trace=trace, fleet=fleet, energy_price=rest["energy_price"], pack=rest["pack"], chart=chart_file is not None
    )
    report, drawing = simulate_with_chart(options)
    click.echo(msgspec.json.encode(report).decode() if rest["as_json"] else table(report) + "\n")
    if chart_file is not None:
        chart_file.write_text(drawing, encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
