"""`penstock get` and `penstock ls`: what lies in the buckets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import formats, session
from gateway.cli.options import command
from gateway.cli.progress import Progress
from gateway.cli.streams import write_out
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, InvalidInput, Unavailable

if TYPE_CHECKING:
    from penstock.answers import ObjectPage, StoredObject
    from penstock.client import Client


@command(
    """
    penstock get digits/report/confusion.png
    penstock get digits/report/confusion.png -o chart.png --force
    penstock get digits/predictions/digit-0001.json -o -
    """
)
@click.argument("source", metavar="BUCKET/KEY")
@click.option("-o", "target", metavar="FILE", help="Where to write (default: the key's last part); - = stdout.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def get(source: str, target: str | None, force: bool) -> None:
    """Download an object. The file appears whole or not at all."""
    bucket, key = split(source)
    if not key or key.endswith("/"):
        raise InvalidInput(f"{source!r} names no object: give BUCKET/KEY ('penstock ls {source}' lists them)")
    if target == "-":
        session.call(lambda client: _stream(client, bucket, key, write_out, Progress("get")))
        return
    path = Path(target or key.rsplit("/", 1)[-1])
    if path.is_dir():
        path /= key.rsplit("/", 1)[-1]
    _refuse_overwrite(path, force=force)
    size = _download(bucket, key, path, force=force)
    document = {"bucket": bucket, "key": key, "file": str(path), "size": size}
    session.show(document, lambda: f"{path} ({formats.size(size)})")


@command(
    """
    penstock ls
    penstock ls digits
    penstock ls digits/predictions/ --limit 10
    """
)
@click.argument("place", metavar="[BUCKET[/PREFIX]]", default="")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many objects.")
@click.option("--all", "everything", is_flag=True, help="All objects, however many.")
def ls(place: str, limit: int, everything: bool) -> None:
    """List the buckets, or the objects of one in the order of their keys."""
    bucket, prefix = split(place)
    if not bucket:
        buckets = session.call(lambda client: client.buckets())
        session.show(buckets, lambda: "\n".join(one.name for one in buckets) or "No buckets yet.")
        return
    found, more = session.call(lambda client: _listed(client, bucket, prefix, None if everything else limit))
    now = now_ms()
    rows = [(one.key, formats.size(one.size), formats.age(one.modified_ms, now)) for one in found]
    document = {"objects": found, "next": found[-1].key if more else ""}
    session.show(document, lambda: formats.table(("KEY", "SIZE", "AGE"), rows, right=(1,)) if rows else "No objects.")
    if more:
        session.note(f"There are more than {len(found)}: --all lists them, --limit sets how many.")


def split(place: str) -> tuple[str, str]:
    """Split BUCKET/KEY; the key is everything behind the first slash, exactly as it stands."""
    bucket, _, key = place.partition("/")
    if place and not bucket:
        raise InvalidInput(f"{place!r} starts with a slash: give BUCKET/KEY")
    return bucket, key


async def _listed(client: Client, bucket: str, prefix: str, limit: int | None) -> tuple[list[StoredObject], bool]:
    """Return the objects and whether there are more."""
    found: list[StoredObject] = []
    after = ""
    while True:
        wanted = 1000 if limit is None else min(1000, limit - len(found))
        page: ObjectPage = await client.objects(bucket, prefix=prefix, after=after, limit=wanted)
        found += page.objects
        if not page.next or (limit is not None and len(found) >= limit):
            return found, bool(page.next)
        after = page.next


def _refuse_overwrite(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise AlreadyExists(f"{path} is there already: name another file with -o, or overwrite it with --force")


async def _stream(client: Client, bucket: str, key: str, sink: Callable[[bytes], object], progress: Progress) -> int:
    """Copy an object's bytes and return their number; fails when they are fewer than were promised."""
    got = 0
    async with client.get(bucket, key) as (size, chunks):
        with progress.of(size):
            async for chunk in chunks:
                sink(chunk)
                got += len(chunk)
                progress.advance(len(chunk))
    if size is not None and got != size:
        raise Unavailable(f"{bucket}/{key} broke off after {got} of {size} bytes")
    return got


def _download(bucket: str, key: str, path: Path, *, force: bool) -> int:
    """Write beside the target and move into place, so that no half file ever has its name."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InvalidInput(f"cannot write into {path.parent}: {error.strerror}", where="-o") from error
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as sink:
            got = session.call(lambda client: _stream(client, bucket, key, sink.write, Progress(path.name)))
        _refuse_overwrite(path, force=force)
        # mkstemp makes files for the owner alone; a download gets what any new file of this user gets.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return got
