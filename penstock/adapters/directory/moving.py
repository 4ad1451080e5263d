"""Files that are moved into place instead of copied, many at a time, in four steps.

`begin_moves` looks, stamps and opens everything, `place_moves` gives the files their names, `end_moves` tells what
became of them: dozens of short system calls, cheaper on the event loop than in a thread that takes the interpreter from
it before and after each. `sync_moves` and `confirm_moves` have only what waits for the disk, and run in threads.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock.adapters.directory import copying, names, paths, trouble
from penstock.adapters.directory.publishing import TRIES, UMASK, Publisher, rename, source_trouble, with_metadata
from penstock.errors import PenstockError
from penstock.model import ObjectInfo
from penstock.model.buckets import legal_bucket


class Move(NamedTuple):
    """A file to be moved into place."""

    source: Path
    bucket: str
    key: str
    metadata: Mapping[str, str] | None
    abort: copying.Abort


#: None = it cannot be moved and must be copied.
Answer = ObjectInfo | PenstockError | copying.Aborted | None


class Moving:
    """One file on its way. What went wrong is its `answer` at once; `descriptor` is the file itself, whose state at the
    end is the answer: another writer may put another one in its place at any moment.
    """

    __slots__ = ("answer", "beside", "descriptor", "folder", "move", "name", "replaced", "settled", "source")

    def __init__(self, move: Move) -> None:
        self.move = move
        self.source = str(move.source)
        self.answer: Answer = None
        #: Nothing is left to be done: the answer stands.
        self.settled = False
        self.descriptor = -1
        self.folder = -1
        self.name = ""
        #: Metadata that is still to be kept in a file of its own.
        self.beside = b""
        #: Etag of the object that was there before, "" = none, or nothing is kept beside it.
        self.replaced = ""

    def settle(self, answer: Answer) -> None:
        self.answer = answer
        self.settled = True


class Turn:
    """The files of one turn and the folders that they share. `end_moves` closes what it holds open."""

    __slots__ = ("folders", "grown", "movings")

    def __init__(self, movings: list[Moving]) -> None:
        self.movings = movings
        self.folders: dict[tuple[str, ...], int] = {}
        #: Folders that got a new child on the way.
        self.grown: list[int] = []

    def close(self) -> None:
        descriptors = [moving.descriptor for moving in self.movings if moving.descriptor >= 0]
        for descriptor in (*descriptors, *self.folders.values(), *self.grown):
            os.close(descriptor)


class Mover(Publisher):
    def publish_moves(self, moves: Sequence[Move]) -> list[Answer]:
        """All steps. Per file what became of it, as it would be returned or raised."""
        return self.finish_moves(self.begin_moves(moves))

    def finish_moves(self, turn: Turn) -> list[Answer]:
        """All steps but the first, in a thread."""
        try:
            self.sync_moves(turn.movings)
            self.place_moves(turn)
            self.confirm_moves(turn)
        finally:
            answers = self.end_moves(turn)
        return answers

    def begin_moves(self, moves: Sequence[Move]) -> Turn:
        """All that does not wait for the disk."""
        turn = Turn([Moving(move) for move in moves])
        for moving in turn.movings:
            move = moving.move
            try:
                self._begin(moving, turn)
            except PenstockError as error:
                moving.settle(error)
            except OSError as error:
                moving.settle(_refusal(error, move))
        return turn

    def _begin(self, moving: Moving, turn: Turn) -> None:
        move = moving.move
        *folders, moving.name = names.split_key(move.key)
        if not legal_bucket(move.bucket):
            raise trouble.no_bucket(move.bucket)
        try:
            moving.descriptor = os.open(moving.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP:
                moving.settle(None)
                return
            raise source_trouble(error, move.source, move.bucket, move.key) from error
        if not self._movable(moving.descriptor):
            moving.settle(None)
            return
        moving.folder = self._folder_of(turn, (move.bucket, *folders), move)
        now = time.time_ns()
        os.utime(moving.descriptor, ns=(now, now))  # as in S3, a version is as old as its upload
        moving.beside = self.metadata.attach(moving.descriptor, move.metadata)
        moving.replaced = self.replaced_by(moving.folder, moving.name)

    def _movable(self, descriptor: int) -> bool:
        """A file with a second name, or open for writing somewhere, could still change after it was published."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
            return False
        if status.st_dev != self.device or paths.held_by_writer(descriptor):
            return False
        if stat.S_IMODE(status.st_mode) != 0o666 & ~UMASK:
            os.fchmod(descriptor, 0o666 & ~UMASK)
        return True

    def _folder_of(self, turn: Turn, folders: tuple[str, ...], move: Move) -> int:
        """The open folder of a key, made if need be. Raises OSError, NotFound, Unsupported."""
        folder = turn.folders.get(folders)
        if folder is None:
            try:
                folder = paths.walk(self.root, folders)
            except OSError as error:
                if error.errno not in trouble.ABSENT:
                    raise
                folder, grown = self.make_folders(move.bucket, move.key, folders)
                turn.grown += grown
            turn.folders[folders] = folder
        return folder

    def sync_moves(self, movings: Sequence[Moving]) -> None:
        """Put some of a turn's files on disk, in a thread."""
        for moving in movings:
            move = moving.move
            if moving.settled:
                continue
            try:
                copying.check(move.abort)
                if moving.beside:
                    self.metadata.keep_beside(move.bucket, move.key, moving.descriptor, moving.beside)
                os.fsync(moving.descriptor)
            except (PenstockError, copying.Aborted) as error:
                moving.settle(error)
            except OSError as error:
                moving.settle(_refusal(error, move))

    def place_moves(self, turn: Turn) -> None:
        """Give the files that are on disk their names."""
        for moving in turn.movings:
            if moving.settled:
                continue
            try:
                self._place_moving(moving, turn)
            except (PenstockError, copying.Aborted) as error:
                moving.settle(error)
            except OSError as error:
                moving.settle(_refusal(error, moving.move))

    def _place_moving(self, moving: Moving, turn: Turn) -> None:
        move = moving.move
        copying.check(move.abort)
        for _ in range(TRIES):
            if rename(None, moving.source, moving.folder, move.bucket, move.key, if_absent=False):
                return
            # Somebody deleted the folder under our feet: it is made anew.
            folders = (move.bucket, *move.key.split("/")[:-1])
            moving.folder, grown = self.make_folders(move.bucket, move.key, folders)
            turn.grown += [*grown, moving.folder]
        moving.settle(trouble.restless(move.bucket, move.key))

    def confirm_moves(self, turn: Turn) -> None:
        """Put the names on disk, in a thread. The files share the syncs of their folders, so none is durable before all
        are in place.
        """
        placed = [moving for moving in turn.movings if not moving.settled]
        if not placed:
            return
        folders = dict.fromkeys((*turn.grown, *(moving.folder for moving in placed)))
        failed = {folder: error for folder in folders if (error := self._synced(folder)) is not None}
        for moving in placed if failed else ():
            for folder in (moving.folder, *turn.grown):
                if folder in failed:
                    moving.settle(trouble.translate(failed[folder], moving.move.bucket, moving.move.key, "written"))
                    break

    def _synced(self, folder: int) -> OSError | None:
        try:
            self.sync.sync(folder)
        except OSError as error:
            return error
        return None

    def end_moves(self, turn: Turn) -> list[Answer]:
        """What became of each file; closes what the turn holds open."""
        try:
            for moving in turn.movings:
                if not moving.settled:
                    self._tell(moving)
        finally:
            turn.close()
        return [moving.answer for moving in turn.movings]

    def _tell(self, moving: Moving) -> None:
        move = moving.move
        try:
            if moving.replaced:
                self.metadata.forget(move.bucket, move.key, moving.replaced)
            info = paths.info_of(move.bucket, move.key, os.fstat(moving.descriptor))
            moving.settle(with_metadata(info, move.metadata))
        except OSError as error:
            moving.settle(trouble.translate(error, move.bucket, move.key, "written"))


def _refusal(error: OSError, move: Move) -> Answer:
    """What the system refused, as an answer: another file system or a missing right may still allow a copy."""
    if error.errno in {errno.EXDEV, errno.EPERM}:
        return None
    return trouble.translate(error, move.bucket, move.key, "written")
