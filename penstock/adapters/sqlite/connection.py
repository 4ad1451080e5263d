"""How a connection is opened: the same file mode, pragmas and schema check for every database of the product.

Kept apart from the threads that use the connections, because this is where a power cut or a version mix would do harm.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from penstock.errors import Unsupported

Synchronous = Literal["FULL", "NORMAL"]

_BUSY_TIMEOUT_S = 5.0
_PAGE_BYTES = 4096
_READER_CACHE_KIB = 2 * 1024


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between databases that only grow at their end and those that write all over."""

    #: Page cache of the writer. Small on purpose: memory must not follow the size of the backlog, and the system
    #: caches the file anyway.
    writer_cache_kib: int = 4 * 1024
    #: Pages of the write-ahead log that trigger a checkpoint. The more, the more often a page of a hot index is
    #: rewritten before it is copied once; the fewer, the shorter the pause of the writer meanwhile.
    checkpoint_pages: int = 2000


def open_writer(path: Path, synchronous: Synchronous, migrations: Sequence[str], tuning: Tuning) -> sqlite3.Connection:
    """Open, creating the file with mode 0600, and bring the schema up to date.

    Raises sqlite3.Error, OSError, Unsupported (the file was written by a newer version).
    """
    created = _create_private(path)
    connection = _connect(path, tuning.writer_cache_kib)
    try:
        # Refuse before anything is written, the journal mode included.
        _check_version(path, connection, len(migrations))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint={tuning.checkpoint_pages}")
        connection.execute(f"PRAGMA journal_size_limit={tuning.checkpoint_pages * _PAGE_BYTES}")
        _migrate(connection, migrations)
        if created:
            _sync_directory(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    connection = _connect(path, _READER_CACHE_KIB)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute(f"PRAGMA cache_size=-{cache_kib}")
    return connection


def _create_private(path: Path) -> bool:
    """Create the file before SQLite does, which would use the umask. Its -wal and -shm get the mode of the file."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        path.chmod(0o600)
        return False
    return True


def _check_version(path: Path, connection: sqlite3.Connection, known: int) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > known:
        raise Unsupported(
            f"{path} has schema version {version}, this Penstock knows versions up to {known}: "
            "use the newer Penstock that wrote it, or another data folder"
        )


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Run the missing migrations, each with its version number in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read under the lock: another process may have migrated while this one waited for it.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for number, script in enumerate(migrations[version:], start=version + 1):
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _sync_directory(folder: Path) -> None:
    """Make the new file's name durable: a synced file whose directory entry is lost is lost too."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
