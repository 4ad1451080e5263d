"""OSCAR's own Python client, unmodified from its registry, against embedded mode with S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.s3_embedded.conftest import Bench
from tests.s3_embedded.oscar_python import run_program
from tests.testbed import versions


@pytest.mark.components
@pytest.mark.slow
@pytest.mark.parametrize("version", versions.OSCAR_PYTHON)
async def test_every_method_that_its_documentation_shows(stopped: Bench, tmp_path: Path, version: str) -> None:
    async with stopped.up(apply=False):
        assert stopped.platform is not None
        credentials = stopped.platform.services.credentials
        steps = await run_program(
            version,
            tmp_path / "program",
            endpoint=stopped.platform.address,
            user=credentials.user,
            password=credentials.token,
        )
    assert steps[-1] == "end"
