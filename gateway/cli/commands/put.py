"""`penstock put`: files, folders or stdin into a bucket. Decided first (`plan`), then sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from gateway.cli import formats, session
from gateway.cli.commands.get import split
from gateway.cli.options import command
from gateway.cli.progress import Progress
from gateway.cli.streams import read_file, read_stdin
from penstock.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from penstock.client import Client

#: Uploads at once: enough to hide a round trip, few enough to leave the machine to the functions.
PARALLEL = 4
STDIN = "-"


class Upload(NamedTuple):
    """One file and the key it will have. `path` None = stdin."""

    path: Path | None
    key: str
    size: int


@command(
    """
    penstock put photo.png digits/in/
    penstock put -r pictures/ digits/in/
    cat photo.png | penstock put - digits/in/photo.png
    """
)
@click.argument("sources", nargs=-1, required=True, metavar="FILE...")
@click.argument("target", metavar="BUCKET/PREFIX/")
@click.option("-r", "recursive", is_flag=True, help="Take folders too: everything below them, by relative name.")
@click.option("--create-bucket", is_flag=True, help="Make the bucket when it is missing.")
def put(sources: tuple[str, ...], target: str, recursive: bool, create_bucket: bool) -> None:
    """Upload files. BUCKET/PREFIX/ with a slash at its end keeps their names; without one it is the whole key.

    FILE - is stdin, which needs a whole key. Every file is checked before the first is sent, and each appears in the
    bucket whole or not at all.
    """
    bucket, prefix = split(target)
    uploads = plan(sources, prefix, recursive=recursive)
    sent = session.call(lambda client: _send(client, bucket, uploads, create_bucket=create_bucket))
    total = formats.size(sum(int(str(one["size"])) for one in sent))
    session.show(
        {"objects": sent},
        lambda: f"{bucket}/{sent[0]['key']} ({total})" if len(sent) == 1 else f"{len(sent)} objects ({total})",
    )


def plan(sources: Sequence[str], prefix: str, *, recursive: bool) -> list[Upload]:
    """Decide which file gets which key. Raises InvalidInput or NotFound before anything is sent."""
    as_folder = not prefix or prefix.endswith("/")
    if STDIN in sources:
        if len(sources) > 1 or as_folder:
            raise InvalidInput("stdin (-) is one object: give its whole key as BUCKET/KEY, and no other files with it")
        return [Upload(None, prefix, 0)]
    uploads = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            if not recursive:
                raise InvalidInput(f"{source} is a folder: give -r to upload what is in it")
            if not as_folder:
                raise InvalidInput(f"{prefix!r} is one key: end it with a slash to put a folder there")
            uploads += [_upload(file, prefix + _key(file.relative_to(path))) for file in _walk(path)]
        else:
            uploads.append(_upload(path, prefix + _key(Path(path.name)) if as_folder else prefix))
    _refuse_collisions(uploads)
    if not uploads:
        raise InvalidInput(f"there is no file in {', '.join(sources)}")
    return uploads


def _walk(folder: Path) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise InvalidInput(f"cannot read the folder {error.filename}: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files))


def _key(relative: Path) -> str:
    try:
        relative.as_posix().encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the name {os.fsencode(relative)!r} is not UTF-8, which a key must be") from error
    return relative.as_posix()


def _upload(path: Path, key: str) -> Upload:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    return Upload(path, key, status.st_size)


def _refuse_collisions(uploads: Iterable[Upload]) -> None:
    taken: dict[str, Upload] = {}
    for upload in uploads:
        other = taken.setdefault(upload.key, upload)
        if other is not upload:
            raise InvalidInput(
                f"{other.path} and {upload.path} would both become {upload.key!r}: end the target with a slash, or"
                " upload them one by one"
            )


async def _send(
    client: Client, bucket: str, uploads: Sequence[Upload], *, create_bucket: bool
) -> list[dict[str, object]]:
    """Send everything, a few at once; the first failure ends it, what was sent by then stays."""
    if create_bucket:
        await client.create_bucket(bucket)
    label = uploads[0].key.rsplit("/", 1)[-1] if len(uploads) == 1 else f"{len(uploads)} files"
    progress = Progress(label)
    waiting = iter(uploads)
    sent: dict[str, dict[str, object]] = {}

    async def sender() -> None:
        for upload in waiting:
            sent[upload.key] = await _one(client, bucket, upload, progress)

    total = sum(upload.size for upload in uploads) if uploads[0].path else None
    with progress.of(total):
        senders = [asyncio.create_task(sender()) for _ in range(min(PARALLEL, len(uploads)))]
        try:
            await asyncio.gather(*senders)
        finally:
            for task in senders:
                task.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
    return [sent[upload.key] for upload in uploads]


async def _one(client: Client, bucket: str, upload: Upload, progress: Progress) -> dict[str, object]:
    if upload.path is None:
        info = await client.put(bucket, upload.key, read_stdin(progress))
    else:
        try:
            with upload.path.open("rb") as file:
                # The size now, which may not be that of the plan: the file may have grown while others were sent.
                size = os.fstat(file.fileno()).st_size
                info = await client.put(bucket, upload.key, read_file(file, size, progress), size=size)
        except FileNotFoundError as error:
            raise NotFound(f"{upload.path} vanished before it was sent") from error
    return {"bucket": bucket, "key": upload.key, "size": info.get("size", upload.size), "etag": info.get("etag", "")}
