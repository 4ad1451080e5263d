"""`penstock submit` (queue and go) and `penstock run` (wait, print the answer)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import failures, formats, session
from gateway.cli.commands.invocation import outcome, wait_for
from gateway.cli.options import command
from gateway.cli.progress import Progress
from gateway.cli.streams import read_file, read_stdin, write_out
from penstock.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from penstock.answers import Invocation
    from penstock.client import Body, Client


@command(
    """
    penstock submit digits-classify photo.png
    penstock submit digits-classify photo.png --wait
    echo '{"text": "hello"}' | penstock submit translate -
    """
)
@click.argument("function")
@click.argument("file", default="", metavar="[FILE]")
@click.option("--wait", is_flag=True, help="Wait for the end; exit code 1 when it did not succeed.")
def submit(function: str, file: str, wait: bool) -> int:
    """Queue a file for a function and print the id of its invocation. No FILE = an empty body, - = stdin."""

    async def work(client: Client, body: Body) -> tuple[str, Invocation | None]:
        identity = await client.submit(function, body)
        if not session.options().json and wait:
            session.note(f"invocation {formats.short(identity)} is queued")
        return identity, await wait_for(client, identity) if wait else None

    with opened(file) as body:
        identity, ended = session.call_function(function, lambda client: work(client, body))
    session.show(ended or {"invocation": identity}, lambda: outcome(ended) if ended else identity)
    return failures.OK if ended is None or ended.phase == "succeeded" else failures.FAILED


@command(
    """
    penstock run digits-classify photo.png
    penstock run digits-classify photo.png -o answer.json
    cat photo.png | penstock run digits-classify - --raw
    """
)
@click.argument("function")
@click.argument("file", default="", metavar="[FILE]")
@click.option("--raw", is_flag=True, help="Print the answer as it came, even if it is base64.")
@click.option("-o", "target", metavar="FILE", help="Write the answer to a file.")
@click.option("--timeout", type=click.FloatRange(min=0.1), metavar="S", help="Stop waiting after S seconds.")
def run(function: str, file: str, raw: bool, target: str | None, timeout: float | None) -> None:
    """Run a function on a file, wait, and print its answer. No FILE = an empty body, - = stdin.

    The answer is the script's one output file, a ZIP of several, or what it printed when it wrote none. Files come as
    base64 and are decoded; --raw leaves them so. When the script fails, its last lines are on stderr and the exit code
    is 1.
    """
    with opened(file) as body:
        answer = session.call_function(function, lambda client: client.run(function, body, timeout_s=timeout))
    data = answer.text if raw else decoded(answer.text)
    if target is not None and target != "-":
        Path(target).write_bytes(data)
    elif session.options().json:
        text = answer.text.decode("utf-8", "replace")
        session.show({"invocation": answer.invocation, "answer": text}, str)
    else:
        _print(data)


@contextlib.contextmanager
def opened(file: str) -> Iterator[Body]:
    """Open what a FILE argument names as the body of a request."""
    if not file:
        yield b""
    elif file == "-":
        yield read_stdin(Progress("stdin"))
    else:
        path = Path(file)
        try:
            source = path.open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {file}") from error
        except OSError as error:
            raise InvalidInput(f"cannot read {file}: {error.strerror}") from error
        with source:
            size = os.fstat(source.fileno()).st_size
            progress = Progress(path.name)
            with progress.of(size):
                yield read_file(source, size, progress)


def decoded(text: bytes) -> bytes:
    """Return the bytes that an answer means: base64 decoded, anything else as it is (OSCAR's clients do the same)."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True) or text
    except binascii.Error:
        return text


def _print(data: bytes) -> None:
    if sys.stdout.isatty() and not _is_text(data):
        raise InvalidInput("the answer is not text: write it to a file with -o FILE, or pipe it on")
    # The answer is not touched, but on a terminal the prompt must not stick to it.
    write_out(data if not sys.stdout.isatty() or data.endswith(b"\n") else data + b"\n")


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data and data.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False
