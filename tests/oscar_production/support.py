"""What both ways of running it share: the client's program against the gateway of an installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.production.platform import ADMIN_PASSWORD, Platform
from tests.s3_embedded.oscar_python import run_program


async def program(platform: Platform, gateway: str, version: str, folder: Path, **told: Any) -> list[str]:
    """The steps that it took. Each version has a service and buckets of its own: buckets outlive a service."""
    return await run_program(
        version,
        folder,
        seconds=900,
        endpoint=gateway,
        user="oscar",
        password=ADMIN_PASSWORD,
        name=f"gray{version[0]}-{platform.mark}",
        patience_s=240,
        **told,
    )
