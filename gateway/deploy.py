"""Deploys an FDL document: parse, plan against what is there, then apply.

The plan is complete before anything changes, so one bad function in a file means that nothing of it is deployed.
Buckets come first (they harm nobody if the rest fails), definitions after them, each replaced atomically and only if it
is still the one that the plan was made against.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gateway import permits
from gateway.access import OWNER_NAME, Caller, allowed_users, owner_name, visibility
from gateway.bucket_book import BucketBook, BucketEntry
from gateway.intents import Intents
from penstock import answers
from penstock.clock import now_ms
from penstock.errors import InvalidInput, NotFound
from penstock.fdl import Draft, Start, cycles, parse_document, parse_service
from penstock.fdl.schema import HIDDEN
from penstock.fdl.storage import Providers
from penstock.model import SYSTEM_BUCKET, Function, StorageIO
from penstock.ports import ObjectStore, Registry
from penstock.settings_gateway import GatewayGroup

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
    new = msgspec.structs.replace(
        draft.function, storage_providers=_other_stores(draft, base.storage_providers if base is not None else {})
    )
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


def _other_stores(draft: Draft, known: Providers) -> Providers:
    """The stores beside our own that the function names, as far as the document tells of them. The word `hidden` is
    what was read back from us: it means unchanged, and nothing where nothing is known.
    """
    function = draft.function
    named = {(entry.provider, entry.provider_id) for entry in (*function.inputs, *function.outputs)}
    kept: Providers = {}
    for kind, identity in sorted(named - {("minio", "default"), ("local", "default")}):
        given = draft.storage_providers.get(kind, {}).get(identity)
        if given is not None:
            before = known.get(kind, {}).get(identity, {})
            fields = {name: before.get(name, "") if value == HIDDEN else value for name, value in given.items()}
            kept.setdefault(kind, {})[identity] = fields
    return kept


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
    def __init__(
        self,
        *,
        registry: Registry,
        store: ObjectStore,
        make_folder: MakeFolder | None = None,
        book: BucketBook | None = None,
        settings: GatewayGroup | None = None,
        require_image: bool = False,
    ) -> None:
        self._registry = registry
        self._store = store
        self._make_folder = make_folder
        self._book = book or BucketBook(store)
        self._intents = Intents(store=store, registry=registry, book=self._book)
        self._settings = settings or GatewayGroup()
        self._require_image = require_image

    async def plan(self, text: str, read_script: Callable[[str], str] | None) -> Plan:
        """Parse and plan; nothing is changed. With `read_script` None each `script` is the text itself.

        Raises InvalidInput.
        """
        document = parse_document(text, read_script=read_script, require_image=self._require_image)
        return make_plan(document.functions, await self._registry.list(), document.warnings)

    async def plan_service(self, body: Mapping[str, Any]) -> Plan:
        """As `plan`, for one service in the API's JSON."""
        draft = parse_service(body, require_image=self._require_image)
        return make_plan([draft], await self._registry.list(), draft.warnings)

    async def permit(self, plan: Plan, caller: Caller) -> Plan:
        """The plan as this caller may carry it out, what is new being his. Raises as `permits.check`."""
        entries = await self._book.all()
        there = {bucket: entries.get(bucket, BucketEntry()) for bucket in await self._store.buckets()}
        there |= entries
        deployed = await self._registry.list()
        steps = []
        for step in plan.steps:
            permits.check(caller, step.function, step.base, deployed=deployed, buckets=there, settings=self._settings)
            steps.append(_owned(step, caller))
        wanted = {bucket for step in steps for bucket in permits.buckets_of(step.function)} - set(there)
        permits.check_bucket_quota(caller, entries, len(wanted), self._settings)
        return Plan(steps=tuple(steps), warnings=plan.warnings)

    async def apply(self, plan: Plan) -> answers.Applied:
        """Carry a plan out. Raises Conflict or AlreadyExists when somebody else deployed meanwhile; what this made is
        undone then.
        """
        changing = [step for step in plan.steps if step.action != "unchanged"]
        makers = {bucket: step.function for step in reversed(changing) for bucket in permits.buckets_of(step.function)}
        there = set(await self._store.buckets()) if makers else set()
        fresh = [bucket for bucket in sorted(makers) if bucket not in there]
        markers = await self._missing_markers(changing, there)
        async with self._intents.making(fresh, markers):
            for bucket in fresh:
                await self._book.claim(bucket, _entry_for(makers[bucket]))
                await self._store.create_bucket(bucket)
            for bucket, marker in markers:
                await self._store.write(bucket, marker, b"")
            await self._show_folders(changing)
            start_ms = await self._store_now() if any(step.base is None for step in changing) else 0
            done = [(step, await self._put(step, start_ms)) for step in plan.steps]
        return _told(done, plan.warnings)

    async def _missing_markers(self, changing: list[Step], there: set[str]) -> list[tuple[str, str]]:
        """The empty objects that show folders where the store has them, as OSCAR makes them."""
        if not self._store.capabilities.folder_markers:
            return []
        places = {(entry.bucket, entry.key_prefix) for step in changing for entry in _own_entries(step.function)}
        return [
            (bucket, prefix)
            for bucket, prefix in sorted(places)
            if prefix and (bucket not in there or not await self._exists(bucket, prefix))
        ]

    async def _exists(self, bucket: str, key: str) -> bool:
        try:
            await self._store.head(bucket, key)
        except NotFound:
            return False
        return True

    async def _show_folders(self, changing: list[Step]) -> None:
        if self._make_folder is None:
            return
        for entry in {entry.path: entry for step in changing for entry in _own_entries(step.function)}.values():
            if entry.folder:
                await self._make_folder(entry.bucket, entry.folder)

    async def remove(self, name: str) -> Function:
        """Delete a function. Its buckets and objects stay; the markers of folders that nobody else uses go. Raises
        NotFound.
        """
        gone = await self._registry.delete(name)
        if self._store.capabilities.folder_markers:
            used = {
                (entry.bucket, entry.key_prefix) for one in await self._registry.list() for entry in _own_entries(one)
            }
            for entry in _own_entries(gone):
                if entry.folder and (entry.bucket, entry.key_prefix) not in used:
                    await self._drop_marker(entry.bucket, entry.key_prefix)
        return gone

    async def _drop_marker(self, bucket: str, key: str) -> None:
        try:
            if (await self._store.head(bucket, key)).size == 0:
                await self._store.delete(bucket, key)
        except NotFound:
            return

    async def recover(self, *, older_s: float) -> int:
        """Settle deployments that were cut off. Raises Unavailable."""
        return await self._intents.recover(now_ms(), older_s=older_s)

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


def _owned(step: Step, caller: Caller) -> Step:
    """What the server decides about a function: whose it is, and the name that labels show."""
    function, base = step.function, step.base
    name = (base.definition.get("labels") or {}).get(OWNER_NAME, "") if base is not None else owner_name(caller.display)
    given = {key: value for key, value in (function.definition.get("labels") or {}).items() if key != OWNER_NAME}
    definition = {**function.definition, "labels": {**given, **({OWNER_NAME: name} if name else {})}}
    owner = base.owner if base is not None else caller.uid
    return dataclasses.replace(step, function=msgspec.structs.replace(function, owner=owner, definition=definition))


def _entry_for(function: Function) -> BucketEntry:
    """A bucket made for a function is shared as the function is."""
    seen = visibility(function)
    return BucketEntry(
        owner=function.owner,
        owner_name=str((function.definition.get("labels") or {}).get(OWNER_NAME, "oscar")),
        visibility=seen,
        allowed_users=tuple(allowed_users(function)) if seen == "restricted" else (),
        from_service=function.name,
        created_ms=now_ms(),
    )


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
