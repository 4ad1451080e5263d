"""The registry port: which functions are defined. Contract: `tests/contracts/registry.py`.

* `create` and `replace` are atomic: the old definition or the new, nothing between.
* `replace` keeps uid, token, owner and created time, and raises the generation by one.
* `watch` first yields every existing function, then each change, and never loses the last state of a name.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from penstock.model import Function


class ChangeKind(enum.StrEnum):
    PUT = "put"
    DELETED = "deleted"
    #: Everything that existed when the watch began has been yielded.
    SYNCED = "synced"


class FunctionChange(msgspec.Struct, frozen=True):
    kind: ChangeKind
    #: The function as it is now (PUT) or as it last was (DELETED); None with SYNCED.
    function: Function | None = None


class Registry(Protocol):
    async def create(self, function: Function) -> Function:
        """Store a new function with a new uid (and a token, unless it has one). Raises AlreadyExists."""
        ...

    async def replace(self, function: Function, *, generation: int | None = None) -> Function:
        """Replace by name. Raises NotFound; Conflict when `generation` is given and is no longer the current one."""
        ...

    async def get(self, name: str) -> Function:
        """Raises NotFound."""
        ...

    async def list(self) -> list[Function]:
        """In order of name; holds everything whose `create` or `replace` returned before this call began."""
        ...

    async def revision(self) -> str:
        """A word that differs after every change, as strongly consistent as `list` and much cheaper. Intake compares
        it before it routes a batch, so that an event is never routed by an older table than the one that caused it.
        """
        ...

    async def delete(self, name: str) -> Function:
        """Returns what was deleted. Raises NotFound."""
        ...

    def watch(self) -> AsyncIterator[FunctionChange]: ...

    async def close(self) -> None: ...
