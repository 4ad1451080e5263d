"""Machines by programs of one's own: IPMI, Wake-on-LAN, the command line of a cloud, anything.

A program is started without a shell, one argument per word of the configuration. What it is about is in its
environment (PENSTOCK_NODE, ...), may be put into its arguments by name ("{name}"), and says how it ended by its exit
code. `list` prints what there is, as JSON or as lines; what is not whole (a code other than 0, JSON that breaks off, a
host that is missing) is an error and never a shorter list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from penstock.errors import Closed, Forbidden, Unavailable, Unsupported
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
from scaler.drivers.process import Finished, run
from scaler.pools import Pool

#: Exit codes beside 0, after sysexits.h where it has one. Any other is trouble that may pass.
OUTCOMES = {
    0: Outcome.ACCEPTED,
    69: Outcome.NO_CAPACITY,
    73: Outcome.CONFLICT,
    75: Outcome.TRANSIENT,
    77: Outcome.CREDENTIALS,
    78: Outcome.CONFIGURATION,
    80: Outcome.NOT_YET,
}
_WORDS = {
    "on": ProviderState.ON,
    "off": ProviderState.OFF,
    "starting": ProviderState.STARTING,
    "stopping": ProviderState.STOPPING,
    "suspended": ProviderState.SUSPENDED,
    "failed": ProviderState.FAILED,
    "unknown": ProviderState.UNKNOWN,
}
#: Last line of a plain list of made machines, without which it is not whole.
END = "end"


class CommandSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Programs as lists of arguments; () = there is none."""

    #: All machines at once, or `status` for each host.
    list: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    #: For what did not go off when asked to; () = `stop` again.
    hard_stop: tuple[str, ...] = ()
    suspend: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    #: More words for arguments, by host: {"node-01": {"address": "10.0.0.1"}}.
    hosts: dict[str, dict[str, str]] = {}
    timeout_s: float = 30.0
    #: Programs running at once.
    at_once: int = 8


class _Printed(msgspec.Struct):
    """What an action may print as JSON; everything else that it prints is ignored."""

    id: str = ""
    name: str = ""
    message: str = ""


class _Listed(msgspec.Struct):
    name: str
    state: str
    id: str = ""
    pool: str = ""
    key: str = ""
    created_ms: int = 0
    message: str = ""


Given = TypeVar("Given", NodeAdd, NodeTarget)


