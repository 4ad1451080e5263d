"""How a program that we started is ended: asked to go, and killed when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import signal


async def end(process: asyncio.subprocess.Process, *, grace_s: float) -> None:
    """Return when it is gone. One that is still there when this is cancelled is killed too."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(grace_s):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    finally:
        if process.returncode is None:  # cancelled meanwhile
            with contextlib.suppress(ProcessLookupError):
                process.kill()
