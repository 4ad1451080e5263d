"""Machines that exist only here: for dry runs, for trying a configuration, and as the tests' fake that is no mock.

They take the pool's own times to boot and to stop, by whatever clock is given. With a file they outlive the process,
which is what the contract asks of every driver.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from penstock.errors import Closed, Corrupt, Unavailable
from penstock.ports import (
    NodeAdd,
    NodeTarget,
    OrderAnswer,
    Outcome,
    ProviderCapabilities,
    ProviderNode,
    ProviderState,
    StopHow,
)
from scaler.pools import Pool


class _Machine(msgspec.Struct):
    name: str
    pool: str
    on: bool
    suspended: bool = False
    #: Of the last change; the change is over when the pool's time for it has passed.
    since_ms: int = 0
    key: str = ""
    created_ms: int = 0
    #: Deleted: gone when the pool's time to stop has passed.
    deleted: bool = False


class SimulatedProvider:
    """`clock` gives milliseconds."""

    def __init__(self, pools: Sequence[Pool], *, clock: Callable[[], int], file: Path | None = None) -> None:
        """Raises Corrupt (the file), Unavailable."""
        self._pools = {pool.name: pool for pool in pools}
        self._clock = clock
        self._file = file
        self._closed = False
        self._machines: dict[str, _Machine] = self._load()
        for pool in pools:
            for host in pool.hosts:
                self._machines.setdefault(host, _Machine(name=host, pool=pool.name, on=False))

    @property
    def capabilities(self) -> ProviderCapabilities:
        return ProviderCapabilities(add_remove=True, start_stop=True, suspend=True)

    def _state(self, one: _Machine) -> ProviderState:
        pool = self._pools.get(one.pool)
        took = self._clock() - one.since_ms
        if one.on:
            return ProviderState.STARTING if pool is not None and took < pool.boot_ms else ProviderState.ON
        if one.since_ms and pool is not None and took < pool.stop_ms:
            return ProviderState.STOPPING
        return ProviderState.SUSPENDED if one.suspended else ProviderState.OFF

    async def add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        """As `NodeProvider.add`. A name that another key has made is a conflict."""
        self._begin()
        answers = []
        for node in nodes:
            known = self._machines.get(node.name)
            if node.pool not in self._pools:
                answers.append(_answer(node.key, Outcome.CONFIGURATION, message=f"there is no pool {node.pool}"))
            elif known is not None and known.key != node.key:
                answers.append(_answer(node.key, Outcome.CONFLICT, message=f"{node.name} exists by another order"))
            else:
                if known is None:
                    now = self._clock()
                    self._machines[node.name] = _Machine(
                        name=node.name, pool=node.pool, on=True, since_ms=now, key=node.key, created_ms=now
                    )
                answers.append(_answer(node.key, Outcome.ACCEPTED, id=f"sim-{node.name}"))
        self._save()
        return answers

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.remove`. Machines that always existed are not deleted."""
        self._begin()
        answers = []
        for node in nodes:
            known = self._find(node)
            if known is not None and not known.key:
                answers.append(_answer(node.key, Outcome.CONFIGURATION, message=f"{known.name} was not made here"))
                continue
            if known is not None and not known.deleted:
                known.on, known.deleted, known.since_ms = False, True, self._clock()
            answers.append(_answer(node.key, Outcome.ACCEPTED, id=node.id))
        self._save()
        return answers

    async def start(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.start`."""
        return self._switch(nodes, on=True, suspend=False)

    async def stop(self, nodes: Sequence[NodeTarget], *, how: StopHow = StopHow.SOFT) -> list[OrderAnswer]:
        """As `NodeProvider.stop`."""
        return self._switch(nodes, on=False, suspend=how is StopHow.SUSPEND)

    def _switch(self, nodes: Sequence[NodeTarget], *, on: bool, suspend: bool) -> list[OrderAnswer]:
        self._begin()
        answers = []
        for node in nodes:
            known = self._find(node)
            if known is None:
                answers.append(_answer(node.key, Outcome.CONFIGURATION, message=f"there is no machine {node.name}"))
                continue
            if known.on is not on:
                known.on, known.suspended, known.since_ms = on, suspend, self._clock()
            answers.append(_answer(node.key, Outcome.ACCEPTED, id=f"sim-{known.name}"))
        self._save()
        return answers

    def _find(self, node: NodeTarget) -> _Machine | None:
        return self._machines.get(node.id.removeprefix("sim-") or node.name)

    def _begin(self) -> None:
        """Forget what was deleted and is gone by now."""
        if self._closed:
            raise Closed("the simulated driver was closed")
        gone = [one.name for one in self._machines.values() if one.deleted and self._state(one) not in _STOPPING]
        for name in gone:
            del self._machines[name]

    def _load(self) -> dict[str, _Machine]:
        if self._file is None or not self._file.exists():
            return {}
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, _Machine])
        except OSError as error:
            raise Unavailable(f"{self._file} cannot be read: {error.strerror or error}") from error
        except msgspec.DecodeError as error:
            raise Corrupt(f"{self._file} does not hold simulated machines: {error}") from error

    def _save(self) -> None:
        if self._file is None:
            return
        fresh = self._file.with_name(f"{self._file.name}.new")
        try:
            fresh.write_bytes(msgspec.json.encode(self._machines))
            os.replace(fresh, self._file)  # noqa: PTH105 - atomic, and named so
        except OSError as error:
            raise Unavailable(f"{self._file} cannot be written: {error.strerror or error}") from error

    async def close(self) -> None:
        """As `NodeProvider.close`."""
        self._closed = True

    async def list(self) -> list[ProviderNode]:
        """As `NodeProvider.list`."""
        self._begin()
        return [
            ProviderNode(
                id=f"sim-{one.name}",
                name=one.name,
                pool=one.pool,
                state=self._state(one),
                key=one.key,
                created_ms=one.created_ms,
                ours=True,
            )
            for one in self._machines.values()
        ]


_STOPPING = frozenset({ProviderState.STOPPING})


def _answer(key: str, outcome: Outcome, *, id: str = "", message: str = "") -> OrderAnswer:
    return OrderAnswer(key=key, outcome=outcome, id=id, message=message)
