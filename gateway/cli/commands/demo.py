"""`penstock demo`: hands the command line to `gateway.demo`."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli import session
from gateway.cli.options import command


@command(
    """
    penstock demo
    penstock demo --pictures 200 --keep
    penstock demo --data ~/penstock-demo
    """
)
@click.option(
    "--pictures", type=click.IntRange(1, 450), default=60, show_default=True, metavar="N", help="How many to classify."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Data folder, new or empty (default: a new folder for temporary files).",
)
@click.option("--keep", is_flag=True, help="Leave the server running until Ctrl-C, to look around.")
def demo(pictures: int, data: Path | None, keep: bool) -> None:
    """Classify handwritten digits, from nothing to a chart: one minute, no network, no container.

    Trains a small model, runs 'penstock up' in a data folder of its own on a free port, deploys two chained functions
    and copies pictures into a bucket. Needs the extra packages of penstock[examples].
    """
    import asyncio  # noqa: PLC0415 - help must not pay for it

    from gateway.demo import DemoOptions, run  # noqa: PLC0415

    options = DemoOptions(pictures=pictures, data=data, keep=keep)
    report = asyncio.run(run(options, say=session.note if session.options().json else session.emit))
    if session.options().json:
        session.show(report, str)
