"""The program `output`: leads the launcher through the items, publishes what each one leaves, and acknowledges.

One thread listens (launcher, `input`, cancels, TERM, clock) and never waits for the store; another one publishes, so
that the next script runs meanwhile. The launcher is let go only when everything is published, and `output` goes on
until the user's container has ended.
"""

# Plain os calls, no Path objects: pathlib is not even imported, which is a part of the start-up time.

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping

import msgspec

from dispatcher.sidecar import pair, pod
from dispatcher.sidecar.course import Act, Course, Ended, Say, Settle, State, Turn
from dispatcher.sidecar.elsewhere import OtherStores, read_stores
from dispatcher.sidecar.logs import LOG_LIMIT, trim
from dispatcher.sidecar.publishing import Publisher, exit_code_of
from dispatcher.sidecar.s3 import S3
from dispatcher.sidecar.words import READ_BYTES, Lines, parse
from penstock.clock import now_ms
from penstock.errors import PenstockError
from penstock.model import SYSTEM_BUCKET, ItemResult
from penstock.model.job import EXIT_AGENT_LOST, EXIT_PUBLISH

#: How often cancels and the size of the log are looked at.
_TICK_S = 0.5
#: `input` is started before us, so it listens soon or never.
_CONNECT_S = 60.0
#: Between TERM and KILL of an item that the platform ends.
GRACE_S = 5.0
_decode = msgspec.json.Decoder(pair.FromInput).decode
_decode_result = msgspec.json.Decoder(ItemResult).decode
_LONGEST_RESULT = 4 * 1024 * 1024


