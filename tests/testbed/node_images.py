"""The images part as a component: puts the images on the node and tells their names.

The node itself loads pause and busybox, without which no pod runs. The Debian base with Python and the project's own
image are large and are loaded for whoever asks.
"""

from __future__ import annotations

from typing import ClassVar

from tests.testbed import images
from tests.testbed.component import Component, Member
from tests.testbed.lookup import obtain


class Images(Component):
    """Images on the bed's node."""

    name: ClassVar[str] = "images"
    busybox: ClassVar[str] = images.BUSYBOX

    async def prepare(self) -> list[Member]:
        return []

    async def start(self) -> None:
        """Load every image there is."""
        await self.python()
        if images.dockerfile() is None:
            images.without_dockerfile()
        else:
            await self.project()

    async def python(self) -> str:
        """A Debian with Python; returns its name after loading it."""
        return await self._load("base-image", images.BASE)

    async def project(self) -> str:
        """The project's image from its Dockerfile; returns its name after loading it."""
        return await self._load("project-image", images.PROJECT)

    async def digits(self) -> str:
        """The digits example's image from its Dockerfile, with a trained model; returns its name after loading it."""
        return await self._load("digits-image", images.DIGITS)

    async def _load(self, artifact: str, name: str) -> str:
        await self.bed.node.start()
        await self.bed.node.load_image(obtain(artifact))
        return name
