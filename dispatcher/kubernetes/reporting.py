"""What `kubectl get functions` shows: each function's state, written by the active dispatcher at a bounded rate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
import structlog

from dispatcher.service import FunctionStatus
from penstock.adapters.kubernetes import FunctionState
from penstock.errors import Unavailable
from penstock.model import Phase

log = structlog.get_logger("dispatcher.reporting")

EVERY_S = 2.0
#: A function's counts are written again no sooner than this; what its state *is*, at once.
COUNTS_MS = 5000
#: Functions written in one turn: a thousand functions that all change cost the API server some requests a second.
MOST = 20
_MESSAGE = 2000
WAITING = (Phase.QUEUED, Phase.PLANNED, Phase.SUBMITTED)


def state_of(status: FunctionStatus, invalid: str, now: int) -> FunctionState:
    """Pure. `invalid` = what is wrong with its definition, "" = nothing."""
    phases = status.phases
    queued = sum(phases.get(phase, 0) for phase in WAITING)
    running = max(0, status.running - status.pending)
    state, message = "Ready", ""
    if invalid:
        state, message = "Invalid", invalid
    elif status.paused:
        state = "Paused"
    elif status.waiting_for and not running:
        state, message = "Waiting", status.waiting_for
    elif status.waiting_for:
        message = status.waiting_for
    return FunctionState(
        state=state,
        message=message[:_MESSAGE],
        queued=queued,
        running=running,
        failed=phases.get(Phase.FAILED, 0) + phases.get(Phase.DEAD, 0),
        succeeded=phases.get(Phase.SUCCEEDED, 0),
        updated_ms=now,
    )


class Reporter:
    """`report` writes one function's state; `invalid` is by function uid."""

    def __init__(self, report: Callable[[str, FunctionState], Awaitable[None]], invalid: Mapping[str, str]) -> None:
        self._report = report
        self._invalid = invalid
        self._told: dict[str, FunctionState] = {}

    async def turn(self, statuses: Iterable[FunctionStatus], now: int) -> int:
        """Write what is due; returns how many. Trouble that passes is left to the next turn."""
        due: list[tuple[FunctionStatus, FunctionState]] = []
        uids = set()
        for status in statuses:
            uids.add(status.uid)
            state = state_of(status, self._invalid.get(status.uid, ""), now)
            if self._is_due(self._told.get(status.uid), state):
                due.append((status, state))
        for uid in set(self._told) - uids:
            del self._told[uid]
        # Whoever waits longest goes first.
        due.sort(key=lambda one: self._told[one[0].uid].updated_ms if one[0].uid in self._told else 0)
        written = 0
        for status, state in due[:MOST]:
            try:
                await self._report(status.name, state)
            except Unavailable as error:
                log.warning("a state cannot be shown now", action="report_delayed", error=error.message)
                return written
            self._told[status.uid] = state
            written += 1
        return written

    @staticmethod
    def _is_due(told: FunctionState | None, state: FunctionState) -> bool:
        if told is None or told.state != state.state:
            return True
        same = msgspec.structs.replace(told, updated_ms=state.updated_ms) == state
        return not same and state.updated_ms - told.updated_ms >= COUNTS_MS
