"""One program, run to its end or to its time-out, with all that it started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from penstock.errors import Unavailable

#: More output than a list of a hundred thousand machines is a mistake.
LARGEST_OUTPUT = 16 * 2**20
_SHOWN = 200


class Finished(msgspec.Struct, frozen=True):
    #: None = it was killed at its time-out.
    code: int | None
    stdout: str
    stderr: str

    def why(self, program: str) -> str:
        """Its end in one sentence, with the last line that it complained with."""
        how = "ran into its time-out" if self.code is None else f"ended with code {self.code}"
        lines = self.stderr.strip().splitlines()
        return f"{program} {how}" + (f": {lines[-1].strip()[:_SHOWN]}" if lines else "")


async def run(arguments: Sequence[str], environment: Mapping[str, str], *, timeout_s: float) -> Finished:
    """Run it in a process group of its own; whatever is left of the group afterwards is killed.

    Raises Unavailable when it cannot be started or prints without end.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"{arguments[0]} cannot be started: {error.strerror or error}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    reading = asyncio.gather(_read(process.stdout), _read(process.stderr))
    code: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            out, complaints = await asyncio.shield(reading)
            code = await process.wait()
    except TimeoutError:
        _kill(process.pid)
        out, complaints = await reading
        await process.wait()
    except BaseException:
        _kill(process.pid)
        reading.cancel()
        with suppress(BaseException):
            await reading
        await process.wait()
        raise
    _kill(process.pid)
    if out is None or complaints is None:
        raise Unavailable(f"{arguments[0]} printed more than {LARGEST_OUTPUT} bytes")
    return Finished(code, out.decode(errors="replace"), complaints.decode(errors="replace"))


async def _read(stream: asyncio.StreamReader) -> bytes | None:
    """Everything, or None when it is too much (read on, so that the program can end)."""
    data = bytearray()
    over = False
    while chunk := await stream.read(65_536):
        over = over or len(data) + len(chunk) > LARGEST_OUTPUT
        if not over:
            data += chunk
    return None if over else bytes(data)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
