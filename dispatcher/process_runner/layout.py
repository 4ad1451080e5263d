"""The folder of one Job on disk: the truth from which the next life of Penstock goes on.

    plan.json    what was submitted, written whole before anything starts; a folder without it is no Job
    script.sh    the user's script
    launcher     "<pid>:<start time>:<name of its FIFO>", written before that launcher is told anything of this Job
    N/           an item: env         exports; its last line tells that staging is complete
                          in out work the input (or `.blank`, an empty file that may become it), the outputs, the
                                      working directory
                          log code    appended to by the launcher: output; "-" (= started), then the exit code (= ended)
                          why         error class, when the platform ended the item
    notes        appended to: what is about to be published (files are moved, so it is said before), how items ended

The folder is renamed away when the Job is forgotten, emptied, and used again: any of these files may be there empty,
from a Job before, and that means nothing. A kill can come between any two steps; each state on disk means one thing,
and `recovery` reads it.
"""

# Plain os calls, no Path objects: written for every item; a Path object costs more than the system call
# ruff: noqa: PTH101, PTH102, PTH103, PTH106, PTH108, PTH110, PTH116

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from dispatcher.process_runner.reuse import BLANK
from dispatcher.sidecar.environment import COMPLETE
from penstock.errors import InvalidInput, OutOfSpace, Unavailable
from penstock.model import ErrorClass, ItemResult, JobPlan

LAUNCHER = str(Path(__file__).parent.parent / "sidecar" / "launcher.sh")
SHELL = "/bin/sh"

#: Sub-folders of an item.
ITEM_PARTS = ("in", "out", "work")
# Without O_TRUNC: some file systems (ext4) send a file that was made empty and written again to the disk when it is
# closed, so that a crash never shows it empty. That costs ten times the write, for files that nobody needs after one.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 65536
_LONGEST_CODE = 64


