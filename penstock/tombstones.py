"""History that was forgotten: an entry without a value in `penstock.records` ends the life of its key.

Every reader of the history takes entries in through here, so that all views forget the same, in the order of the log:
an invocation that was forgotten and then run again is there again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from penstock.model import Record
from penstock.ports import Ledger, StoredEntry


async def take_in(
    ledger: Ledger,
    entries: Sequence[StoredEntry],
    positions: Mapping[int, int],
    decode: Callable[[StoredEntry], Record | None],
) -> list[Record]:
    """Apply entries in their order and store the positions with the last of them; returns the records that changed the
    view. A crash in between only means that some are read again. `decode` gives None for what is to be left out.
    """
    changed: list[Record] = []
    runs = [(gone, list(run)) for gone, run in groupby(entries, key=lambda entry: not entry.value)]
    for number, (gone, run) in enumerate(runs, 1):
        last = positions if number == len(runs) else None
        if gone:
            await ledger.forget([entry.key for entry in run])
            if last is not None:
                await ledger.apply([], last)
        else:
            records = [record for record in map(decode, run) if record is not None]
            changed += await ledger.apply(records, last)
    return changed
