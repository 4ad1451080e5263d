"""How an item's turn ended, from codes and causes to an error class and one sentence. Pure: the local runner and the
pods' `output` say it alike.
"""

from __future__ import annotations

import msgspec

from dispatcher.sidecar.files import Published
from penstock.model import ErrorClass, ItemResult, JobItem
from penstock.model.job import EXIT_DEADLINE, EXIT_PUBLISH

#: What an item that the platform ended is said to have ended with; otherwise the shell's own code stands.
_FORCED_CODES = {ErrorClass.DEADLINE: EXIT_DEADLINE, ErrorClass.OUT_OF_MEMORY: 137, ErrorClass.KILLED: 137}
_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    4: "SIGILL",
    6: "SIGABRT",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}
#: Sentences of the result's message that name single files.
NAMED = 3


def verdict(
    code: int | None, why: ErrorClass | None, why_text: str, deadline_s: float
) -> tuple[ErrorClass | None, int | None, str]:
    """Error class, exit code and sentence of an item whose script was started. `why` = the platform ended it for that
    reason; `code` None = nobody told how it ended.
    """
    if code is None and why is None:
        why = ErrorClass.KILLED
    if why is None:
        return (ErrorClass.SCRIPT, code, _script_text(code or 0)) if code else (None, 0, "")
    text = why_text
    if not text:
        text = {
            ErrorClass.DEADLINE: f"the script did not end within its deadline of {deadline_s:g} s",
            ErrorClass.CANCELLED: "cancelled while it was running",
            ErrorClass.OUT_OF_MEMORY: "the script used more memory than the function's `memory`",
            ErrorClass.KILLED: "the script was killed from outside",
        }.get(why, "")
    return why, _FORCED_CODES.get(why, code), text


def _script_text(code: int) -> str:
    if code > 128 and (name := _SIGNALS.get(code - 128)):
        return f"the script was ended by {name} (exit code {code})"
    if code == 127:
        return "the script ended with code 127: a command it uses is not installed or not on PATH"
    return f"the script ended with code {code}"


def refused(item: JobItem, error: ErrorClass, message: str, exit_code: int | None, now_ms: int) -> ItemResult:
    """The result of an item whose script never started."""
    return ItemResult(
        invocation=item.invocation,
        attempt=item.attempt,
        error=error,
        exit_code=exit_code,
        message=message,
        finished_ms=now_ms,
    )


def judge(draft: ItemResult, published: Published) -> ItemResult:
    """What was really published decides: a script that succeeded and whose outputs are not all there has failed."""
    result = msgspec.structs.replace(draft, outputs=published.outputs)
    missing = published.missing
    if not missing:
        return result
    more = f" (and {len(missing) - NAMED} more)" if len(missing) > NAMED else ""
    text = "; ".join(filter(None, (draft.message, *missing[:NAMED]))) + more
    if draft.error is not None:  # the script's own code is what the user looks for
        return msgspec.structs.replace(result, message=text)
    return msgspec.structs.replace(result, error=ErrorClass.PUBLISH, exit_code=EXIT_PUBLISH, message=text)
