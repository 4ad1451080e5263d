"""What an operator may turn on the dispatcher. Plain data, so that decision code may take it as an argument."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class DispatcherSettings:
    #: Events read, routed and recorded in one turn of intake. More gains little, less costs commits.
    intake_batch: int = 1000
    #: Queued items held in memory per function; the rest stays in the ledger.
    window: int = 256
    #: Jobs of one function written as planned before there is room, so that a freed slot never waits for the disk (of
    #: short ones more, see `ahead`); and of all functions together.
    ahead: int = 4
    ahead_total: int = 64
    #: Retries of platform errors (stage-in, publish, lost), beside the script's own `retries`.
    platform_retries: int = 5
    #: First retry after about this many seconds; each further one doubles it, up to the limit.
    retry_base_s: float = 1.0
    retry_limit_s: float = 300.0
    #: An item that runs longer than this gets a `running` record of its own; shorter ones only in their final one.
    running_record_after_s: float = 0.5
    #: How much of a list's time may be start-up when `batch: auto` chooses its size.
    auto_overhead: float = 0.1
    #: How long becoming ready waits for intake to record what was accepted before a crash, so that it is listed.
    ready_intake_s: float = 3.0
    #: Longest list that `batch: auto` makes, in items and in seconds of work.
    auto_max_items: int = 200
    auto_max_s: float = 30.0
