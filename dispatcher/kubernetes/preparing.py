"""What must be in the cluster before a Job: its function's files, Secret and volume, once per generation.

What was made is remembered with the generation's template, so the hot path is one look; a namespace or a file that
vanished behind our back makes the memory worthless, and `doubt` throws it away.
"""

from __future__ import annotations

import asyncio
import collections

from dispatcher.kubernetes.client import JobApi
from dispatcher.kubernetes.files import function_files, function_secret, stores_secret
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.kubernetes.template import JobTemplate
from dispatcher.kubernetes.volumes import VolumeSettings, claim
from penstock.model import JobPlan

#: Templates kept: one per generation of a function, some 20 KB each.
TEMPLATES = 512


class FunctionObjects:
    def __init__(self, api: JobApi, settings: KubernetesSettings, volumes: VolumeSettings) -> None:
        self._api = api
        self._settings = settings
        self._volumes = volumes
        self._templates: collections.OrderedDict[tuple[str, int], JobTemplate] = collections.OrderedDict()
        self._preparing: dict[str, asyncio.Lock] = {}

    def template(self, plan: JobPlan) -> JobTemplate:
        """Raises InvalidInput for what no cluster could run."""
        key = (plan.function_uid, plan.generation)
        template = self._templates.get(key)
        if template is None or not template.fits(plan):
            template = self._templates[key] = JobTemplate(plan, self._settings)
            if len(self._templates) > TEMPLATES:
                self._templates.popitem(last=False)
        self._templates.move_to_end(key)
        return template

    async def prepare(self, template: JobTemplate, plan: JobPlan) -> None:
        """Make sure that all is there that Jobs of this generation mount. Raises as `JobApi.put`."""
        if template.prepared:
            return
        lock = self._preparing.setdefault(plan.function_uid, asyncio.Lock())
        async with lock:
            if template.prepared:
                return
            await self._api.put(function_files(plan, self._settings))
            for secret in (function_secret(plan, self._settings), stores_secret(plan, self._settings)):
                if secret is not None:
                    await self._api.put(secret)
            volume = claim(
                plan,
                self._volumes,
                namespace=self._settings.namespace,
                owned_by_function=self._settings.owned_by_function,
            )
            if volume is not None:
                await self._api.put(volume)
            template.prepared = True
        self._preparing.pop(plan.function_uid, None)

    def doubt(self, function_uid: str = "") -> None:
        """What was made (for one function, or for all) may be gone: make it again before the next Job."""
        for key in [key for key in self._templates if function_uid in {"", key[0]}]:
            del self._templates[key]
