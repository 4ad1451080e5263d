"""From the files a script left in TMP_OUTPUT_DIR to objects: walk, filter, check, publish.

Three steps, so that a crash between any two of them is harmless: `prepare` decides everything (which files, where to,
with which checksum) and changes nothing; the caller may keep the plan; `publish` carries it out, looking first
whether the same output of the same invocation is there already. One failed upload stops nothing else, and the result
says what is missing.
"""

# Plain os calls, no Path objects: on the path of every item, where an object costs more than the system call.
# ruff: noqa: PTH116

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.errors import AlreadyExists, NotFound, PenstockError
from penstock.model import ObjectInfo, OutputObject, StorageIO
from penstock.model.objects import META_CHECKSUM, META_HOPS, META_INPUT, META_INVOCATION
from penstock.ports import ObjectStore

#: Up to this size reading and hashing in the event loop costs less than a thread's round trip.
SMALL_BYTES = 64 * 1024
#: Uploads of one item at a time: enough to share disk syncs, few enough to leave other items their turn.
_UPLOADS = 8
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A regular file below the output folder. `name` is its path relative to it, blanks kept."""

    name: str
    path: str
    size: int
    #: The only name of its content, so it may be moved away instead of copied.
    sole: bool = True


class Walk(msgspec.Struct, frozen=True):
    files: list[OutputFile]
    #: One sentence per entry that was passed over.
    notes: list[str]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where an output comes from; kept as its metadata."""

    invocation: str
    #: Identity of the input.
    input: str
    #: Hops of the input; the output has one more.
    hops: int


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One file on its way to one place."""

    name: str
    path: str
    bucket: str
    key: str
    size: int
    sha256: str
    consume: bool
    provider: str = "minio.default"


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    targets: tuple[Target, ...] = ()
    #: What cannot go up and why, as sentences; each makes the item fail with PUBLISH.
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    #: Everything the walk found, wherever it goes; the synchronous answer is made from it.
    files: tuple[OutputFile, ...] = ()


class Published(msgspec.Struct, frozen=True):
    outputs: tuple[OutputObject, ...]
    missing: tuple[str, ...]


def walk(root: str) -> Walk:
    """All regular files below `root` in order of their names. Hidden and empty files count; folders reached through
    links do not; a link to a file counts when it stays inside. Raises nothing for what cannot be read: it is noted.
    """
    files: list[OutputFile] = []
    notes: list[str] = []
    _walk(root, "", root, files, notes)
    if len(files) > 1:
        files.sort(key=lambda file: file.name)
    return Walk(files, notes)


def _walk(folder: str, prefix: str, root: str, files: list[OutputFile], notes: list[str]) -> None:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        notes.append(f"the output folder {prefix or '.'} cannot be read: {error.strerror}")
        return
    for entry in found:
        name = prefix + entry.name
        if not _is_text(name):
            notes.append(f"the name {printable(name)} is no UTF-8 text, so no object can have it")
            continue
        if entry.is_symlink():
            _link(entry.path, name, root, files, notes)
        elif entry.is_dir(follow_symlinks=False):
            _walk(entry.path, f"{name}/", root, files, notes)
        elif entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):  # removed by something the script left running
                status = entry.stat(follow_symlinks=False)
                files.append(OutputFile(name=name, path=entry.path, size=status.st_size, sole=status.st_nlink == 1))
        else:
            notes.append(f"{name} is no file but a FIFO, socket or device, and was passed over")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A file name as text: bytes that are none become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _link(path: str, name: str, root: str, files: list[OutputFile], notes: list[str]) -> None:
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
    except OSError:
        notes.append(f"the link {name} leads nowhere and was passed over")
        return
    if not target.startswith(f"{os.path.realpath(root)}/"):
        notes.append(f"the link {name} leads out of the output folder and was passed over")
    elif stat.S_ISREG(status.st_mode):
        files.append(OutputFile(name=name, path=target, size=status.st_size, sole=False))
    else:
        notes.append(f"{name} is a link to something other than a file and was passed over")


def route(name: str, outputs: Sequence[StorageIO]) -> list[tuple[StorageIO, str]]:
    """Every output that takes a file of this relative name, with the object key there."""
    return [(output, output.key_prefix + name) for output in outputs if output.accepts(name)]


async def prepare(root: str, outputs: Sequence[StorageIO], *, keep: bool = False) -> Prepared:
    """Decide what goes where. `keep` = files are needed afterwards, so none is moved away."""
    found = walk(root) if _is_small(root) else await asyncio.to_thread(walk, root)
    targets: list[Target] = []
    missing: list[str] = []
    # A file that is linked to inside the folder must still be there when the link's turn comes.
    shared = {file.path for file in found.files if not file.sole}
    for file in found.files:
        places = route(file.name, outputs)
        own = [(output, key) for output, key in places if output.own_store and output.provider_id == "default"]
        missing += [_unavailable(file.name, output) for output, key in places if (output, key) not in own]
        if not own:
            continue
        try:
            checksum = await _examine(file)
        except OSError as error:
            missing.append(f"{file.name} cannot be read: {error.strerror}")
            continue
        consume = file.sole and not keep and len(places) == 1 and file.path not in shared
        targets += [
            Target(
                name=file.name,
                path=file.path,
                bucket=output.bucket,
                key=key,
                size=file.size,
                sha256=checksum,
                consume=consume,
            )
            for output, key in own
        ]
    return Prepared(targets=tuple(targets), missing=tuple(missing), notes=tuple(found.notes), files=tuple(found.files))


def _is_small(root: str) -> bool:
    """Tell by one look whether a walk can be done in the event loop: no sub-folders and not many entries."""
    try:
        status = os.stat(root)
    except OSError:
        return True
    return status.st_nlink <= 2 and status.st_size <= 4096


def _unavailable(name: str, output: StorageIO) -> str:
    return (
        f"{name} was not uploaded to {output.provider}.{output.provider_id}:{output.path}: this storage provider is "
        "not available in embedded mode, only the product's own store (minio.default) is"
    )


async def _examine(file: OutputFile) -> str:
    if file.size <= SMALL_BYTES:
        return _digest(file.path)
    return await asyncio.to_thread(_digest, file.path)


def _digest(path: str) -> str:
    """SHA-256 of a file. Raises OSError."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        data = os.read(descriptor, SMALL_BYTES + 1)
        if len(data) <= SMALL_BYTES:
            return hashlib.sha256(data).hexdigest()
        os.lseek(descriptor, 0, os.SEEK_SET)
        with open(descriptor, "rb", buffering=0, closefd=False) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    finally:
        os.close(descriptor)


