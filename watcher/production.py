"""The watcher over an object store that sends events: sources, rules, canary and counters around the `Watcher`.

Composed here once, for the service of its own (`python -m watcher`) and for the edge profile, where the gateway's
process runs it beside the others. The object store, the log and the registry are opened by whoever composes; what is
opened here is closed here.
"""

from __future__ import annotations

import asyncio
import platform
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from penstock.adapters.s3 import S3Store
from penstock.adapters.s3.notifications import Notifications
from penstock.errors import Unavailable
from penstock.model import SYSTEM_BUCKET
from penstock.ports import EventLog, Gap, Registry, Source
from penstock.probes import serving
from penstock.production import kafka_settings, s3_credentials
from penstock.settings import Settings
from penstock.tasks import Supervisor
from watcher.canary import FOLDER, Canary
from watcher.listing import StoredVersions
from watcher.metrics import WatcherMetrics
from watcher.options import check, webhook_token
from watcher.quarantine import Quarantine
from watcher.rulekeeper import RuleKeeper
from watcher.schedule import Policy
from watcher.seen import SeenStore
from watcher.service import Watcher
from watcher.sources.joined import JoinedSource
from watcher.sources.listen import ListenSource
from watcher.sources.topic import TopicSource
from watcher.sources.webhook import WebhookSource
from watcher.storecounters import StoreCounters

log = structlog.get_logger("watcher")

#: Positions in the store's topic are kept under this name.
GROUP = "penstock.watcher"
#: Names of the ways that events come, as metrics and logs have them.
WEBHOOK, QUICK, TOPIC, HINT = "webhook", "quick", "topic", "hint"


class ProductionWatcher:
    """Made by `open_watcher`. `run` it, `drain` it before a stop, `close` it at last."""

    def __init__(
        self,
        *,
        settings: Settings,
        watcher: Watcher,
        source: JoinedSource,
        webhooks: dict[str, WebhookSource],
        rules: RuleKeeper | None,
        canary: Canary | None,
        counters: StoreCounters | None,
        stack: AsyncExitStack,
    ) -> None:
        self.watcher = watcher
        self._settings = settings.notify
        self._source = source
        self._webhooks = webhooks
        self._rules = rules
        self._canary = canary
        self._counters = counters
        self._stack = stack
        self._ready = asyncio.Event()
        #: HOST:PORT of the webhook while it is served, else "".
        self.address = ""

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """Until cancelled; raises when a part ends, and InvalidInput, AlreadyExists, Unavailable for the webhook's
        address. `ready` is set once every input is watched.
        """
        supervisor = Supervisor()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(supervisor.close)
            if self._webhooks:
                self.address = await stack.enter_async_context(self._served())
                log.info("receiving events", action="webhook", address=self.address, path=self._settings.path)
            if self._rules is not None:
                supervisor.start("watcher-rules", self._rules.run())
            if self._canary is not None:
                supervisor.start("watcher-canary", self._canary_after_ready(self._canary))
            if self._counters is not None:
                supervisor.start("watcher-counters", self._counters.run())
            supervisor.start("watcher-ready", self._pass_on(ready))
            supervisor.start("watcher", self.watcher.run(self._ready))
            await supervisor.run()

    def waiting_for(self) -> list[str]:
        """Why it cannot do its work now, a sentence each. Events that stop arriving are no reason: others are then
        found by listing, which goes on.
        """
        reasons = [] if self._ready.is_set() else ["the functions and their buckets are not known yet"]
        if self.watcher.trouble:
            reasons.append(f"events cannot be saved: {self.watcher.trouble}")
        if self._rules is not None:
            reasons += self._rules.missing_targets
        return reasons

    async def drain(self, seconds: float) -> bool:
        """Take no more webhook requests and answer those under way; True = all were."""
        return all(await asyncio.gather(*(webhook.drain(seconds) for webhook in self._webhooks.values())))

    async def close(self) -> None:
        await self._stack.aclose()

    async def _canary_after_ready(self, canary: Canary) -> None:
        # Before, its rule may not be set, and nothing that comes is looked at.
        await self._ready.wait()
        await canary.run()

    async def _pass_on(self, ready: asyncio.Event | None) -> None:
        await self._ready.wait()
        if ready is not None:
            ready.set()
        await asyncio.get_running_loop().create_future()  # a part that ends would stop the others

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[str]:
        app = web.Application()
        path = self._settings.path
        for way, webhook in self._webhooks.items():
            app.router.add_post(path if way == WEBHOOK else f"{path.rstrip('/')}/{QUICK}", webhook.handle)
        try:
            async with serving(app, self._settings.listen) as address:
                yield address
        finally:
            self.address = ""