class CommandProvider:
    def __init__(self, spec: CommandSpec, pools: Sequence[Pool], *, environment: Mapping[str, str]) -> None:
        """`environment` is all that the programs get, beside PENSTOCK_*."""
        self._spec = spec
        self._pools = tuple(pools)
        self._hosts = {host: pool.name for pool in pools for host in pool.hosts}
        self._environment = dict(environment)
        self._gate = asyncio.Semaphore(spec.at_once)
        #: Two orders about one machine must not look at the same list.
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def capabilities(self) -> ProviderCapabilities:
        spec = self._spec
        return ProviderCapabilities(
            add_remove=bool(spec.add and spec.remove),
            start_stop=bool(spec.start and spec.stop),
            suspend=bool(spec.suspend),
        )

    async def add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        """As `NodeProvider.add`: one program per machine that the list does not have yet."""
        program = self._program("add", self._spec.add)
        async with self._lock:
            known = {one.name: one for one in await self.list()}

            async def one(node: NodeAdd) -> OrderAnswer:
                there = known.get(node.name)
                if there is not None and there.key in {"", node.key}:
                    return OrderAnswer(key=node.key, outcome=Outcome.ACCEPTED, id=there.id, name=there.name)
                if there is not None:
                    message = f"{node.name} exists by another order, {there.key}"
                    return OrderAnswer(key=node.key, outcome=Outcome.CONFLICT, message=message)
                return await self._order(program, node.key, node.name, pool=node.pool)

            return await self._all(nodes, one)

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.remove`."""
        program = self._program("remove", self._spec.remove)
        async with self._lock:
            known = {one.id for one in await self.list()}

            async def one(node: NodeTarget) -> OrderAnswer:
                if node.id not in known:
                    return OrderAnswer(key=node.key, outcome=Outcome.ACCEPTED, id=node.id)
                return await self._order(program, node.key, node.name, id=node.id)

            return await self._all(nodes, one)

    async def start(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.start`."""
        program = self._program("start", self._spec.start)
        return await self._switch(nodes, program, how="")

    async def stop(self, nodes: Sequence[NodeTarget], *, how: StopHow = StopHow.SOFT) -> list[OrderAnswer]:
        """As `NodeProvider.stop`."""
        spec = self._spec
        if how is StopHow.SUSPEND:
            return await self._switch(nodes, self._program("suspend", spec.suspend), how=how.value)
        hard = how is StopHow.HARD and bool(spec.hard_stop)
        program = spec.hard_stop if hard else self._program("stop", spec.stop)
        return await self._switch(nodes, program, how=how.value)

    async def _switch(self, nodes: Sequence[NodeTarget], program: tuple[str, ...], *, how: str) -> list[OrderAnswer]:
        async def one(node: NodeTarget) -> OrderAnswer:
            return await self._order(program, node.key, node.name or node.id, id=node.id, how=how)

        return await self._all(nodes, one)

    def _program(self, name: str, program: tuple[str, ...]) -> tuple[str, ...]:
        if self._closed:
            raise Closed("the driver was closed")
        if not program:
            raise Unsupported(f"this driver has no program to {name}: configure {name!r}")
        return program

    @staticmethod
    async def _all(nodes: Sequence[Given], one: Callable[[Given], Awaitable[OrderAnswer]]) -> list[OrderAnswer]:
        return list(await asyncio.gather(*(one(node) for node in nodes)))

    async def _order(
        self, program: tuple[str, ...], key: str, name: str, *, id: str = "", pool: str = "", how: str = ""
    ) -> OrderAnswer:
        done = await self._run(program, key=key, name=name, id=id, pool=pool, how=how)
        outcome = Outcome.TRANSIENT if done.code is None else OUTCOMES.get(done.code, Outcome.TRANSIENT)
        printed = _printed(done.stdout)
        if outcome is Outcome.ACCEPTED:
            return OrderAnswer(
                key=key,
                outcome=outcome,
                id=printed.id or id or name,
                name=printed.name or name,
                message=printed.message,
            )
        return OrderAnswer(key=key, outcome=outcome, message=printed.message or done.why(program[0]))

    async def _run(self, program: tuple[str, ...], *, name: str = "", pool: str = "", **more: str) -> Finished:
        """Raises Unavailable (it cannot be started)."""
        words = {"name": name, "pool": pool or self._hosts.get(name, ""), **more, **self._spec.hosts.get(name, {})}
        arguments = [_filled(word, words) for word in program]
        variables = {f"PENSTOCK_{'NODE' if word == 'name' else word.upper()}": text for word, text in words.items()}
        async with self._gate:
            return await run(arguments, self._environment | variables, timeout_s=self._spec.timeout_s)

    async def close(self) -> None:
        """As `NodeProvider.close`."""
        self._closed = True

    async def list(self) -> list[ProviderNode]:
        """As `NodeProvider.list`. With `status`, a host whose program fails is unknown, and the others are told."""
        if self._closed:
            raise Closed("the driver was closed")
        if not self._spec.list:
            return list(await asyncio.gather(*(self._status(host) for host in self._hosts)))
        done = await self._run(self._spec.list)
        if done.code is not None and OUTCOMES.get(done.code) is Outcome.CREDENTIALS:
            raise Forbidden(done.why(self._spec.list[0]))
        if done.code != 0:
            raise Unavailable(done.why(self._spec.list[0]))
        nodes = [self._node(one) for one in self._parsed(done.stdout)]
        missing = self._hosts.keys() - {node.name for node in nodes}
        if missing:
            raise Unavailable(f"{self._spec.list[0]} does not list {', '.join(sorted(missing)[:5])}: it is not whole")
        return nodes

    async def _status(self, host: str) -> ProviderNode:
        done = await self._run(self._spec.status, name=host)
        state, message = ProviderState.UNKNOWN, ""
        if done.code == 0:
            found = {_WORDS[word] for word in done.stdout.lower().replace(":", " ").split() if word in _WORDS}
            state = found.pop() if len(found) == 1 else ProviderState.UNKNOWN
        if state is ProviderState.UNKNOWN:
            message = done.why(self._spec.status[0])
        return ProviderNode(id=host, name=host, pool=self._hosts[host], state=state, message=message, ours=True)

    def _parsed(self, text: str) -> Sequence[_Listed]:
        stripped = text.strip()
        try:
            if stripped.startswith("["):
                return msgspec.json.decode(stripped, type=tuple[_Listed, ...])
            if stripped.startswith("{"):
                return [msgspec.json.decode(line, type=_Listed) for line in self._whole(stripped)]
        except msgspec.DecodeError as error:
            raise Unavailable(f"{self._spec.list[0]} printed JSON that cannot be read: {error}") from error
        return [self._line(line) for line in self._whole(stripped)]

    def _whole(self, text: str) -> Sequence[str]:
        """The lines; where machines are made, the last one must say that they are all."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines and lines[-1] == END:
            return lines[:-1]
        if any(pool.made for pool in self._pools):
            raise Unavailable(f"{self._spec.list[0]} did not print {END!r} as its last line: the list is not whole")
        return lines

    def _line(self, line: str) -> _Listed:
        """NAME STATE [ID [POOL [KEY]]]."""
        words = line.split()
        if not 2 <= len(words) <= 5 or words[1].lower() not in _WORDS:
            raise Unavailable(
                f"{self._spec.list[0]} printed {line[:80]!r}; a line is NAME STATE [ID [POOL [KEY]]] with a state of "
                f"{', '.join(_WORDS)}"
            )
        name, state, machine, pool, key = [*words, "", "", ""][:5]
        return _Listed(name=name, state=state, id=machine, pool=pool, key=key)

    def _node(self, one: _Listed) -> ProviderNode:
        state = _WORDS.get(one.state.lower())
        if state is None:
            raise Unavailable(
                f"{self._spec.list[0]} printed the state {one.state[:40]!r}; there are {', '.join(_WORDS)}"
            )
        pool = one.pool or self._hosts.get(one.name, "")
        return ProviderNode(
            id=one.id or one.name,
            name=one.name,
            pool=pool,
            state=state,
            key=one.key,
            created_ms=one.created_ms,
            # A host is ours to switch; a made machine is only when it carries the key that made it.
            ours=one.name in self._hosts or bool(one.key),
            message=one.message,
        )


def _printed(text: str) -> _Printed:
    """JSON with an id or name, or one word alone: the real name."""
    stripped = text.strip()
    if stripped.startswith("{"):
        try:
            return msgspec.json.decode(stripped, type=_Printed)
        except msgspec.DecodeError:
            return _Printed()
    return _Printed(name=stripped) if len(stripped.split()) == 1 else _Printed()


def _filled(word: str, words: Mapping[str, str]) -> str:
    for name, text in words.items():
        word = word.replace("{" + name + "}", text)
    return word
