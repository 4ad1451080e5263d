"""The demo from start to end.

Nothing in here is special: the server is a child process `penstock up`, the functions are the example's own FDL file,
the pictures reach the bucket by plain file copy, and everything shown is read through the public client. So the demo is
also the shortest test that an installation works: it fails unless every picture succeeds, the model is good and the
chart is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.cli import fdl_files, formats
from gateway.cli.commands.invocation import described
from gateway.cli.failures import WorkFailed
from gateway.cli.servers import read_token
from gateway.demo.chain import Chain
from gateway.demo.report import Report, load_predictions, predictions_table
from gateway.demo.server import Server
from penstock.client import Client
from penstock.errors import InvalidInput

Say = Callable[[str], None]

CLASSIFY, CHART = "digits-classify", "digits-chart"
WORST_ACCURACY = 0.9
#: Of the example, beyond what Penstock itself needs (extra `examples`).
PACKAGES = ("numpy", "PIL", "sklearn")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    pictures: int = 60
    #: New or empty; None = a new folder for temporary files.
    data: Path | None = None
    #: Leave the server running until a signal.
    keep: bool = False


async def run(options: DemoOptions, *, say: Say) -> Report:
    """Run the demo. Raises InvalidInput when it cannot start and WorkFailed when it does not show what it must."""
    example = example_folder()
    require_packages()
    data = data_folder(options.data)
    home = data / "demo"
    with terminated_as_interrupt():
        say(f"Training the classifier ({options.pictures} pictures are kept aside) ...")
        fdl = await prepared(example, home, options.pictures)
        pictures = sorted((home / "pictures").glob("*.png"))
        async with Server(data, home / "up.log") as server:
            say(f"'penstock up' runs at {server.address}, data in {data}")
            async with Client(server.address, read_token(data / "credentials")) as client:
                report = await shown(client, fdl, pictures, data, say)
                check(report)
                say(next_steps(data, server.address if options.keep else ""))
                if options.keep:
                    await until_interrupted(server)
    return report


def example_folder() -> Path:
    """Return the folder of the example: inside the wheel, or in a checkout."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "_examples" / "digits", here.parent / "examples" / "digits"):
        if (folder / "digits.yaml").is_file():
            return folder
    raise InvalidInput("this installation lacks the example 'digits': install Penstock again")


def require_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"the demo needs {', '.join(missing)}, which Penstock itself does not: install them with"
            " pip install 'penstock[examples]'"
        )


def data_folder(wanted: Path | None) -> Path:
    """Make the data folder, closed to others. Raises InvalidInput when it holds something already."""
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    folder = wanted.expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise InvalidInput(f"cannot use {folder}: {error.strerror}", where="--data") from error
    if occupied:
        raise InvalidInput(f"{folder} is not empty: the demo wants a new folder", where="--data")
    return folder


