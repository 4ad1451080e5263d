"""The variables a script sees, and how they get to it byte for byte.

Two halves, because a Job carries several items: what is the same for the whole Job is the launcher's own environment;
what differs per item is a file of single-quoted exports that the launcher sources. A value never passes through a
shell's expansion, so blanks, globs, backslashes and `$(X)` in a user's data arrive as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dispatcher.sidecar.events import ItemInput
from penstock.errors import InvalidInput
from penstock.model import JobPlan

#: Above this an event is given as a file: a string of 128 KiB cannot be passed to a program at all.
EVENT_LIMIT = 100_000
#: Last line of an item's file; without it the file was torn by a crash.
COMPLETE = b"# complete\n"
#: Set or removed for every item: a launcher that sources one file after the other must not leak the item before.
ITEM_VARIABLES = ("INPUT_FILE_PATH", "STORAGE_OBJECT_KEY", "EVENT_TIME", "EVENT", "EVENT_FILE_PATH", "TRACEPARENT")

_NAME = re.compile(r"[^\0=]+")
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def job_variables(plan: JobPlan, *, node: str, volume_path: str = "") -> dict[str, str]:
    """What every Job of the function sees: its variables and secrets, then the platform's, which win. `JOB_UUID` is the
    runner's to add, since a local launcher serves several Jobs.

    Empty values are not exported. Raises InvalidInput for names or values that no program can be started with.
    """
    variables = {**plan.environment, **plan.secrets}
    for name, value in variables.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise InvalidInput(
                f"the variable {name!r} has a NUL byte or a '=' in its name or a NUL byte in its value",
                where=f"function {plan.function}",
            )
    variables |= {
        "RESOURCE_ID": node,
        "OSCAR_SERVICE_NAME": plan.function,
        "OSCAR_SERVICE_TOKEN": plan.token,
        "OSCAR_SERVICE_BASE_PATH": variables.get("OSCAR_SERVICE_BASE_PATH", ""),
        "VOLUME_PATH": volume_path or variables.get("VOLUME_PATH", ""),
    }
    return {name: value for name, value in variables.items() if value}


def item_variables(
    given: ItemInput, *, input_dir: str, output_dir: str, input_path: str, event_path: str, trace: str = ""
) -> dict[str, bytes]:
    """What one item sees besides. `input_path` is "" when nothing was staged; `event_path` is used by large events
    and by those that no environment can hold. `trace` is the item's W3C traceparent. Empty values are left out.
    """
    variables = {
        "TMP_INPUT_DIR": _bytes(input_dir),
        "TMP_OUTPUT_DIR": _bytes(output_dir),
        "INPUT_FILE_PATH": _bytes(input_path),
        "STORAGE_OBJECT_KEY": _bytes(given.storage_object_key),
        "EVENT_TIME": _bytes(given.event_time),
    }
    variables["TRACEPARENT"] = trace.encode()
    for name, value in given.variables.items():
        if _SHELL_NAME.fullmatch(name) and "\0" not in value:
            variables[name] = _bytes(value)
    if needs_event_file(given.event):
        variables["EVENT_FILE_PATH"] = _bytes(event_path)
    else:
        variables["EVENT"] = given.event
    return {name: value for name, value in variables.items() if value}


def needs_event_file(event: bytes) -> bool:
    return len(event) > EVENT_LIMIT or b"\0" in event


def render(variables: Mapping[str, bytes], *, directory: str = "") -> bytes:
    """The file that the launcher sources. `directory` becomes the working directory of the script."""
    missing = [name for name in ITEM_VARIABLES if name not in variables]
    lines = [b"unset " + " ".join(missing).encode() + b"\n"] if missing else []
    if directory:
        lines.append(b"cd " + quote(_bytes(directory)) + b"\nunset OLDPWD\n")
    lines += [b"export " + name.encode() + b"=" + quote(value) + b"\n" for name, value in variables.items()]
    lines.append(COMPLETE)
    return b"".join(lines)


def quote(value: bytes) -> bytes:
    """A single-quoted shell word that stands for exactly these bytes."""
    return b"'" + value.replace(b"'", b"'\\''") + b"'"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
