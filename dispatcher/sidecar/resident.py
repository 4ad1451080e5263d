"""The program `resident`: serves the synchronous runs of one function from a pod that stays.

`python -m dispatcher.sidecar.resident` in our own image, beside one or more containers of the user's that run the
launcher. It takes a run over HTTP from the gateway, proved by the function's own key which user code never sees, stages
it for a free container, and answers when its outputs are published. It never queues: what finds no free container is
told so before anything was begun, and the gateway, which knows all pods, decides where it waits.

On TERM it goes on taking runs for a moment, since whoever sends them hears of it later, then finishes what it has, and
only then lets the users' containers end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import io
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import IO

import msgspec
from aiohttp import web

from dispatcher.sidecar import calls, pod
from dispatcher.sidecar.calls import Call, Reply, Unframer, Use, frame
from dispatcher.sidecar.elsewhere import read_stores
from dispatcher.sidecar.run_course import (
    Finished,
    Finisher,
    Folder,
    Staged,
    Stores,
    Times,
    classify,
    classify_large,
    furnish,
    item_of,
    large_path,
)
from dispatcher.sidecar.s3 import Settings
from dispatcher.sidecar.slot import NotUp, Slot, remove
from dispatcher.sidecar.staging import MEMORY_BYTES, check_script, stage_error
from dispatcher.sidecar.verdict import refused
from penstock.clock import now_ms
from penstock.errors import InvalidInput, PenstockError
from penstock.model import ErrorClass

#: After TERM runs are still taken for so long: the gateway's watch tells it within moments.
LEAVE_S = 2.0
#: Between TERM and KILL of a script that the platform ends.
GRACE_S = 5.0
#: The users' containers get so long to end once they may.
_PART_S = 10.0
#: Of the head of a call: headers become variables in it.
_LONGEST_HEAD = 1024 * 1024
_CHUNK = 256 * 1024
_GONE = "the caller went away before the answer"


class NotBegun(Exception):
    """Nothing was begun; the argument is one of `calls.BUSY`, `LEAVING`, `STARTING`."""


class Resident:
    """`slots` = the folders of the users' containers with their paths there."""

    def __init__(self, place: pod.Places, environ: Mapping[str, str], slots: int) -> None:
        """Raises OSError, InvalidInput, msgspec.DecodeError."""
        root = os.path.realpath(environ.get("PENSTOCK_POD_SLOTS", "/oscar/slots"))
        seen = environ.get("PENSTOCK_POD_SEEN", "/oscar/run")
        grace_s = float(environ.get("PENSTOCK_POD_GRACE_S", GRACE_S))
        self._leave_s = float(environ.get("PENSTOCK_RESIDENT_LEAVE_S", LEAVE_S))
        self._key = _key(environ.get("PENSTOCK_POD_KEY", "/oscar/key/token"))
        self._place = place
        self._plan = pod.read_plan(place)
        self._inputs = Stores(_settings(place, environ, "PENSTOCK_POD_STORE_IN", "/oscar/store-in"))
        others = read_stores(place.stores)
        self._outputs = Stores(_settings(place, environ, "PENSTOCK_POD_STORE", place.store), others)
        self._slots = [
            Slot(f"{root}/{number}", seen.replace("{slot}", str(number)), grace_s=grace_s) for number in range(slots)
        ]
        self._places = {
            slot: msgspec.structs.replace(place, run=slot.folder, own=f"{place.own}/{number}")
            for number, slot in enumerate(self._slots)
        }
        self._archiving = {slot: asyncio.Lock() for slot in self._slots}
        self._tasks: set[asyncio.Task[Finished] | asyncio.Task[None]] = set()
        self._active = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._idle_since = time.monotonic()
        self.leaving = False

    def open(self) -> None:
        """Raises OSError."""
        for slot in self._slots:
            os.makedirs(self._places[slot].own, exist_ok=True)  # noqa: PTH103
            slot.open()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post(calls.RUN_PATH, self.run)
        app.router.add_get(calls.READY_PATH, self.ready)
        app.router.add_get(calls.USE_PATH, self.use)
        return app

    # Routes

    async def ready(self, _: web.Request) -> web.Response:
        """200 while a run could be taken or is under way. Tells nothing else, so it asks for no key."""
        up = not self.leaving and any(slot.turns.up for slot in self._slots)
        return web.Response(status=200 if up else 503, text="ready\n" if up else "not ready\n")

    async def use(self, request: web.Request) -> web.Response:
        self._check(request)
        idle_s = 0.0 if self._active else time.monotonic() - self._idle_since
        up = sum(slot.turns.up for slot in self._slots)
        told = Use(slots=len(self._slots), up=up, active=self._active, idle_s=idle_s, leaving=self.leaving)
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")

    async def run(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        try:
            slot = self._take()
            finished = await self._served(request, slot)
        except (NotBegun, NotUp) as error:
            why = str(error) or calls.STARTING
            return web.Response(status=503, text=f"not begun: {why}\n", headers={calls.NOT_BEGUN: why})
        except InvalidInput as error:
            return web.Response(status=400, text=f"{error.message}\n")
        return await _send(request, finished)

    def _check(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, b"Bearer " + self._key):
            raise web.HTTPUnauthorized(text="this is no door for you: call the gateway\n")

    # Runs

    def _take(self) -> Slot:
        """Raises NotBegun."""
        if self.leaving:
            raise NotBegun(calls.LEAVING)
        for slot in self._slots:
            if slot.free:
                slot.taken = True
                return slot
        up = any(slot.turns.up for slot in self._slots)
        raise NotBegun(calls.BUSY if up else calls.STARTING)

    async def _served(self, request: web.Request, slot: Slot) -> Finished:
        """From the first byte of the call to a finished run; a caller who leaves ends the script."""
        self._active += 1
        self._quiet.clear()
        course = _Course(slot, slot.turns.number)
        try:
            call, body = await self._receive(request, course)
            task = asyncio.create_task(self._course(course, call, body), name=f"run {call.invocation}")
        except BaseException:
            self._over(course)
            raise
        self._keep(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            course.gone = True
            if course.begun and not course.script_over:
                slot.stop(ErrorClass.CANCELLED, _GONE)
            raise

    async def _receive(self, request: web.Request, course: _Course) -> tuple[Call, bytes | str]:
        """The call, and its body in memory or the path of the file where it lies. Raises InvalidInput, OSError."""
        folder = course.slot.make(course.number)
        head = Unframer(_LONGEST_HEAD)
        call: Call | None = None
        parts: list[bytes] = []
        size = 0
        sink: IO[bytes] | None = None
        try:
            async for chunk in _chunks(request):
                piece = chunk
                if call is None:
                    if not head.feed(chunk):
                        continue
                    call = _call(head.head or b"")
                    piece = head.rest
                size += len(piece)
                parts.append(piece)
                if size > MEMORY_BYTES:
                    sink = sink or open(large_path(call, folder), "wb")  # noqa: SIM115, PTH123, ASYNC230
                    sink.writelines(parts)
                    parts.clear()
        finally:
            if sink is not None:
                sink.close()
        if call is None:
            raise InvalidInput("the call ended before its head")
        return call, b"".join(parts) if sink is None else large_path(call, folder)

    async def _course(self, course: _Course, call: Call, body: bytes | str) -> Finished:
        """One run, whatever becomes of its caller. Raises NotUp: nothing was begun."""
        try:
            try:
                staged = await self._stage(course, call, body)
            except (PenstockError, OSError) as error:
                failure = stage_error(error)
                item = refused(item_of(call), failure.error, failure.message, failure.exit_code, now_ms())
                return Finished(item, io.BytesIO())
            return await self._script(course, call, staged)
        finally:
            if not course.kept:
                self._over(course)

    async def _stage(self, course: _Course, call: Call, body: bytes | str) -> Staged:
        check_script(self._plan)
        place = Folder(course.slot.item(course.number), course.slot.seen_item(course.number))
        if isinstance(body, bytes):
            staged = classify(call, body, place.path)
        else:
            staged = await asyncio.to_thread(classify_large, call, body)
        if staged.given.object is None:
            furnish(self._plan, call, staged, place, self._inputs)
        else:
            await asyncio.to_thread(furnish, self._plan, call, staged, place, self._inputs)
        return staged

    async def _script(self, course: _Course, call: Call, staged: Staged) -> Finished:
        slot = course.slot
        if course.gone:
            return Finished(refused(item_of(call), ErrorClass.CANCELLED, _GONE, None, now_ms()), io.BytesIO())
        staged_ms = now_ms()
        course.begun = True
        outcome = await slot.serve(course.number, call.deadline_s)
        course.number = slot.set_aside(course.number)
        times = Times(staged_ms, staged_ms, now_ms())
        dropped = slot.dropped
        course.script_over = True
        slot.taken = False
        finisher = Finisher(self._places[slot], self._plan, self._outputs)
        finished = await asyncio.to_thread(
            finisher.conclude, course.number, call, staged, outcome, times, dropped=dropped
        )
        course.kept = True
        self._keep(asyncio.create_task(self._archive(course, finisher, call, dropped=dropped)))
        return finished

    async def _archive(self, course: _Course, finisher: Finisher, call: Call, *, dropped: bool) -> None:
        """The log goes up after the answer, since nobody waits for it."""
        try:
            async with self._archiving[course.slot]:
                await asyncio.to_thread(finisher.keep_log, course.number, call, dropped=dropped)
            await asyncio.to_thread(remove, course.slot.item(course.number))
        except PenstockError as error:
            print(f"a log was not kept: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the container's log
        finally:
            self._over(course)

    def _over(self, course: _Course) -> None:
        """Free what the run held. Called once for each."""
        if not course.script_over:
            remove(course.slot.item(course.number))
            course.slot.taken = False
        self._active -= 1
        self._idle_since = time.monotonic()
        if not self._active:
            self._quiet.set()

    def _keep(self, task: asyncio.Task[Finished] | asyncio.Task[None]) -> None:
        """It goes on without its caller, and then nobody asks what became of it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    # The end

    async def leave(self) -> None:
        """After TERM: until nothing runs any more and the users' containers have ended, or had their time."""
        await asyncio.sleep(self._leave_s)
        self.leaving = True
        await self._quiet.wait()
        for slot in self._slots:
            slot.release()
        deadline = time.monotonic() + _PART_S
        while any(slot.turns.up for slot in self._slots) and time.monotonic() < deadline:  # noqa: ASYNC110 - few, once
            await asyncio.sleep(0.05)

    def close(self) -> None:
        for slot in self._slots:
            slot.close()


class _Course:
    """How far one run has come."""

    def __init__(self, slot: Slot, number: int) -> None:
        self.slot = slot
        self.number = number
        #: The script was started.
        self.begun = False
        self.script_over = False
        #: The caller left.
        self.gone = False
        #: What it holds is freed by its archiving.
        self.kept = False


def _call(head: bytes) -> Call:
    try:
        return calls.decode_call(head)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the head of the run cannot be read: {error}") from error


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    """Raises InvalidInput: the caller broke off."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (web.RequestPayloadError, ConnectionError) as error:
        raise InvalidInput("the call broke off before its end") from error


async def _send(request: web.Request, finished: Finished) -> web.StreamResponse:
    with contextlib.closing(finished.answer) as source:
        head = frame(Reply(result=finished.result))
        first = source.read(_CHUNK)
        if len(first) < _CHUNK:
            return web.Response(body=head + first, content_type="application/octet-stream")
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        await response.write(head)
        while first:
            await response.write(first)
            first = await asyncio.to_thread(source.read, _CHUNK)
        await response.write_eof()
        return response


def _key(path: str) -> bytes:
    with open(path, "rb") as source:  # noqa: PTH123 - no pathlib in the sidecars
        key = source.read().strip()
    if len(key) < 32:
        raise InvalidInput("the key of the function is missing or too short", where=path)
    return key


def _settings(place: pod.Places, environ: Mapping[str, str], variable: str, default: str) -> Settings | None:
    """Of the store account in that folder; None = there is none."""
    folder = environ.get(variable, default)
    if not os.path.isdir(folder):  # noqa: PTH112
        return None
    return pod.store_settings(msgspec.structs.replace(place, store=folder), environ)


async def serve(place: pod.Places, environ: Mapping[str, str]) -> None:
    """Until TERM and what follows from it. Raises what makes the pod's start impossible."""
    resident = Resident(place, environ, slots=int(environ.get("PENSTOCK_RESIDENT_SLOTS", "1")))
    resident.open()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(
        resident.app(),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=3600.0,
        auto_decompress=False,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    try:
        port = int(environ.get("PENSTOCK_RESIDENT_PORT", str(calls.PORT)))
        await web.TCPSite(runner, None, port, backlog=512).start()
        await stop.wait()
        await resident.leave()
    finally:
        await runner.cleanup()
        resident.close()


def main() -> int:
    # What is made in the shared folders is for every user id: scripts run as the image's user, whoever that is.
    os.umask(0)
    try:
        asyncio.run(serve(pod.places(os.environ), os.environ))
    except PenstockError as error:
        print(f"resident: {error}", file=sys.stderr)  # noqa: T201 - the kubelet keeps it as the container's last words
        return 1
    except (OSError, msgspec.DecodeError) as error:
        print(f"resident: the pod cannot be read or written: {error}", file=sys.stderr)  # noqa: T201 - the same
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