async def prepared(example: Path, home: Path, count: int) -> fdl_files.FdlFile:
    """Lay the example out in `home`, train its model, draw its pictures; return its FDL file, ready to apply."""
    await asyncio.to_thread(shutil.copytree, example, home, ignore=shutil.ignore_patterns("__pycache__"))
    arguments = ("--model", home / "digits.npz", "--pictures", home / "pictures", "--count", str(count))
    training = await asyncio.create_subprocess_exec(
        sys.executable,
        home / "train.py",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await training.communicate()
    finally:
        if training.returncode is None:
            training.kill()
            await training.wait()
    if training.returncode:
        last = (told.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        raise WorkFailed(f"training the classifier failed: {last}")
    path = home / "digits.yaml"
    text = await asyncio.to_thread(path.read_text, encoding="utf-8")
    await asyncio.to_thread(path.write_text, with_home(text, home), encoding="utf-8")
    return await asyncio.to_thread(fdl_files.read, path)


def with_home(fdl: str, home: Path) -> str:
    """Return the FDL with the functions' environment saying where the example lies and which Python has its packages.

    The scripts know nothing of Penstock: they read these two variables, which in an image have their defaults.
    """
    document: dict[str, Any] = yaml.safe_load(fdl)
    for entry in document["functions"]["oscar"]:
        for service in entry.values():
            variables = service.setdefault("environment", {}).setdefault("variables", {})
            variables |= {"DIGITS_HOME": str(home), "DIGITS_PYTHON": sys.executable}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


async def shown(client: Client, fdl: fdl_files.FdlFile, pictures: list[Path], data: Path, say: Say) -> Report:
    """Deploy, drop the pictures, follow them to the chart, and print what came of it."""
    applied = await client.apply(fdl.text, fdl.scripts)
    say(f"Deployed {', '.join(f'{one.name} ({one.action})' for one in applied.functions)}")
    inbox = data / "buckets" / "digits" / "in"
    chain = Chain(client, (CLASSIFY, CHART), len(pictures), say)
    async with client.changes() as changes:
        begun = time.monotonic()
        say(f"Copying {len(pictures)} pictures into {inbox} ...")
        await asyncio.to_thread(drop, pictures, inbox)
        await chain.follow(changes)
    seconds = time.monotonic() - begun
    bucket = data / "buckets" / "digits"
    predictions = await asyncio.to_thread(load_predictions, bucket / "predictions")
    report = Report(
        pictures=len(pictures),
        succeeded=chain.succeeded(CLASSIFY),
        failures=chain.failures(),
        predictions=predictions,
        seconds=seconds,
        chart=str(bucket / "report" / "confusion.png"),
        table=str(bucket / "report" / "confusion.csv"),
    )
    await told(client, report, chain, say)
    return report


def drop(pictures: list[Path], inbox: Path) -> None:
    """Copy files as any program would: no upload, no API."""
    inbox.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.copyfile(picture, inbox / picture.name)


async def told(client: Client, report: Report, chain: Chain, say: Say) -> None:
    """Print predictions beside the truth, one invocation's story, and the throughput."""
    say("")
    say(predictions_table(report.predictions))
    right = sum(one.right for one in report.predictions)
    say(f"Accuracy: {right} of {len(report.predictions)} = {report.accuracy:.1%}")
    picked = chain.last(CLASSIFY)
    if picked:
        say("\nThe story of one of them ('penstock invocation show' prints it):\n")
        say(described(await client.invocation(picked)))
    say(
        f"\n{report.succeeded} of {report.pictures} pictures classified and charted in"
        f" {formats.duration(report.seconds * 1000)}: {report.pictures / report.seconds:.1f} pictures a second,"
        f" on {os.cpu_count()} CPUs"
    )
    say(f"Chart:           {report.chart}\nConfusion table: {report.table}")


def next_steps(data: Path, address: str) -> str:
    """Return what to try now. With an address the server goes on running."""
    first = [f"  penstock up --data {data}          # in another terminal, goes on from here"]
    lines = [
        *([] if address else first),
        "  penstock status",
        f"  penstock invocation ls --function {CLASSIFY}",
        "  penstock put FILE.png digits/in/     # a picture of your own",
        "  penstock get digits/report/confusion.png",
    ]
    head = f"The server goes on at {address} until Ctrl-C. Try:" if address else "Try next:"
    return "\n".join(["", head, *lines])


def check(report: Report) -> None:
    """Raise WorkFailed unless everything is as it must be."""
    if report.failures:
        raise WorkFailed(f"{len(report.failures)} invocations did not succeed, the first: {report.failures[0]}")
    if report.succeeded != report.pictures or len(report.predictions) != report.pictures:
        raise WorkFailed(
            f"of {report.pictures} pictures {report.succeeded} succeeded and left {len(report.predictions)} predictions"
        )
    if report.accuracy < WORST_ACCURACY:
        raise WorkFailed(f"the accuracy of {report.accuracy:.1%} is below {WORST_ACCURACY:.0%}")
    for path in (report.chart, report.table):
        if not Path(path).is_file():
            raise WorkFailed(f"{path} was not made")


async def until_interrupted(server: Server) -> None:
    """Wait for Ctrl-C, which here is the expected end and no failure. Raises WorkFailed when the server ends first."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    tasks = {asyncio.create_task(server.ended()), asyncio.create_task(interrupted.wait())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not interrupted.is_set():
        raise WorkFailed("the server ended by itself")


@contextlib.contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that the server it started never outlives it."""
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    assert current is not None, "the demo runs in a task"
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        current.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield
    except asyncio.CancelledError:
        if terminated:
            raise WorkFailed("the demo was terminated") from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
