"""The data folder of embedded mode: its layout, its lock, its format number and its credential.

One `penstock up` owns a data folder at a time: two dispatchers on one ledger would run everything twice. The lock is a
kernel lock on a file, so a process that dies, however, gives it back. The folder is closed to other users, because it
holds the credential and users' data. A folder written by a newer version is refused instead of guessed at.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.errors import Conflict, InvalidInput, OutOfSpace, PenstockError, Unavailable
from penstock.private_files import write_private

#: Raised by one when a change of the layout or the databases is not readable by older versions.
FORMAT = 1

USER = "admin"
_TOKEN_BYTES = 32


@dataclass(frozen=True)
class Layout:
    """Where things lie below the data folder."""

    root: Path

    @property
    def buckets(self) -> Path:
        """One folder per bucket; people and programs drop files here."""
        return self.root / "buckets"

    @property
    def db(self) -> Path:
        """The log, the registry, the ledger and the watcher's memory."""
        return self.root / "db"

    @property
    def work(self) -> Path:
        """Working folders of running jobs."""
        return self.root / "work"

    @property
    def volumes(self) -> Path:
        """Folders that outlive jobs."""
        return self.root / "volumes"

    @property
    def tmp(self) -> Path:
        """Half-written files; emptied at start."""
        return self.root / "tmp"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def format(self) -> Path:
        return self.db / "format"


@dataclass(frozen=True, repr=False)
class Credentials:
    user: str
    token: str
    #: The key pair of S3; "" until S3 was served for the first time.
    s3_access_key: str = ""
    s3_secret_key: str = ""


@contextmanager
def opened(root: Path) -> Iterator[Layout]:
    """Make and lock the data folder for as long as the block runs.

    Raises InvalidInput (not a folder, not writable, made by a newer version), Conflict (another process has it).
    """
    layout = Layout(root.expanduser().absolute())
    with _translated(layout.root):
        _make_private(layout.root)
        handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(handle, layout)
        with _translated(layout.root):
            _check_format(layout)
            for folder in (layout.buckets, layout.db, layout.work, layout.volumes, layout.tmp):
                folder.mkdir(mode=0o700, exist_ok=True)
            _empty(layout.tmp)
            _write_format(layout)
        yield layout
    finally:
        # The file stays: removing it would let a third process lock a new one while a second still waits on this.
        os.close(handle)


def _make_private(root: Path) -> None:
    """Make the folder, closed to others. An existing one is closed too: it may have been made by hand."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_mode & 0o077:
        if any(root.iterdir()) and not (root / "db").is_dir():
            raise InvalidInput(
                "this folder holds other things and is open to other users; name a new or empty folder", where=str(root)
            )
        root.chmod(0o700)


def _take(handle: int, layout: Layout) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise Conflict(
            f"{layout.root} is in use by another `penstock up` (process {owner}); stop that one, or choose another "
            "folder with --data"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def _check_format(layout: Layout) -> None:
    try:
        text = layout.format.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    if not text.isdigit():
        raise InvalidInput(f"the format number is {text[:20]!r}, not a number", where=str(layout.format))
    if int(text) > FORMAT:
        raise InvalidInput(
            f"this data folder was made by a newer version of Penstock (format {text}; this version reads up to "
            f"{FORMAT}); use that version, or another folder with --data",
            where=str(layout.root),
        )


def _empty(folder: Path) -> None:
    """What an earlier life left half-written."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_format(layout: Layout) -> None:
    if not layout.format.exists():
        write_private(layout.format, f"{FORMAT}\n")


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise translated(error, root, "the data folder cannot be used") from error


def translated(error: OSError, where: Path, what: str) -> PenstockError:
    """The operating system's refusal as an error of ours."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutOfSpace(f"{where}: {what}: {reason}")
    if error.errno in {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ENOENT, errno.EISDIR}:
        return InvalidInput(f"{what}: {reason}", where=str(error.filename or where))
    return Unavailable(f"{where}: {what}: {reason}")


def read_credentials(path: Path) -> Credentials | None:
    """What an earlier start generated, None when there is none. Raises InvalidInput: unreadable or damaged, which is
    not healed by making new ones, because clients would be locked out without a word.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translated(error, path, "the credentials file cannot be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # The parser's text may quote the file, and the file holds a secret.
        raise InvalidInput(
            "the credentials file is not valid TOML; repair it, or delete it and a new credential is made",
            where=str(path),
        ) from error
    user, token = document.get("user"), document.get("token")
    if not isinstance(user, str) or not isinstance(token, str) or len(token) < _TOKEN_BYTES:
        raise InvalidInput(
            f"the credentials file needs a user and a token of at least {_TOKEN_BYTES} characters; repair it, or "
            "delete it and a new credential is made",
            where=str(path),
        )
    return Credentials(user, token, str(document.get("s3_access_key", "")), str(document.get("s3_secret_key", "")))


def keep_credentials(path: Path, server: str, known: Credentials | None, *, s3_endpoint: str = "") -> Credentials:
    """Write the file with the server's address; the token is generated once and survives restarts.

    With `s3_endpoint` the key pair of S3 too, generated likewise.
    """
    credentials = known or Credentials(USER, secrets.token_hex(_TOKEN_BYTES))
    if s3_endpoint and not (credentials.s3_access_key and credentials.s3_secret_key):
        credentials = replace(
            credentials, s3_access_key=secrets.token_hex(10).upper(), s3_secret_key=secrets.token_hex(20)
        )
    values = {
        "server": server,
        "user": credentials.user,
        "token": credentials.token,
        "s3_endpoint": s3_endpoint,
        "s3_access_key": credentials.s3_access_key,
        "s3_secret_key": credentials.s3_secret_key,
    }
    try:
        write_private(path, _toml(**{name: value for name, value in values.items() if value}))
    except OSError as error:
        raise translated(error, path, "the credentials file cannot be written") from error
    return credentials


def state_file(port: int) -> Path:
    """Where a running server tells the command line of the same user that it is there."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "penstock" / "servers" / f"{port}.toml"


@contextmanager
def announced(port: int, server: str, credentials: Path) -> Iterator[None]:
    """Keep the state file for as long as the block runs. A home that cannot be written to costs only the convenience
    that the command line finds the server by itself, so it is no error.
    """
    path = state_file(port)
    try:
        write_private(path, _toml(server=server, credentials=str(credentials), pid=os.getpid()))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            if f"pid = {os.getpid()}\n" in path.read_text(encoding="utf-8"):
                path.unlink()


def _toml(**values: str | int) -> str:
    """Flat TOML: JSON's escapes of a string are a subset of TOML's."""
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())
