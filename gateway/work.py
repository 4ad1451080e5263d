"""What the gateway asks of whoever runs the work: in embedded mode the dispatcher itself, in production its traces.

The gateway never carries work out. It reads the ledger, appends to the log, and needs only two things more: what waits
for what, and a running item's output.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from dispatcher.service import DispatcherStatus


class WorkView(Protocol):
    async def status(self) -> DispatcherStatus:
        """Counts per function, why its next item waits, room and backlog. Raises Unavailable."""
        ...


class LiveLogs(Protocol):
    def log(self, name: str, invocation: str, *, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Output of a running item from a byte offset on; `follow` goes on to its end. Raises NotFound, Unavailable."""
        ...
