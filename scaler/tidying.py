"""Brings the cluster's node objects in line with the records: cordons lifted, soft taints set, dead objects deleted.

Level-triggered: it compares what the marks on the objects say with what the records want, each turn. So it does not
matter at which step an earlier life ended, and nothing about it has to be stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable

import structlog

from penstock.errors import NotFound, PenstockError
from scaler.model import NodeState
from scaler.records import State
from scaler.world import Seen, World

log = structlog.get_logger("scaler")

#: Writes per turn and kind: tidying never crowds out what pods wait for.
_AT_ONCE = 32
_IN_SERVICE = frozenset({NodeState.IDLE, NodeState.USED})


class Tidier:
    def __init__(self, world: World) -> None:
        self._world = world

    async def turn(self, state: State, seen: Seen, gone: Iterable[str]) -> None:
        """`gone` = made nodes whose machine a complete list no longer has. Trouble is logged, and tried next turn."""
        marks = seen.marks
        states = {node.name: node.state for node in state.nodes}
        works: list[tuple[str, str, Awaitable[None]]] = []
        for name, mark in marks.items():
            known = states.get(name)
            if known in _IN_SERVICE and mark.removing and name not in state.leaving:
                works.append(("uncordon", name, self._world.uncordon(name)))
            elif known is NodeState.USED and name in state.leaving and not mark.removing:
                works.append(("cordon", name, self._world.cordon(name)))
            elif known in _IN_SERVICE and not mark.removing and mark.steered is not (name in state.steered):
                works.append(("steer", name, self._world.steer(name, on=name in state.steered)))
            if len(works) >= _AT_ONCE:
                break
        for name in gone:
            found = marks.get(name)
            if found is not None and not found.ready:
                works.append(("forget", name, self._world.forget(name, found)))
        await asyncio.gather(*(self._done(kind, name, work) for kind, name, work in works))

    @staticmethod
    async def _done(kind: str, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except NotFound:
            return
        except PenstockError as error:
            log.warning(
                "a node object could not be changed", action="tidy_failed", what=kind, node=name, error=str(error)
            )
        else:
            log.debug("node object changed", action="tidied", what=kind, node=name)