class Output:
    def __init__(self, place: pod.Places, environ: Mapping[str, str]) -> None:
        """Raises OSError, InvalidInput, Unavailable."""
        self._place = place
        self._wake, self._woken = os.pipe()
        for descriptor in (self._wake, self._woken):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self._link = pair.connect(place.pair, _CONNECT_S)
        self._alive = os.open(f"{place.run}/{pod.ALIVE}", os.O_RDONLY | os.O_NONBLOCK)
        self._ack = os.open(f"{place.run}/{pod.ACK}", os.O_RDWR | os.O_NONBLOCK)
        self._lines = Lines()
        self._cancels = pod.Cancels(place)
        self._job = environ.get("PENSTOCK_JOB", "")
        plan = pod.read_plan(place)
        self._items = pod.read_items(place)
        settings = pod.store_settings(place, environ)
        self._store = S3(settings)
        others = OtherStores(read_stores(place.stores), settings.patience_s)
        self._publisher = Publisher(self._store, place, plan, self._job, self._items, others=others)
        settled = self._publisher.settled()
        self._results: dict[int, ItemResult] = {}
        if len(self._items) == 1 and settled:
            raw = self._store.read(SYSTEM_BUCKET, settled[0], limit=_LONGEST_RESULT)
            self._results[0] = _decode_result(raw)
        grace = float(environ.get("PENSTOCK_POD_GRACE_S", GRACE_S))
        self._course = Course(
            [item.invocation for item in self._items], deadline_s=plan.deadline_s, grace_s=grace, settled=settled
        )
        self._heard: dict[int, pair.Staged | pair.Refused] = {}
        self._trimmed: set[int] = set()
        #: Items whose result could not be written, and what else went wrong.
        self._trouble: list[str] = []
        self._to_publish: queue.SimpleQueue[Ended | Settle | None] = queue.SimpleQueue()
        self._publishing = threading.Thread(target=self._publish, name="publish", daemon=True)
        self._published = False
        self._closing = False
        self._greeted = False

    def run(self) -> int:
        """Returns the exit code."""
        self._publishing.start()
        poll = select.poll()
        for source in (self._alive, self._link, self._wake):
            poll.register(source, select.POLLIN)
        while not self._turn_once():
            for descriptor, event in poll.poll(self._pause_ms()):
                if descriptor == self._wake:
                    self._woke()
                elif descriptor == self._alive:
                    if self._hear(event):
                        poll.unregister(self._alive)
                elif self._hear_input():
                    poll.unregister(self._link)
        code = EXIT_AGENT_LOST if self._course.crippled and not self._course.complete else bool(self._trouble)
        self._link.say(pair.Over(int(code)))
        for text in self._trouble[:3]:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - the kubelet keeps it as the container's last words
        return int(code)

    def _pause_ms(self) -> int:
        return int(_TICK_S * 1000)

    def _turn_once(self) -> bool:
        """Do what is to be done now; True = all is over."""
        now = time.monotonic()
        course = self._course
        course.cancel(self._cancels.read())
        for act in course.step(now, now_ms()):
            self._do(act)
        self._bound_log()
        if course.state is not State.OVER:
            return False
        if not self._closing:
            self._closing = True
            self._to_publish.put(None)
        if not self._published:
            return False
        if course.gone or course.hopeless(now):
            return True
        for act in course.part(self._last_code(), now):
            self._do(act)
        return False

    def _do(self, act: Act) -> None:
        if isinstance(act, Say):
            # Begins with a line end: what user code wrote without one cannot swallow it. Full = user code filled it;
            # what is lost is said again.
            with contextlib.suppress(BlockingIOError):
                os.write(self._ack, f"\n{act.words}\n".encode())
        elif isinstance(act, Turn):
            self._link.say(pair.Turn(act.index))
        else:
            self._to_publish.put(act)

    def _last_code(self) -> int:
        """What the launcher is to end with."""
        if self._trouble:
            return EXIT_PUBLISH
        if not self._course.complete:
            return 143 if self._course.terminating else EXIT_AGENT_LOST
        if len(self._items) > 1:
            return 0
        return exit_code_of(self._results[0]) if 0 in self._results else 143

    # Listening

    def _woke(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if bytes([signal.SIGTERM]) in os.read(self._wake, 4096):
                self._course.terminate(time.monotonic())

    def _hear(self, event: int) -> bool:
        """The launcher; True = it is gone."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._alive, READ_BYTES)
            for line in self._lines.feed(data):
                word = parse(line)
                if word is not None:
                    self._course.hear(word)
            if self._course.greeted and not self._greeted:
                self._greeted = True
                self._link.say(pair.Greeted())
            if not data and event & select.POLLHUP:
                self._course.lost_launcher()
                return True
        return False

    def _hear_input(self) -> bool:
        """`input`; True = it is gone."""
        for line in self._link.lines():
            message = _decode(line)
            self._heard[message.index] = message
            self._course.staged(message.index, runs=isinstance(message, pair.Staged))
        if self._link.ended:
            self._course.lost_input()
        return self._link.ended

    def _bound_log(self) -> None:
        """Of the item that runs only the newest output is kept."""
        if self._course.state is State.RUNNING:
            index = self._course.index
            if trim(f"{self._place.item(index)}/log", LOG_LIMIT):
                self._trimmed.add(index)

    # Publishing, in a thread of its own

    def _publish(self) -> None:
        try:
            self._publish_all()
        except BaseException:
            self._trouble.append("publishing ended unexpectedly; what has no result runs again")
            raise
        finally:
            self._published = True
            os.write(self._woken, b"\0")

    def _publish_all(self) -> None:
        while (act := self._to_publish.get()) is not None:
            try:
                result = self._carry_out(act)
            except (PenstockError, OSError) as error:
                # Without its result the item counts as lost and runs again.
                self._trouble.append(f"the result of item {act.index} could not be written: {error}")
            else:
                if result is not None:
                    self._results[act.index] = result
                self._clear(act.index)

    def _carry_out(self, act: Ended | Settle) -> ItemResult | None:
        heard = self._heard.get(act.index)
        if isinstance(act, Settle):
            return self._publisher.settle(act, heard if isinstance(heard, pair.Refused) else None)
        assert isinstance(heard, pair.Staged)
        return self._publisher.finish(act, heard, dropped=act.index in self._trimmed)

    def _clear(self, index: int) -> None:
        """Free the disk of an item before its list is through. What the user's own folders forbid stays."""
        if len(self._items) > 1:
            _remove(f"{self._place.item(index)}/in")
            _remove(f"{self._place.item(index)}/out")


def _remove(path: str) -> None:
    """Links are removed, not followed: a folder is opened as what it is, and its entries by its descriptor."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _empty(folder)
        finally:
            os.close(folder)


def _empty(folder: int) -> None:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        with contextlib.suppress(OSError):
            if is_folder:
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    _empty(inner)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)


def main(place: pod.Places, environ: Mapping[str, str]) -> int:
    """Raises what makes the pod's start impossible."""
    return Output(place, environ).run()
