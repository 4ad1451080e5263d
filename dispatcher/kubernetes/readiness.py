"""What a function needs before its first Job on a cluster, step by step: valid, adopted, buckets, store account."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog

from dispatcher.kubernetes.accounts import FunctionAccounts
from dispatcher.kubernetes.adoption import definition_of, what_is_wrong
from penstock.adapters.kubernetes import KubernetesRegistry
from penstock.errors import NotFound
from penstock.model import Function
from penstock.ports import ObjectStore

log = structlog.get_logger("dispatcher.readiness")


class ClusterPreparation:
    """Implements `dispatcher.preparation.Preparation`. `accounts` None = the operator supplies the Secrets."""

    def __init__(
        self,
        *,
        registry: KubernetesRegistry,
        store: ObjectStore,
        accounts: FunctionAccounts | None,
        default_image: str = "",
    ) -> None:
        self._registry = registry
        self._store = store
        self._accounts = accounts
        self._default_image = default_image
        #: Functions whose definition is wrong, with the sentence, by uid.
        self.invalid: dict[str, str] = {}

    async def prepare(self, function: Function) -> str:
        self.invalid.pop(function.uid, None)
        why = self._registry.unreadable.get(function.name, "") or what_is_wrong(
            function, default_image=self._default_image
        )
        if why:
            self.invalid[function.uid] = why
            return f"its definition is not valid: {why}"
        for entry in (*function.inputs, *function.outputs):
            if entry.own_store:
                await self._store.create_bucket(entry.bucket)
        if self._accounts is not None:
            await self._accounts.ensure(function)
        if not function.token:
            await self._adopt(function)
        return ""

    async def _adopt(self, function: Function) -> None:
        """Give what was written by hand a token and the definition that clients read."""
        definition = function.definition or definition_of(function, default_image=self._default_image)
        try:
            await self._registry.adopt(function.name, definition=definition)
        except NotFound:
            return  # deleted since
        log.info("a function of kubectl's was adopted", action="adopted", function=function.name)

    async def tidy(self, running: Mapping[str, Collection[int]], known: Collection[str]) -> None:
        for uid in set(self.invalid) - set(known):
            del self.invalid[uid]
        if self._accounts is not None:
            await self._accounts.tidy(running, known)
