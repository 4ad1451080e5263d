"""What staging an item means, whoever fetches the bytes: how it can fail, by error class, and what is done to a body
that lies in the store. No network and no event loop: shared by the local runner and the pods' `input`.
"""

# Plain os calls, no Path objects: on the path of every item, where an object costs more than the system call.
# ruff: noqa: PTH105, PTH123

from __future__ import annotations

import base64
import os

import msgspec

from dispatcher.sidecar import events
from dispatcher.sidecar.events import ItemInput
from penstock.errors import InvalidInput, NotFound, PenstockError, Superseded
from penstock.model import ErrorClass, JobPlan, ObjectInfo
from penstock.model.job import EXIT_INVALID, EXIT_STAGE_IN
from penstock.model.objects import META_HOPS

#: Larger bodies are decoded on disk.
MEMORY_BYTES = 8 * 1024 * 1024
_CHUNK = 3 * 1024 * 1024  # a multiple of 3 and 4: base64 groups never straddle chunks


class StageError(PenstockError):
    """The item cannot run. `error` decides who retries, `exit_code` is what OSCAR's users see (None = nothing ran)."""

    code = "stage_in"

    def __init__(self, error: ErrorClass, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.error = error
        self.exit_code = exit_code


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    given: ItemInput
    #: Absolute path of the input file, "" when it was not to be downloaded.
    input_path: str
    #: How many functions the input has passed through.
    hops: int
    staged_ms: int


def stage_error(error: PenstockError | OSError) -> StageError:
    """What a failure while staging means for the item."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, InvalidInput):
        return StageError(ErrorClass.INVALID, error.message, EXIT_INVALID)
    if isinstance(error, Superseded):
        return StageError(ErrorClass.SUPERSEDED, error.message)
    if isinstance(error, NotFound):
        return StageError(ErrorClass.GONE, error.message)
    why = error.message if isinstance(error, PenstockError) else error.strerror or error
    return StageError(ErrorClass.STAGE_IN, f"the input could not be staged: {why}", EXIT_STAGE_IN)


def check_script(plan: JobPlan) -> None:
    """Raises StageError: there is nothing to run."""
    if not plan.script.strip():
        raise StageError(ErrorClass.INVALID, f"the function {plan.function} has no script", EXIT_INVALID)


def check_hops(hops: int, plan: JobPlan) -> None:
    """Raises StageError."""
    if hops >= plan.max_hops:
        raise StageError(
            ErrorClass.HOP_LIMIT,
            f"the input has passed through {hops} functions and {plan.function} allows {plan.max_hops} (max_hops): "
            "functions that feed each other in a circle look like this",
        )


def hops_of(info: ObjectInfo) -> int:
    """0 for objects that no function wrote, and for a value that is no number (anybody can write metadata)."""
    text = info.metadata.get(META_HOPS, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def decode_file(path: str) -> None:
    """Replace a file of base64 text by what it stands for, in constant memory. Raises InvalidInput, OSError."""
    decoded = f"{path}.decoded"
    with open(path, "rb") as source, open(decoded, "wb") as sink:
        rest = b""
        while chunk := source.read(_CHUNK):
            text = rest + chunk.translate(None, b" \t\r\n")
            whole = len(text) - len(text) % 4
            ready, rest = text[:whole], text[whole:]
            if ready.rstrip(b"=") != ready:  # padding ends the text; only the very last group may have it
                rest = ready + rest + source.read().translate(None, b" \t\r\n")
                ready = b""
            sink.write(_strict(ready))
        sink.write(events.decode_base64(rest))
    os.replace(decoded, path)


def _strict(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return events.decode_base64(text)  # raises the sentence for the user
