"""The dispatcher's view of the registry, refreshed before every batch is routed.

Comparing the registry's revision after a batch of events was read and before it is routed guarantees that no event is
routed by a table older than the function that caused it, without listing the registry each time.
"""

from __future__ import annotations

import msgspec

from dispatcher.routing import RoutingTable
from penstock.model import Function
from penstock.ports import Registry


class TableChange(msgspec.Struct, frozen=True):
    """What a refresh found. `first` = the table was loaded for the first time: nothing is new, it was only unknown."""

    added: list[Function]
    changed: list[Function]
    removed: list[Function]
    first: bool = False


class Functions:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._revision: str | None = None
        self.table = RoutingTable(())

    def current(self, uid: str) -> Function | None:
        """The definition that a function has now, None = there is none."""
        return self.table.by_uid.get(uid)

    async def refresh(self) -> TableChange | None:
        """Load the table again if the registry changed; returns what changed, None = nothing."""
        revision = await self._registry.revision()
        if revision == self._revision:
            return None
        first = self._revision is None
        functions = await self._registry.list()
        old, new = self.table.by_uid, {function.uid: function for function in functions}
        self.table = RoutingTable(functions)
        self._revision = revision
        return TableChange(
            added=[function for uid, function in new.items() if uid not in old],
            changed=[function for uid, function in new.items() if uid in old and old[uid] != function],
            removed=[function for uid, function in old.items() if uid not in new],
            first=first,
        )