def has_writer(descriptor: int) -> bool:
    """Tell whether any process has the file open for writing: a read lease is refused then. `descriptor` is open for
    reading only. Raises OSError where leases do not work (other owner, network file system).
    """
    # Somebody who opens the file in the instant of the lease makes the kernel signal us; SIGURG is ignored by default.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def metadata(lineage: Lineage, checksum: str) -> dict[str, str]:
    return {
        META_INVOCATION: lineage.invocation,
        META_INPUT: lineage.input,
        META_HOPS: str(lineage.hops + 1),
        META_CHECKSUM: checksum,
    }


async def publish(store: ObjectStore, prepared: Prepared, lineage: Lineage, *, force: bool = False) -> Published:
    """Upload everything; what fails is named in `missing` and stops nothing else."""
    targets = prepared.targets
    if len(targets) == 1:
        answers = [await _put(store, targets[0], lineage, force)]
    else:
        gate = asyncio.Semaphore(_UPLOADS)

        async def bounded(target: Target) -> OutputObject | str:
            async with gate:
                return await _put(store, target, lineage, force)

        answers = list(await asyncio.gather(*map(bounded, targets)))
    outputs = tuple(answer for answer in answers if isinstance(answer, OutputObject))
    missing = tuple(answer for answer in answers if isinstance(answer, str))
    return Published(outputs, prepared.missing + missing)


async def _put(store: ObjectStore, target: Target, lineage: Lineage, force: bool) -> OutputObject | str:
    try:
        if not force:
            there = await _already(store, target, lineage)
            if there is not None:
                return output_of(target, there, written=False)
        info = await _upload(store, target, lineage)
    except (PenstockError, OSError) as error:
        return f"{target.name} was not uploaded to {target.bucket}/{target.key}: {error}"
    return output_of(target, info, written=True)


async def _upload(store: ObjectStore, target: Target, lineage: Lineage) -> ObjectInfo:
    about = metadata(lineage, target.sha256)
    source = Path(target.path)
    try:
        return await store.publish(source, target.bucket, target.key, metadata=about, consume=target.consume)
    except NotFound:
        if not os.path.lexists(target.path):  # noqa: ASYNC240  (our own local file)
            raise
        # The bucket was deleted since the function was applied; an output bucket is made as it was then.
        with contextlib.suppress(AlreadyExists):
            await store.create_bucket(target.bucket)
        return await store.publish(source, target.bucket, target.key, metadata=about, consume=target.consume)


async def _already(store: ObjectStore, target: Target, lineage: Lineage) -> ObjectInfo | None:
    """The object, when it is this very output of this invocation: written again it would fire the next function
    again.
    """
    try:
        info = await store.head(target.bucket, target.key)
    except NotFound:
        return None
    about = info.metadata
    same = about.get(META_INVOCATION) == lineage.invocation and about.get(META_CHECKSUM) == target.sha256
    return info if same else None


def output_of(target: Target, info: ObjectInfo | None, *, written: bool) -> OutputObject:
    return OutputObject(
        bucket=target.bucket,
        key=target.key,
        size=target.size,
        sha256=target.sha256,
        etag="" if info is None else info.etag,
        written=written,
        provider=target.provider,
    )


async def confirm(store: ObjectStore, intended: Sequence[OutputObject], lineage: Lineage) -> list[OutputObject]:
    """Which of the outputs that an earlier life intended to write are there: those were written by it."""
    confirmed: list[OutputObject] = []
    for output in intended:
        with contextlib.suppress(NotFound):
            info = await store.head(output.bucket, output.key)
            about = info.metadata
            if about.get(META_INVOCATION) == lineage.invocation and about.get(META_CHECKSUM) == output.sha256:
                confirmed.append(msgspec.structs.replace(output, etag=info.etag))
    return confirmed
