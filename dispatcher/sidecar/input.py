"""The program `input`: brings each item's input and variables into the pod, one item ahead of the script.

It only reads from the store. What became of each item it tells `output`, which decides everything else; it also watches
over `output`: if that crashes, nobody would ever tell the launcher to end, so `input` does.
"""

# Plain os calls, no Path objects: pathlib is not even imported, which is a part of the start-up time.
# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH123

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping

import msgspec

from dispatcher.sidecar import environment, events, pair, pod
from dispatcher.sidecar.events import ItemInput, ObjectRef, Shape
from dispatcher.sidecar.s3 import S3
from dispatcher.sidecar.staging import MEMORY_BYTES, check_hops, check_script, hops_of, stage_error
from penstock.clock import now_ms
from penstock.errors import NotFound, PenstockError
from penstock.model import SYSTEM_BUCKET, BucketEvent, JobItem, ObjectInfo, Submission
from penstock.model.job import EXIT_AGENT_LOST

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
#: Made beforehand and open to every user id, so that what the launcher writes there can be read whatever its umask.
_LAUNCHERS_FILES = ("log", "code", "ended", "pid")
_GRACE_S = 10.0
_REPEAT_S = 0.5
_decode = msgspec.json.Decoder(pair.FromOutput).decode


class OutputGone(Exception):
    """`output` has crashed."""


class Ended(Exception):
    """`output` has said that everything is over."""


