"""What the end-to-end tests of embedded mode share: a platform, and a user's hands and eyes on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.embedded import Embedded
from penstock.client import Client
from tests.embedded.shop import Shop
from tests.gateway.cli.conftest import Cli, cli, up
from tests.live import client, http, own_state_folder, platform, until

__all__ = ["Cli", "cli", "client", "http", "own_state_folder", "platform", "shop", "until", "up"]


@pytest.fixture
async def shop(platform: Embedded, client: Client, tmp_path: Path) -> Shop:
    return Shop(client, platform.data, tmp_path)
