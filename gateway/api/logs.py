"""The output of one attempt, wherever it lies: archived once the attempt has ended, with the runner while it runs.

Following goes on over the change from one to the other without losing or repeating a byte, because both are addressed
by the same offset.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from gateway.api.context import Services
from penstock.errors import NotFound
from penstock.model import SYSTEM_BUCKET, Phase, Record
from penstock.model.objects import log_key


async def output(
    services: Services, record: Record, attempt: int, offset: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """Bytes from `offset` on. An attempt that has not begun has none; `follow` waits for its start and to its end.

    Raises NotFound for an attempt that there is not.
    """
    if attempt > record.attempt:
        raise NotFound(f"invocation {record.id} has had {record.attempt} attempts, not {attempt}")
    sent = offset
    while True:
        ended = record.phase.final or attempt < record.attempt
        # Archive first: an attempt that ends in between is found there in the next round, or was running here.
        async for chunk in _archived(services, record, attempt, sent):
            sent += len(chunk)
            yield chunk
        if ended:
            return
        if record.job and record.phase is not Phase.QUEUED:
            async for chunk in _live(services, record, sent, follow=follow):
                sent += len(chunk)
                yield chunk
        if not follow:
            return
        record = await _moved(services, record)


async def _archived(services: Services, record: Record, attempt: int, start: int) -> AsyncIterator[bytes]:
    key = log_key(record.function_uid, record.id, attempt)
    try:
        async for chunk in services.store.read(SYSTEM_BUCKET, key, start=start):
            yield chunk
    except NotFound:
        return


async def _live(services: Services, record: Record, start: int, *, follow: bool) -> AsyncIterator[bytes]:
    try:
        async for chunk in services.runner.log(record.job, record.id, offset=start, follow=follow):
            yield chunk
    except NotFound:
        return


async def _moved(services: Services, record: Record) -> Record:
    """The record once it has changed."""
    with services.changes.subscribe() as subscription:
        while True:
            current = await services.ledger.get(record.id)
            if current is not None and current.order != record.order:
                return current
            while (change := await subscription.next()) is not None and change.id != record.id:
                continue