class Input:
    def __init__(self, place: pod.Places, environ: Mapping[str, str]) -> None:
        """Raises OSError, InvalidInput."""
        # What the launcher says before `output` listens stays in the FIFO while we hold it open.
        self._kept = [os.open(f"{place.run}/{name}", os.O_RDWR | os.O_NONBLOCK) for name in (pod.ALIVE, pod.ACK)]
        self._listener = pair.listen(place.pair)
        self._listener.setblocking(False)
        self._link: pair.Link | None = None
        self._unsaid: list[pair.FromInput] = []
        self._place = place
        self._turn = 0
        self._plan = pod.read_plan(place)
        self._items = pod.read_items(place)
        self._store = S3(pod.store_settings(place, environ), self._listen)

    def run(self) -> int:
        """Returns the exit code."""
        try:
            for index, item in enumerate(self._items):
                self._listen()
                while index > self._turn + 1:
                    self._wait()
                if index >= self._turn:
                    self._say(self._stage(index, item))
            while True:
                self._wait()
        except Ended:
            return 0
        except OutputGone:
            self._end_launcher()
            return EXIT_AGENT_LOST

    # Talking

    def _wait(self) -> None:
        source = self._listener if self._link is None else self._link
        select.select([source], [], [])
        self._listen()

    def _listen(self) -> None:
        """Hear what has come; does not wait. Raises Ended, OutputGone."""
        if self._link is None:
            with contextlib.suppress(BlockingIOError):
                connection, _ = self._listener.accept()
                connection.setblocking(True)
                self._link = pair.Link(connection)
                for message in self._unsaid:
                    self._link.say(message)
                self._unsaid.clear()
        if self._link is None:
            return
        for line in self._link.lines():
            message = _decode(line)
            if isinstance(message, pair.Turn):
                self._turn = message.index
            elif isinstance(message, pair.Over):
                raise Ended
            else:
                self._release()
        if self._link.ended:
            raise OutputGone

    def _say(self, message: pair.FromInput) -> None:
        if self._link is None:
            self._unsaid.append(message)
        else:
            self._link.say(message)

    def _release(self) -> None:
        for descriptor in self._kept:
            os.close(descriptor)
        self._kept.clear()

    # Staging

    def _stage(self, index: int, item: JobItem) -> pair.FromInput:
        try:
            return self._try(index, item)
        except (PenstockError, OSError) as error:
            refusal = stage_error(error)
            return pair.Refused(index=index, error=refusal.error, message=refusal.message, exit_code=refusal.exit_code)

    def _try(self, index: int, item: JobItem) -> pair.Staged:
        check_script(self._plan)
        folder = self._place.item(index)
        self._make(folder)
        given, target = self._classify(item, f"{folder}/in")
        hops = self._hops(item)
        check_hops(hops, self._plan)
        if self._plan.file_stage_in:  # OSCAR's spelling: the script reads the object itself
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            target = ""
        else:
            self._bring(given, target)
        self._write_environment(folder, given, target, item.traceparent)
        return pair.Staged(index=index, hops=hops, staged_ms=now_ms(), raw=given.shape is Shape.RAW)

    def _make(self, folder: str) -> None:
        """Open to every user id: the launcher and the script run as the image's user."""
        for path in (folder, f"{folder}/in", f"{folder}/out"):
            os.mkdir(path, 0o777)
        for name in _LAUNCHERS_FILES:
            os.close(os.open(f"{folder}/{name}", _CREATE, 0o666))

    def _classify(self, item: JobItem, folder: str) -> tuple[ItemInput, str]:
        trigger = item.trigger
        if isinstance(trigger, Submission) and trigger.body_key is not None:
            return self._classify_large(item, trigger, folder)
        given = events.of_item(item)
        return given, f"{folder}/{given.file_name}"

    def _classify_large(self, item: JobItem, trigger: Submission, folder: str) -> tuple[ItemInput, str]:
        """A body that lies in the store: classified in memory when small, else turned into the file directly."""
        info = self._store.head(SYSTEM_BUCKET, trigger.body_key or "")
        if info.size <= MEMORY_BYTES:
            body = self._store.read(SYSTEM_BUCKET, info.key, limit=MEMORY_BYTES)
            given = events.of_item(item, body)
            return given, f"{folder}/{given.file_name}"
        name = f"event-file-{item.invocation}"
        target = f"{folder}/{name}"
        self._download(info, target)
        with open(target, "rb") as stream:
            head = stream.read(4096)
        if events.is_plain_file(head, trigger.content_type) is False:
            from dispatcher.sidecar.staging import decode_file  # noqa: PLC0415 - beside its only, rare use

            decode_file(target)
            os.chmod(target, 0o666)  # noqa: S103 - see `_make`
        # Too large for a variable, and the file is the event: EVENT is left out.
        return ItemInput(shape=Shape.RAW, payload=None, object=None, file_name=name), target

    def _hops(self, item: JobItem) -> int:
        """Hops of the input. Events found by a listing do not know them; the object's metadata does."""
        trigger = item.trigger
        if not isinstance(trigger, BucketEvent):
            return 0
        if trigger.hops is not None:
            return trigger.hops
        return hops_of(self._store.head(trigger.bucket, trigger.key, version_id=trigger.version_id))

    def _bring(self, given: ItemInput, target: str) -> None:
        if given.object is not None:
            self._download(self._found(given.object), target)
        elif given.payload is not None:
            _write(target, given.payload)

    def _found(self, wanted: ObjectRef) -> ObjectInfo:
        if wanted.info is not None:
            return wanted.info
        try:
            return self._store.head(wanted.bucket, wanted.key)
        except NotFound:
            if not wanted.raw_key:
                raise
            return self._store.head(wanted.bucket, wanted.raw_key)

    def _download(self, info: ObjectInfo, target: str) -> None:
        descriptor = os.open(target, _CREATE, 0o666)
        with open(descriptor, "wb", buffering=0) as sink:
            self._store.fetch(info, lambda piece: _all(sink.fileno(), piece))

    def _write_environment(self, folder: str, given: ItemInput, input_path: str, trace: str) -> None:
        """The last step of staging. The script keeps the image's working directory."""
        event_path = f"{folder}/event"
        variables = environment.item_variables(
            given,
            input_dir=f"{folder}/in",
            output_dir=f"{folder}/out",
            input_path=input_path,
            event_path=event_path if given.event else input_path,
            trace=trace,
        )
        if environment.needs_event_file(given.event):
            _write(event_path, given.event)
        _write(f"{folder}/env.new", environment.render(variables))
        os.rename(f"{folder}/env.new", f"{folder}/env")

    # Without `output`

    def _end_launcher(self) -> None:
        """Make the launcher end, in whatever state it is, and its item with it; returns when it is gone."""
        alive = os.open(f"{self._place.run}/{pod.ALIVE}", os.O_RDONLY | os.O_NONBLOCK)
        words = os.open(f"{self._place.run}/{pod.ACK}", os.O_RDWR | os.O_NONBLOCK)
        kill_at = 0.0
        while True:
            now = time.monotonic()
            order = f"cancel {self._turn}\n" if now > kill_at else ""
            kill_at = kill_at or now + _GRACE_S
            with contextlib.suppress(BlockingIOError):
                os.write(words, f"\n{order}done {EXIT_AGENT_LOST}\n".encode())
            select.select([alive], [], [], _REPEAT_S)
            data = _read(alive)
            if data is None:
                return
            if data:
                self._release()  # it has come: from now on its end shows


def _read(descriptor: int) -> bytes | None:
    """None = nobody holds the other end."""
    try:
        return os.read(descriptor, 65536) or None
    except BlockingIOError:
        return b""


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, _CREATE, 0o666)
    try:
        _all(descriptor, data)
    finally:
        os.close(descriptor)


def _all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def main(place: pod.Places, environ: Mapping[str, str]) -> int:
    """Raises what makes the pod's start impossible."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `output` tells when it is over
    return Input(place, environ).run()