class SavedJob(msgspec.Struct, frozen=True):
    """Content of plan.json."""

    boot: str
    plan: JobPlan


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `notes`; the last one of its kind counts."""

    item: int
    #: What it will have ended with once its outputs are published: tells "published and moved" from "never made".
    intent: ItemResult | None = None
    result: ItemResult | None = None


_encode = msgspec.json.Encoder().encode
_decode_job = msgspec.json.Decoder(SavedJob).decode
_decode_note = msgspec.json.Decoder(Note).decode


def write(path: str, data: bytes, mode: int = 0o666) -> None:
    """Make this the whole content of a file. Raises OSError."""
    descriptor = os.open(path, _CREATE, mode)
    try:
        if os.fstat(descriptor).st_size:
            # Torn by a kill it must not look whole: half of the old content might fit the new one.
            os.pwrite(descriptor, b"\0", 0)
            _write_from(descriptor, data, 1)
            os.ftruncate(descriptor, len(data))
            os.pwrite(descriptor, data[:1], 0)
        else:
            _write_from(descriptor, data, 0)
    finally:
        os.close(descriptor)


def _write_from(descriptor: int, data: bytes, start: int) -> None:
    while start < len(data):
        start += os.pwrite(descriptor, data[start:] if start else data, start)


def read(path: str) -> bytes | None:
    """None = there is no such file."""
    try:
        descriptor = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = piece = os.read(descriptor, _CHUNK)
        while len(piece) == _CHUNK:
            piece = os.read(descriptor, _CHUNK)
            data += piece
        return data
    finally:
        os.close(descriptor)


class JobFolder:
    """Names and small files of one Job. `root` is absolute and has no blanks or glob characters below the work
    folder.
    """

    __slots__ = ("name", "root")

    def __init__(self, workdir: str, name: str) -> None:
        self.name = name
        self.root = f"{workdir}/{name}"

    def create(self, plan: JobPlan, boot: str, spare: Callable[[str], bool] | None = None) -> None:
        """Everything up to the launcher's start. `spare` puts a used but empty folder there, if it can. Raises
        InvalidInput, OutOfSpace, Unavailable; nothing is left then.
        """
        try:
            saved = _encode(SavedJob(boot, plan))
        except UnicodeEncodeError as error:
            raise InvalidInput("the plan holds a name or value that is no Unicode text", where=plan.name) from error
        try:
            if spare is None or not spare(self.root):
                os.makedirs(self.root, exist_ok=True)
            write(f"{self.root}/script.sh", plan.script.encode("utf-8", "surrogateescape"))
            # The secrets are in it: nobody else may read. Torn by a kill it is no plan, and the folder no Job.
            write(f"{self.root}/plan.json", saved, 0o600)
        except OSError as error:
            remove_tree(self.root)
            raise trouble(error, self.root) from error

    def saved(self) -> SavedJob | None:
        """None = the Job was never written down whole, or is already forgotten."""
        raw = read(f"{self.root}/plan.json")
        if raw is None:
            return None
        try:
            return _decode_job(raw)
        except msgspec.MsgspecError:  # torn by a power failure: it never became durable, so nobody counts on it
            return None

    def note_launcher(self, pid: int, start: int, fifo: str) -> None:
        """Raises OSError."""
        write(f"{self.root}/launcher", f"{pid}:{start}:{fifo}".encode())

    def launcher(self) -> tuple[int, int, str] | None:
        try:
            pid, start, fifo = (read(f"{self.root}/launcher") or b"").decode().split(":")
            return int(pid), int(start), fifo
        except (OSError, ValueError):
            return None

    def launcher_ns(self) -> int:
        """When the launcher was noted."""
        try:
            return os.stat(f"{self.root}/launcher").st_mtime_ns
        except OSError:
            return 0

    def note(self, notes: Iterable[Note]) -> None:
        """Append, all in one step: one file for the whole Job costs a fraction of one per item. Raises OSError."""
        # Begins with a line end: what a full disk cut short before cannot swallow the next line.
        data = b"\n" + b"".join(_encode(note) + b"\n" for note in notes)
        descriptor = os.open(f"{self.root}/notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def notes(self) -> tuple[dict[int, ItemResult], dict[int, ItemResult]]:
        """Results and intents by item. Lines torn by a kill or a power failure count as never written."""
        results: dict[int, ItemResult] = {}
        intents: dict[int, ItemResult] = {}
        for line in (read(f"{self.root}/notes") or b"").splitlines():
            try:
                note = _decode_note(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if note.result is not None:
                results[note.item] = note.result
            if note.intent is not None:
                intents[note.item] = note.intent
        return results, intents

    def item(self, index: int) -> ItemFolder:
        return ItemFolder(f"{self.root}/{index}")


class ItemFolder:
    __slots__ = ("blank", "env", "inputs", "log", "outputs", "root", "work")

    def __init__(self, root: str) -> None:
        self.root = root
        self.env = f"{root}/env"
        self.log = f"{root}/log"
        self.inputs = f"{root}/in"
        self.blank = f"{root}/in/{BLANK}"
        self.outputs = f"{root}/out"
        self.work = f"{root}/work"

    def create(self, spare: Callable[[str], bool] | None = None) -> bool:
        """Make the folders anew and empty. `spare` puts a used but empty one there, if it can; True = it did. Raises
        OSError.
        """
        if spare is not None and spare(self.root):
            return True
        try:
            os.mkdir(self.root)
        except FileExistsError:
            remove_tree(self.root)
            os.mkdir(self.root)
        for part in ITEM_PARTS:
            os.mkdir(f"{self.root}/{part}")
        return False

    def staged(self) -> bool:
        raw = read(self.env)
        return raw is not None and raw.endswith(COMPLETE)

    def started(self) -> bool:
        """Its launcher has begun with it (`code` says so before the script runs)."""
        return bool(read(f"{self.root}/code"))

    def has_log(self) -> bool:
        """False once it was archived, too."""
        return os.path.exists(self.log)

    def code(self) -> int | None:
        """Exit code as the launcher wrote it; None = not ended (or a file that user code made up)."""
        return self.end()[0]

    def end(self) -> tuple[int | None, int]:
        """Exit code, and when it was written (ms): the script's end, however late somebody looks."""
        try:
            descriptor = os.open(f"{self.root}/code", _READ)
        except OSError:
            return None, 0
        try:
            words = os.read(descriptor, _LONGEST_CODE).split()
            if not words or not words[-1].isdigit() or len(words[-1]) > 3:
                return None, 0
            return int(words[-1]) & 0xFF, os.fstat(descriptor).st_mtime_ns // 1_000_000
        except OSError:  # user code put something else there
            return None, 0
        finally:
            os.close(descriptor)

    def staged_ms(self) -> int:
        return _modified_ms(self.env)

    def note_why(self, why: ErrorClass) -> None:
        with contextlib.suppress(OSError):  # only makes the report of a later life more exact
            write(f"{self.root}/why", why.value.encode())

    def why(self) -> ErrorClass | None:
        raw = read(f"{self.root}/why")
        try:
            return ErrorClass(raw.decode()) if raw else None
        except ValueError:
            return None


def _modified_ms(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns // 1_000_000
    except OSError:
        return 0


def remove_tree(path: str) -> None:
    """Remove a folder whatever is in it, and whatever rights a script took away. Missing is fine; the rest is tried."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError:
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
        shutil.rmtree(path, ignore_errors=True)


def trouble(error: OSError, where: str) -> Unavailable:
    """Translate an error of the work folder's disk."""
    if error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return OutOfSpace(f"{where}: no space is left for the Job's files; free some or move the data folder")
    return Unavailable(f"{where}: the Job's files cannot be written: {error.strerror}")
