"""`penstock apply` and `penstock validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import formats, session
from gateway.cli.options import command

if TYPE_CHECKING:
    from gateway.cli.fdl_files import FdlFile
    from penstock.answers import Applied
    from penstock.client import Client

_FILES = click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(dir_okay=False, path_type=Path)
)


@command(
    """
    penstock apply digits.yaml
    penstock apply --dry-run digits.yaml ocr.yaml
    """
)
@_FILES
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
def apply(files: tuple[Path, ...], dry_run: bool) -> None:
    """Deploy the functions of FDL files: new ones are created, changed ones replaced, the rest left alone.

    All files are checked before the first function is deployed. Scripts are read from the folder of their FDL file.
    """
    from gateway.cli.fdl_files import read_all  # noqa: PLC0415 - 100 ms that help must not pay

    read = read_all(files)
    answers = session.call(lambda client: _apply(client, read, dry_run=dry_run))
    functions = [one for answer in answers for one in answer.functions]
    warnings = [text for answer in answers for text in answer.warnings]
    _warn(warnings)
    rows = [(one.name, f"{'would be ' * dry_run}{one.action}", str(one.generation)) for one in functions]
    session.show(
        {"functions": functions, "warnings": warnings},
        lambda: formats.table(("FUNCTION", "ACTION", "GENERATION"), rows, right=(2,)) if rows else "No functions.",
    )


@command(
    """
    penstock validate digits.yaml
    penstock validate *.yaml --output json
    """
)
@_FILES
def validate(files: tuple[Path, ...]) -> None:
    """Check FDL files and their scripts on this machine, without a server."""
    from gateway.cli import fdl_files  # noqa: PLC0415 - 100 ms that help must not pay

    read = fdl_files.read_all(files)
    warnings = fdl_files.warnings(read)
    _warn(warnings)
    document = {"functions": [name for file in read for name in file.names], "warnings": warnings}
    session.show(document, lambda: "\n".join(f"{file.path}: {', '.join(file.names) or 'no function'}" for file in read))


async def _apply(client: Client, files: list[FdlFile], *, dry_run: bool) -> list[Applied]:
    # The server checks more than this machine can (what is deployed already): all files first, as one.
    answers = [await client.apply(file.text, file.scripts, dry_run=True) for file in files]
    if dry_run:
        return answers
    return [await client.apply(file.text, file.scripts) for file in files]


def _warn(warnings: list[str]) -> None:
    if not session.options().json:
        for text in warnings:
            session.note(f"warning: {formats.printable(text)}")
