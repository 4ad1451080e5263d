"""Deploys an FDL document: parse, plan against what is there, then apply.

The plan is complete before anything changes, so one bad function in a file means that nothing of it is deployed.
Buckets come first (they harm nobody if the rest fails), definitions after them, each replaced atomically and only if it
is still the one that the plan was made against.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from penstock import answers
from penstock.clock import now_ms
from penstock.errors import InvalidInput
from penstock.fdl import Draft, Start, cycles, parse_document
from penstock.model import SYSTEM_BUCKET, Function, StorageIO
from penstock.ports import ObjectStore, Registry

#: Makes a folder of a bucket visible to people; (bucket, folder). Only a directory store has such a thing.
MakeFolder = Callable[[str, str], Awaitable[None]]

#: An object of ours whose writing tells the time by the store's own clock.
CLOCK_KEY = "clock"


@dataclass(frozen=True)
class Scripts:
    """The scripts that came along with a document, by the paths that stand in it."""

    texts: Mapping[str, str]

    def __call__(self, path: str) -> str:
        if path not in self.texts:
            given = ", ".join(sorted(self.texts)[:10]) or "none"
            raise InvalidInput(f"the script {path!r} did not come with the document; those that did: {given}")
        return self.texts[path]


@dataclass(frozen=True)
class ScriptFiles:
    """Scripts on this machine, relative to the folder of their FDL file."""

    folder: Path

    def __call__(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happens to one function. `base` is the one it replaces."""

    function: Function
    start: Start
    base: Function | None = None

    @property
    def action(self) -> str:
        if self.base is None:
            return "created"
        return "unchanged" if self.function == self.base else "updated"


@dataclass(frozen=True, kw_only=True)
class Plan:
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def outcome(self) -> answers.Applied:
        """What a dry run answers."""
        return _told(((step, step.function) for step in self.steps), self.warnings)


def decide(draft: Draft, base: Function | None) -> Step:
    """Plan one function against the deployed one. Raises InvalidInput for a change that is not possible."""
    new = draft.function
    if base is None:
        return Step(function=new, start=draft.start)
    if new.volume != base.volume:
        raise InvalidInput(
            "the volume of a deployed function cannot be changed; remove the function and deploy it anew",
            where=f"function {new.name}: volume",
        )
    # A blank secret is what was read back from us: it means unchanged. Leaving a secret out removes it.
    secrets = {name: value or base.secrets.get(name, "") for name, value in new.secrets.items()}
    kept = msgspec.structs.replace(
        new,
        uid=base.uid,
        generation=base.generation,
        created_ms=base.created_ms,
        updated_ms=base.updated_ms,
        start_ms=base.start_ms,
        owner=base.owner,
        token=base.token,
        paused=base.paused,
        secrets=secrets,
    )
    return Step(function=kept, start=draft.start, base=base)


def make_plan(drafts: Iterable[Draft], deployed: Iterable[Function], warnings: Iterable[str] = ()) -> Plan:
    """Plan a document. Pure. Raises InvalidInput."""
    existing = {function.name: function for function in deployed}
    wanted: dict[str, Draft] = {}
    for draft in drafts:
        # One name on several clusters is the same function here; the parser has warned.
        wanted.setdefault(draft.function.name, draft)
    steps = tuple(decide(draft, existing.get(name)) for name, draft in wanted.items())
    after = existing | {step.function.name: step.function for step in steps}
    said = [*warnings]
    for ring in cycles(after.values()):
        if any(name in wanted for name in ring):
            hops = min(after[name].max_hops for name in ring)
            said.append(f"{' -> '.join([*ring, ring[0]])} feed each other; each object goes round until {hops} hops")
    return Plan(steps=steps, warnings=tuple(said))


class Deployer:
    def __init__(self, *, registry: Registry, store: ObjectStore, make_folder: MakeFolder | None = None) -> None:
        self._registry = registry
        self._store = store
        self._make_folder = make_folder

    async def plan(self, text: str, read_script: Callable[[str], str] | None) -> Plan:
        """Parse and plan; nothing is changed. With `read_script` None each `script` is the text itself.

        Raises InvalidInput.
        """
        document = parse_document(text, read_script=read_script, require_image=False)
        return make_plan(document.functions, await self._registry.list(), document.warnings)

    async def apply(self, plan: Plan) -> answers.Applied:
        """Carry a plan out. Raises Conflict or AlreadyExists when somebody else deployed meanwhile."""
        changing = [step for step in plan.steps if step.action != "unchanged"]
        for entry in {entry.path: entry for step in changing for entry in _own_entries(step.function)}.values():
            await self._store.create_bucket(entry.bucket)
            if entry.folder and self._make_folder is not None:
                await self._make_folder(entry.bucket, entry.folder)
        start_ms = await self._store_now() if any(step.base is None for step in changing) else 0
        done = [(step, await self._put(step, start_ms)) for step in plan.steps]
        return _told(done, plan.warnings)

    async def pause(self, name: str, *, paused: bool) -> None:
        """Raises NotFound, Conflict."""
        function = await self._registry.get(name)
        if function.paused != paused:
            changed = msgspec.structs.replace(function, paused=paused, updated_ms=now_ms())
            await self._registry.replace(changed, generation=function.generation)

    async def _put(self, step: Step, start_ms: int) -> Function:
        if step.base is not None and step.action == "unchanged":
            return step.base
        now = now_ms()
        if step.base is not None:
            changed = msgspec.structs.replace(step.function, updated_ms=now)
            return await self._registry.replace(changed, generation=step.base.generation)
        new = msgspec.structs.replace(
            step.function,
            created_ms=now,
            updated_ms=now,
            start_ms=0 if step.start is Start.EXISTING else start_ms,
        )
        return await self._registry.create(new)

    async def _store_now(self) -> int:
        """The time by the store's clock (ms), which may differ from ours, and on a disk is coarser than ours."""
        await self._store.create_bucket(SYSTEM_BUCKET)
        return (await self._store.write(SYSTEM_BUCKET, CLOCK_KEY, b"")).arrived_ms


def _own_entries(function: Function) -> list[StorageIO]:
    return [entry for entry in (*function.inputs, *function.outputs) if entry.own_store]


def _told(done: Iterable[tuple[Step, Function]], warnings: tuple[str, ...]) -> answers.Applied:
    functions = tuple(
        answers.AppliedFunction(
            name=function.name, action=step.action, uid=function.uid, generation=function.generation
        )
        for step, function in done
    )
    return answers.Applied(functions=functions, warnings=warnings)
