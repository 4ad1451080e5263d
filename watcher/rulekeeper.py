"""Keeps every input bucket there and its notification rules set: after a change, and again when somebody removes them.

Only buckets' rules change while the platform runs, so the object store is never restarted for a function. What cannot
be set now is told in `troubles` and tried again; whenever rules were not as they should be, events may have been lost,
and that is a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

import structlog

from penstock.adapters.s3 import S3Store
from penstock.adapters.s3.notifications import Notifications, Rule, UnknownTarget
from penstock.errors import NotFound, PenstockError
from penstock.model import Function
from penstock.ports import Gap
from watcher.metrics import WatcherMetrics
from watcher.rules import desired, is_ours, merged, of_targets

log = structlog.get_logger("watcher.rules")

#: Seconds until a bucket whose rules cannot be set is tried again.
_RETRY_S = 5.0
#: Buckets looked at at once.
_AT_ONCE = 8


class RuleKeeper:
    """`always` are prefixes by bucket that are wanted whatever the functions are. `tell` hears of gaps."""

    def __init__(
        self,
        *,
        store: S3Store,
        arns: Collection[str],
        owner: str,
        tell: Callable[[Gap], None],
        metrics: WatcherMetrics,
        always: Mapping[str, Collection[str]] | None = None,
        check_s: float = 60.0,
        renew_s: float = 3600.0,
    ) -> None:
        self._store = store
        self._notifications = Notifications(store.client)
        self._arns = frozenset(arns)
        self._owner = owner
        self._tell = tell
        self._metrics = metrics
        self._always = dict(always or {})
        self._check_s = check_s
        self._renew_s = renew_s
        self._wanted: dict[str, list[Rule]] = {}
        self._others: frozenset[str] = frozenset()
        #: Rules that were found or set as wanted, per bucket.
        self._kept: dict[str, list[Rule]] = {}
        self._written_at: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self._missing: frozenset[str] = frozenset()
        self._renewing = False
        self._strays_gone = False
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._keeping: dict[str, asyncio.Lock] = {}

    @property
    def missing_targets(self) -> list[str]:
        """A sentence for each target that the object store does not have."""
        return [
            f"the object store has no notification target {arn}: configure it there and restart the store once"
            for arn in sorted(self._missing)
        ]

    @property
    def troubles(self) -> dict[str, str]:
        """Why a bucket's rules cannot be kept now, by bucket."""
        return dict(self._troubles)

    def learn(self, functions: Collection[Function]) -> None:
        """Buckets of outputs are made when they are missing, so that a result has a place to go to."""
        before = self._others
        self._others = frozenset(
            entry.bucket for function in functions for entry in function.outputs if entry.own_store
        )
        if self._others - before:
            self._wake.set()

    async def want(self, prefixes: Mapping[str, Collection[str]]) -> None:
        """From now on these rules are kept. Returns when each bucket that changed was tried once."""
        before = self._wanted
        self._wanted = desired({**prefixes, **self._always}, self._arns, self._owner)
        changed = [bucket for bucket, rules in self._wanted.items() if before.get(bucket) != rules]
        gone = [bucket for bucket in before if bucket not in self._wanted]
        for bucket in gone:
            self._kept.pop(bucket, None)
        await self._look_at([*changed, *gone], renew=False)

    def renew(self) -> None:
        """Write all rules again soon: the store may show them and not follow them, as after a bad start."""
        self._renewing = True
        self._wake.set()

    async def run(self) -> None:
        while True:
            pause = _RETRY_S if self._troubles else self._check_s
            try:
                async with asyncio.timeout(min(pause, self._check_s)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await self.turn()

    async def turn(self) -> None:
        """Look at everything once."""
        self._wake.clear()
        renew, self._renewing = self._renewing, False
        # A bucket that is neither input nor output any more is nobody's trouble.
        buckets = set(self._wanted) | self._others
        for bucket in set(self._troubles) - buckets:
            del self._troubles[bucket]
        await self._look_at(sorted(buckets), renew=renew)
        if not self._strays_gone and not self._troubles and self._wanted:
            await self._remove_strays()

    async def _look_at(self, buckets: Collection[str], *, renew: bool) -> None:
        async def one(bucket: str) -> None:
            async with self._slots, self._keeping.setdefault(bucket, asyncio.Lock()):
                await self._keep(bucket, renew=renew)

        await asyncio.gather(*(one(bucket) for bucket in buckets))
        self._metrics.rules_failing.set(len(self._troubles))
        for arn in self._arns:
            self._metrics.targets_missing.labels(arn).set(arn in self._missing)

    async def _keep(self, bucket: str, *, renew: bool) -> None:
        wanted = self._wanted.get(bucket, [])
        try:
            changed = await self._set(bucket, wanted, renew=renew)
        except PenstockError as error:
            self._note_trouble(bucket, error.message)
            return
        late = self._troubles.pop(bucket, "")
        known = self._kept.get(bucket) == wanted and bool(wanted)
        self._kept[bucket] = wanted
        if known and changed:
            self._metrics.rules_repaired.inc()
            log.warning(
                "notification rules had been changed and were set again", action="rules_repaired", bucket=bucket
            )
        if (known and changed) or late:
            self._tell(Gap(bucket=bucket, why="its notification rules were not as they should be"))

    def _note_trouble(self, bucket: str, sentence: str) -> None:
        if self._troubles.get(bucket) != sentence:
            log.warning(
                "the notification rules of a bucket cannot be kept; its objects are found by listing",
                action="rules_failed",
                bucket=bucket,
                error=sentence,
            )
        self._troubles[bucket] = sentence

    async def _set(self, bucket: str, wanted: list[Rule], *, renew: bool) -> bool:
        """Make the rules so; True = they were not. Raises what the store raises."""
        try:
            existing = await self._notifications.get(bucket)
        except NotFound:
            if bucket not in self._wanted and bucket not in self._others:
                return False
            if await self._store.create_bucket(bucket):
                log.info("a bucket was made", action="bucket_made", bucket=bucket)
            existing = []
        rules = merged(existing, wanted, self._owner)
        now = asyncio.get_running_loop().time()
        old = now > self._written_at.get(bucket, now) + self._renew_s
        self._written_at.setdefault(bucket, now)
        if rules is None and (not wanted or not (renew or old)):
            return False
        await self._write(bucket, existing, wanted)
        self._written_at[bucket] = now
        return rules is not None

    async def _write(self, bucket: str, existing: list[Rule], wanted: list[Rule]) -> None:
        """Write rules for all targets, or for those that there are. Raises UnknownTarget when one is missing."""
        others = [rule for rule in existing if not is_ours(rule, self._owner)]
        self._metrics.rules_written.inc()
        try:
            await self._notifications.put(bucket, [*others, *wanted])
        except UnknownTarget:
            await self._write_some(bucket, others, wanted)
            raise
        self._missing -= {rule.arn for rule in wanted}

    async def _write_some(self, bucket: str, others: list[Rule], wanted: list[Rule]) -> None:
        """Find out which targets there are, since the store refuses the whole for one that is not."""
        good: set[str] = set()
        for arn in sorted(self._arns):
            try:
                await self._notifications.put(bucket, [*others, *of_targets(wanted, {*good, arn})])
            except UnknownTarget:
                self._missing |= {arn}
            else:
                good.add(arn)
        self._missing -= good

    async def _remove_strays(self) -> None:
        """Once per life: rules of ours on buckets that no function reads any more, from when we were not there."""
        try:
            for bucket in await self._store.buckets():
                if bucket in self._wanted:
                    continue
                try:
                    existing = await self._notifications.get(bucket)
                    if any(is_ours(rule, self._owner) for rule in existing):
                        await self._write(bucket, existing, [])
                except NotFound:
                    continue
        except PenstockError as error:
            log.info("old notification rules were not looked for", action="strays_kept", error=error.message)
        self._strays_gone = True
