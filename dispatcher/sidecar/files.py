"""Which of the files a script left go where: walk, filter, route. No network and no event loop: the parts that the
local runner and the pods' `output` share, and that a sidecar can import at once.
"""

# Plain os calls, no Path objects: on the path of every item, where an object costs more than the system call.
# ruff: noqa: PTH116

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence

import msgspec

from penstock.model import ObjectInfo, OutputObject, StorageIO
from penstock.model.function import SPEAKS_S3
from penstock.model.objects import META_CHECKSUM, META_HOPS, META_INPUT, META_INVOCATION, META_TRACE

#: The product's own store.
OWN = "minio.default"


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
    #: One sentence per folder that may hold outputs and may not be looked into.
    hidden: list[str] = []


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where an output comes from; kept as its metadata."""

    invocation: str
    #: Identity of the input.
    input: str
    #: Hops of the input; the output has one more.
    hops: int
    #: The invocation's place in its trace (W3C traceparent), "" = none.
    trace: str = ""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One file on its way to one place."""

    name: str
    path: str
    bucket: str
    key: str
    size: int
    sha256: str
    consume: bool
    provider: str = OWN

    @property
    def where(self) -> str:
        """For the end of a sentence."""
        place = f"{self.bucket}/{self.key}"
        return place if self.provider == OWN else f"{self.provider}:{place}"


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


class Routed(msgspec.Struct, frozen=True):
    """A file and all the places that it goes to."""

    file: OutputFile
    places: list[tuple[StorageIO, str]]
    #: It may be moved away instead of copied.
    consume: bool


def provider_of(output: StorageIO) -> str:
    """How an output's store is named: every spelling of the own one is the same."""
    return OWN if output.own_store else output.reference


def walk(root: str) -> Walk:
    """All regular files below `root` in order of their names. Hidden and empty files count; folders reached through
    links do not; a link to a file counts when it stays inside. Raises nothing for what cannot be read: it is noted.
    """
    files: list[OutputFile] = []
    found = Walk(files, [])
    _walk(root, "", root, found)
    if len(files) > 1:
        files.sort(key=lambda file: file.name)
    return found


def _walk(folder: str, prefix: str, root: str, into: Walk) -> None:
    files, notes = into.files, into.notes
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        hidden = into.hidden if isinstance(error, PermissionError) else notes
        hidden.append(f"the output folder {prefix or '.'} cannot be read: {error.strerror}")
        return
    for entry in found:
        name = prefix + entry.name
        if not _is_text(name):
            notes.append(f"the name {printable(name)} is no UTF-8 text, so no object can have it")
            continue
        if entry.is_symlink():
            _link(entry.path, name, root, files, notes)
        elif entry.is_dir(follow_symlinks=False):
            _walk(entry.path, f"{name}/", root, into)
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


def sort_out(
    found: Walk, outputs: Sequence[StorageIO], *, keep: bool = False, elsewhere: Collection[str] = ()
) -> tuple[list[Routed], list[str]]:
    """Where each file goes, and a sentence for each that cannot go where it should. `keep` = files are needed
    afterwards, so none may be moved away. `elsewhere` = the other stores that can be reached.
    """
    known = {OWN, *elsewhere}
    routed: list[Routed] = []
    missing = list(found.hidden)
    # A file that is linked to inside the folder must still be there when the link's turn comes.
    shared = {file.path for file in found.files if not file.sole}
    for file in found.files:
        places = route(file.name, outputs)
        reached = [(output, key) for output, key in places if provider_of(output) in known]
        if len(reached) < len(places):
            missing += [_unavailable(file.name, output) for output, _ in places if provider_of(output) not in known]
        if reached:
            consume = file.sole and not keep and len(places) == 1 and file.path not in shared
            routed.append(Routed(file, reached, consume))
    return routed, missing


def targets_of(routed: Routed, checksum: str) -> list[Target]:
    file = routed.file
    return [
        Target(
            name=file.name,
            path=file.path,
            bucket=output.bucket,
            key=key,
            size=file.size,
            sha256=checksum,
            consume=routed.consume,
            provider=provider_of(output),
        )
        for output, key in routed.places
    ]


def _unavailable(name: str, output: StorageIO) -> str:
    what = f"{name} was not uploaded to {provider_of(output)}:{output.path}"
    if output.provider not in SPEAKS_S3:
        return f"{what}: outputs can go to stores that speak S3 (minio, s3), and {output.provider} is none"
    endpoint = "endpoint, " if output.provider == "minio" else ""
    return (
        f"{what}: this store is not known here: the function's document must have its {endpoint}access_key and "
        f"secret_key under storage_providers.{provider_of(output)}"
    )


def metadata(lineage: Lineage, checksum: str) -> dict[str, str]:
    about = {
        META_INVOCATION: lineage.invocation,
        META_INPUT: lineage.input,
        META_HOPS: str(lineage.hops + 1),
        META_CHECKSUM: checksum,
    }
    return about | {META_TRACE: lineage.trace} if lineage.trace else about


def is_same(about: Mapping[str, str], lineage: Lineage, checksum: str) -> bool:
    """Whether an object of this metadata is this very output of this invocation: written again it would fire the next
    function again.
    """
    return about.get(META_INVOCATION) == lineage.invocation and about.get(META_CHECKSUM) == checksum


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