async def open_watcher(
    settings: Settings,
    *,
    store: S3Store,
    log: EventLog,
    registry: Registry,
    metrics: CollectorRegistry,
    data: Path,
) -> ProductionWatcher:
    """Compose the watcher of the production and the edge profile. `data` is an existing folder that stays.

    Raises InvalidInput for settings that cannot work, and Unavailable, Forbidden while the Kafka of the store's topic
    (if that is used) is away.
    """
    check(settings)
    stack = AsyncExitStack()
    try:
        return await _Composition(
            settings=settings,
            store=store,
            log=log,
            registry=registry,
            metrics=WatcherMetrics(metrics),
            data=data,
            stack=stack,
        ).watcher()
    except BaseException:
        await stack.aclose()
        raise


@dataclass(frozen=True, kw_only=True)
class _Composition:
    """The parts, in the order in which they need each other."""

    settings: Settings
    store: S3Store
    log: EventLog
    registry: Registry
    metrics: WatcherMetrics
    data: Path
    stack: AsyncExitStack

    @property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.log, self.metrics)

    async def watcher(self) -> ProductionWatcher:
        sources: dict[str, Source] = {}
        webhooks = self._webhooks()
        sources |= webhooks
        if self.settings.notify.kafka:
            sources[TOPIC] = await self._topic()
        if self.settings.notify.hint:
            sources[HINT] = ListenSource(Notifications(self.store.client), metrics=self.metrics)
        # The two are told of gaps and tell of some; both ends meet in the joined source.
        canary: Canary | None = None
        rules: RuleKeeper | None = None
        joined = JoinedSource(
            sources,
            heard=lambda way, events: canary.heard(way, events) if canary is not None else None,
            before=lambda prefixes: _want(rules, prefixes),
        )
        self.stack.push_async_callback(joined.close)

        def lost(gap: Gap) -> None:
            if rules is not None:
                rules.renew()
            joined.tell(gap)

        rules = self._rules(joined.tell)
        canary = self._canary(sources, lost)
        seen = SeenStore(self.data / "seen.sqlite")
        self.stack.push_async_callback(seen.close)
        watcher = Watcher(
            store=self.store,
            source=joined,
            log=self.log,
            registry=self.registry,
            seen=seen,
            metrics=self.metrics,
            policy=_policy(self.settings),
            listing=StoredVersions(self.store),
            learn=rules.learn if rules is not None else lambda _functions: None,
            # A gap anywhere may be a restart of the store, after which it may not follow the rules that it shows.
            on_gap=lambda gap: rules.renew() if rules is not None and not gap.bucket else None,
        )
        return ProductionWatcher(
            settings=self.settings,
            watcher=watcher,
            source=joined,
            webhooks=webhooks,
            rules=rules,
            canary=canary,
            counters=self._counters(joined.tell),
            stack=self.stack,
        )

    def _webhooks(self) -> dict[str, WebhookSource]:
        notify = self.settings.notify
        ways = [WEBHOOK] * notify.webhook + [QUICK] * (notify.webhook and bool(notify.quick_arn))
        return {
            way: WebhookSource(
                quarantine=self.quarantine,
                metrics=self.metrics,
                token=webhook_token(self.settings),
                max_body_bytes=notify.max_body_bytes,
                max_waiting=notify.max_waiting,
                answer_s=notify.answer_s,
            )
            for way in ways
        }

    async def _topic(self) -> TopicSource:
        from penstock.adapters.kafka import KafkaEventLog, KafkaSettings  # noqa: PLC0415 - an extra
        from penstock.adapters.kafka.topics import partitions_of  # noqa: PLC0415

        notify = self.settings.notify
        shared = kafka_settings(self.settings)
        own: dict[str, object] = {"prefix": "", "partitions": notify.raw_partitions, "compacted": frozenset()}
        given = {name: getattr(shared, name) for name in KafkaSettings.__dataclass_fields__} | own
        # Whoever made the topic decided how many partitions it has: it is only copied from.
        found = await partitions_of(KafkaSettings(**given), notify.raw_topic)
        raw = KafkaEventLog(KafkaSettings(**given | {"partitions": found or notify.raw_partitions}))
        self.stack.push_async_callback(raw.close)
        await raw.ensure_topics([notify.raw_topic])
        return TopicSource(
            log=raw,
            topic=notify.raw_topic,
            group=shared.name(GROUP),
            quarantine=self.quarantine,
            metrics=self.metrics,
            lost=lambda: raw.health.gap_entries,
        )

    def _arns(self) -> list[str]:
        notify = self.settings.notify
        webhooks = [arn for arn in (notify.arn, notify.quick_arn) if arn] if notify.webhook else []
        return webhooks + [notify.kafka_arn] * notify.kafka

    def _rules(self, tell: Callable[[Gap], None]) -> RuleKeeper | None:
        notify = self.settings.notify
        if not notify.rules or not self._arns():
            return None
        return RuleKeeper(
            store=self.store,
            arns=self._arns(),
            owner=notify.rule_prefix,
            tell=tell,
            metrics=self.metrics,
            always={SYSTEM_BUCKET: {FOLDER}} if notify.canary_s else {},
            check_s=notify.rules_check_s,
            renew_s=notify.rules_renew_s,
        )

    def _canary(self, sources: dict[str, Source], lost: Callable[[Gap], None]) -> Canary | None:
        notify = self.settings.notify
        # Quick ways may lose what they like; without rules of ours no canary reaches a target.
        ways = [way for way in sources if way not in {HINT, QUICK}]
        if not notify.canary_s or not notify.rules or not ways:
            return None
        return Canary(
            store=self.store,
            ways=ways,
            name=_instance(self.data),
            lost=lost,
            metrics=self.metrics,
            interval_s=notify.canary_s,
            patience_s=notify.canary_patience_s,
        )

    def _counters(self, lost: Callable[[Gap], None]) -> StoreCounters | None:
        s3, notify = self.settings.s3, self.settings.notify
        if not notify.store_metrics:
            return None
        account = s3_credentials(self.settings)

        def keys() -> tuple[str, str]:
            found = account()
            return found.access_key, found.secret_key

        return StoreCounters(
            url=s3.endpoint.rstrip("/") + notify.store_metrics,
            account=keys,
            lost=lost,
            metrics=self.metrics,
            tls=ssl.create_default_context(cafile=s3.ca_file) if s3.ca_file is not None else True,
        )


async def _want(rules: RuleKeeper | None, prefixes: object) -> None:
    if rules is not None:
        await rules.want(prefixes)  # type: ignore[arg-type]


def _policy(settings: Settings) -> Policy:
    wanted = settings.watcher
    # An object store shows an object only when it is complete: nothing has to settle.
    return Policy(
        share=wanted.listing_share,
        min_interval_s=wanted.listing_min_s,
        max_interval_s=wanted.listing_max_s,
        keys_per_minute=settings.notify.list_keys_per_minute,
    )


def _instance(data: Path) -> str:
    """A name that this watcher keeps, so that its canary is one object however often it is started."""
    path = data / "watcher-instance"
    try:
        if not path.exists():
            path.write_text(f"{platform.node() or 'watcher'}-{uuid.uuid4().hex[:8]}\n", encoding="utf-8")
        return path.read_text(encoding="utf-8").strip() or "watcher"
    except OSError as error:
        raise Unavailable(f"the folder {data} (state.data) cannot be used: {error.strerror or error}") from error
