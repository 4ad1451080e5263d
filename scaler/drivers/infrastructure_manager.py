"""Machines by an Infrastructure Manager: one infrastructure that grows and shrinks, over its REST interface.

Each machine is a system of its own name with a tag that holds the order's key, so that after a lost answer it is found
again and no twin is made. States come from one call for all machines; what a machine is called is read once. Adding is
by RADL with one `deploy` per machine, removing by id: never by a count, which deletes the wrong ones. An error is never
an empty list: an infrastructure that was there and is not known any more stops the driver with that sentence, because
its machines may go on running in the cloud.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from penstock.errors import NotFound, PenstockError, Unavailable
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
from scaler.drivers.im_client import ImClient, Rejected
from scaler.drivers.radl import Template, Told, document, read_machine

log = structlog.get_logger("scaler")

_STATES = {
    "pending": ProviderState.STARTING,
    "running": ProviderState.STARTING,  # booted, not configured yet
    "configured": ProviderState.ON,
    "unconfigured": ProviderState.FAILED,
    "failed": ProviderState.FAILED,
    "stopped": ProviderState.SUSPENDED,
    "off": ProviderState.OFF,
    "deleting": ProviderState.STOPPING,
}
_ALIVE = frozenset({"pending", "running", "configured", "unconfigured", "stopped", "unknown"})


class InfrastructureManagerProvider:
    """`name` marks the infrastructure that this driver makes; `file` remembers which it is, and must outlive it."""

    def __init__(self, client: ImClient, *, name: str, templates: Mapping[str, Template], file: Path) -> None:
        self._client = client
        self._name = name
        self._templates = dict(templates)
        self._file = file
        #: What machines are called, by id in this infrastructure.
        self._told: dict[str, Told] = {}
        self._told_of = ""
        self._mended: set[str] = set()
        #: One change at a time: what is added is first looked for, what is removed is first listed.
        self._lock = asyncio.Lock()
        self._launching: dict[frozenset[str], asyncio.Task[list[OrderAnswer]]] = {}

    @property
    def capabilities(self) -> ProviderCapabilities:
        return ProviderCapabilities(add_remove=True, start_stop=True, suspend=True, largest_call=50)

    # The infrastructure

    async def _infrastructure(self) -> str:
        """Its id; "" = it was never made. Raises Unavailable, Forbidden."""
        try:
            known = self._file.read_text(encoding="ascii").strip() if self._file.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self._file}, which names the infrastructure, cannot be read") from error
        return known or await self._adopt()

    async def _adopt(self) -> str:
        """One that was made although nobody could note it any more is found by its mark."""
        marked = []
        listed = await self._client.get("/infrastructures")
        for entry in listed["uri-list"]:
            found = _last(entry["uri"])
            with contextlib.suppress(NotFound):
                radl = await self._client.get(f"/infrastructures/{found}/radl")
                if f"penstock_driver = '{self._name}'" in " ".join(str(radl.get("radl", "")).split()):
                    marked.append(found)
        if len(marked) > 1:
            raise Unavailable(
                f"{len(marked)} infrastructures carry the mark of driver {self._name}: destroy all but one, or name it "
                f"in {self._file}"
            )
        if marked:
            self._note(marked[0])
        return marked[0] if marked else ""

    def _note(self, infrastructure: str) -> None:
        fresh = self._file.with_name(f"{self._file.name}.new")
        try:
            fresh.write_text(f"{infrastructure}\n", encoding="ascii")
            fresh.replace(self._file)
        except OSError as error:
            raise Unavailable(f"{self._file} cannot be written: {error.strerror or error}") from error

    async def _states(self, infrastructure: str) -> dict[str, str]:
        """State of every machine by its id, in one call."""
        try:
            answer = await self._client.get(f"/infrastructures/{infrastructure}/state")
        except NotFound as error:
            raise Unavailable(
                f"the Infrastructure Manager does not know infrastructure {infrastructure} any more; its machines may "
                f"still run in the cloud. Restore it, or look there and then delete {self._file} to begin anew"
            ) from error
        states: dict[str, str] = answer["state"]["vm_states"]
        for gone in self._told.keys() - states.keys():
            del self._told[gone]
        return states

    async def _known(self, infrastructure: str) -> dict[str, tuple[Told, str]]:
        """All machines by id, each with its state. Raises as `list`."""
        if infrastructure != self._told_of:
            # Ids begin anew in each.
            self._told_of = infrastructure
            self._told.clear()
            self._mended.clear()
        states = await self._states(infrastructure)
        for vm in states.keys() - self._told.keys():
            try:
                answer = await self._client.get(f"/infrastructures/{infrastructure}/vms/{vm}")
            except NotFound:
                continue  # deleted between the two calls
            self._told[vm] = read_machine(answer)
        return {vm: (self._told[vm], state) for vm, state in states.items() if vm in self._told}

    # Adding

    async def add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        """As `NodeProvider.add`. The launch goes on when the caller is cancelled; the same order again joins it."""
        keys = frozenset(node.key for node in nodes)
        task = self._launching.get(keys)
        if task is None:
            task = asyncio.create_task(self._add(nodes), name="launch machines")
            self._launching[keys] = task
            task.add_done_callback(lambda _: self._launching.pop(keys, None))
            task.add_done_callback(_heard)
        return await asyncio.shield(task)

    async def _add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        async with self._lock:
            infrastructure = await self._infrastructure()
            known = await self._known(infrastructure) if infrastructure else {}
            answers: dict[str, OrderAnswer] = {}
            wanted = []
            for node in nodes:
                there = next(((vm, told) for vm, (told, state) in known.items() if _is(told, node, state)), None)
                if node.pool not in self._templates:
                    answers[node.key] = _refused(node, f"driver {self._name} has no template for pool {node.pool}")
                elif there is None:
                    wanted.append(node)
                elif there[1].key == node.key:
                    answers[node.key] = OrderAnswer(key=node.key, outcome=Outcome.ACCEPTED, id=there[0])
                else:
                    message = f"{node.name} exists by another order"
                    answers[node.key] = OrderAnswer(key=node.key, outcome=Outcome.CONFLICT, message=message)
            by_pool: dict[str, list[NodeAdd]] = {}
            for node in wanted:
                by_pool.setdefault(node.pool, []).append(node)
            for some in by_pool.values():
                infrastructure, told = await self._launch(infrastructure, some)
                answers |= {answer.key: answer for answer in told}
        return [answers[node.key] for node in nodes]

    async def _launch(self, infrastructure: str, nodes: Sequence[NodeAdd]) -> tuple[str, list[OrderAnswer]]:
        """One call for all machines of one pool."""
        template = self._templates[nodes[0].pool]
        radl = document(template, nodes, mark="" if infrastructure else self._name)
        try:
            if infrastructure:
                await self._client.launch(f"/infrastructures/{infrastructure}{template.query}", radl)
            else:
                made = await self._client.launch("/infrastructures", radl)
                infrastructure = _last(made["uri"])
                self._note(infrastructure)
        except Rejected as error:
            outcome = Outcome.NO_CAPACITY if error.full else Outcome.TRANSIENT
            outcome = Outcome.CONFIGURATION if error.wrong else outcome
            return infrastructure, [OrderAnswer(key=one.key, outcome=outcome, message=error.message) for one in nodes]
        except NotFound as error:
            raise Unavailable(error.message) from error
        # What was promised is read back: a manager whose disk is full says yes and forgets.
        return infrastructure, await self._read_back(infrastructure, nodes)

    async def _read_back(self, infrastructure: str, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        known = await self._known(infrastructure)
        answers, failed = [], []
        for node in nodes:
            mine = [(vm, state) for vm, (told, state) in sorted(known.items(), key=_by_age) if told.key == node.key]
            alive = [vm for vm, state in mine if state in _ALIVE]
            # A launch that failed stays in the list until it is deleted; a twin of a slow one is the younger of two.
            failed += [vm for vm, state in mine if state == "failed"] + alive[1:]
            if alive:
                answers.append(OrderAnswer(key=node.key, outcome=Outcome.ACCEPTED, id=alive[0]))
            else:
                message = "its launch failed in the cloud" if mine else "it is not there although it was promised"
                outcome = Outcome.NO_CAPACITY if mine else Outcome.TRANSIENT
                answers.append(OrderAnswer(key=node.key, outcome=outcome, message=message))
        if failed:
            log.warning("launches failed", action="launch_failed", driver=self._name, machines=failed)
            try:
                await self._client.send("DELETE", f"/infrastructures/{infrastructure}/vms/{','.join(failed)}?context=0")
            except PenstockError as error:
                log.warning("failed launches remain", action="launch_failed", driver=self._name, error=error.message)
        return answers

    # Removing and switching

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.remove`, in one call. A machine without our tag is refused."""
        async with self._lock:
            infrastructure = await self._infrastructure()
            known = await self._known(infrastructure) if infrastructure else {}
            foreign = {node.key for node in nodes if node.id in known and not known[node.id][0].key}
            mine = sorted({node.id for node in nodes if node.id in known and node.key not in foreign})
            trouble = ""
            if mine:
                trouble, known = await self._delete(infrastructure, mine)
        answers = []
        for node in nodes:
            if node.key in foreign:
                answers.append(_refused(node, f"machine {node.id} does not carry Penstock's tag"))
            elif trouble and node.id in known:
                answers.append(OrderAnswer(key=node.key, outcome=Outcome.TRANSIENT, message=trouble))
            else:
                answers.append(OrderAnswer(key=node.key, outcome=Outcome.ACCEPTED, id=node.id))
        return answers

    async def _delete(self, infrastructure: str, machines: list[str]) -> tuple[str, dict[str, tuple[Told, str]]]:
        """What went wrong, and what is left. One unknown id refuses the whole call, so the rest is tried once more."""
        trouble = ""
        left: dict[str, tuple[Told, str]] = {}
        for _ in range(2):
            try:
                await self._client.send("DELETE", f"/infrastructures/{infrastructure}/vms/{','.join(machines)}")
            except (NotFound, Rejected) as error:
                trouble = error.message
                left = await self._known(infrastructure)
                machines = [vm for vm in machines if vm in left]
                if not machines:
                    break
            else:
                return "", {}
        return trouble, left

    async def start(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.start`: a stopped machine comes back with its disk."""
        return await self._switch(nodes, "start", done=frozenset({"pending", "running", "configured", "unconfigured"}))

    async def stop(self, nodes: Sequence[NodeTarget], *, how: StopHow = StopHow.SOFT) -> list[OrderAnswer]:  # noqa: ARG002 - the manager knows one way
        """As `NodeProvider.stop`. Its disk is kept, however it is stopped."""
        return await self._switch(nodes, "stop", done=frozenset({"stopped", "off"}))

    async def _switch(self, nodes: Sequence[NodeTarget], word: str, *, done: frozenset[str]) -> list[OrderAnswer]:
        async with self._lock:
            infrastructure = await self._infrastructure()
            known = await self._known(infrastructure) if infrastructure else {}
            answers = []
            for node in nodes:
                if node.id not in known:
                    answers.append(_refused(node, f"there is no machine {node.id} in infrastructure {infrastructure}"))
                    continue
                outcome, message = Outcome.ACCEPTED, ""
                if known[node.id][1] not in done:
                    try:
                        await self._client.send("PUT", f"/infrastructures/{infrastructure}/vms/{node.id}/{word}")
                    except (Rejected, NotFound) as error:
                        outcome, message = Outcome.TRANSIENT, error.message
                answers.append(OrderAnswer(key=node.key, outcome=outcome, id=node.id, message=message))
        return answers

    async def _mend(self, infrastructure: str, machines: list[str]) -> None:
        """What Ansible left undone is configured once more before the machine is given up."""
        self._mended.update(machines)
        try:
            await self._client.send(
                "PUT", f"/infrastructures/{infrastructure}/reconfigure?vm_list={','.join(machines)}"
            )
        except (Rejected, NotFound, Unavailable) as error:
            log.warning("not configured anew", action="reconfigure_failed", driver=self._name, error=error.message)

    async def close(self) -> None:
        """As `NodeProvider.close`. A launch under way is let go: its machines are found again by their tags."""
        for task in list(self._launching.values()):
            task.cancel()
        await self._client.close()

    async def list(self) -> list[ProviderNode]:
        """As `NodeProvider.list`. An infrastructure that was never made has no machines; one that cannot be read, or is
        not known any more, raises.
        """
        infrastructure = await self._infrastructure()
        if not infrastructure:
            return []
        known = await self._known(infrastructure)
        undone = [vm for vm, (told, state) in known.items() if state == "unconfigured" and told.key]
        fresh = [vm for vm in undone if vm not in self._mended]
        if fresh:
            await self._mend(infrastructure, fresh)
        return [
            ProviderNode(
                id=vm,
                name=told.name,
                pool=told.pool,
                state=ProviderState.STARTING if vm in fresh else _STATES.get(state, ProviderState.UNKNOWN),
                key=told.key,
                ours=bool(told.key),
                message=state,
            )
            for vm, (told, state) in known.items()
        ]


def _is(told: Told, node: NodeAdd, state: str) -> bool:
    return told.key == node.key or (told.name == node.name and state in _ALIVE)


def _refused(node: NodeAdd | NodeTarget, message: str) -> OrderAnswer:
    return OrderAnswer(key=node.key, outcome=Outcome.CONFIGURATION, message=message)


def _last(uri: Any) -> str:
    return str(uri).rstrip("/").rsplit("/", 1)[-1]


def _by_age(entry: tuple[str, tuple[Told, str]]) -> tuple[int, str]:
    return (int(entry[0]) if entry[0].isdigit() else 0, entry[0])


def _heard(task: asyncio.Task[list[OrderAnswer]]) -> None:
    """Whoever asked may have gone; its end is not a surprise to anybody."""
    if not task.cancelled():
        task.exception()
