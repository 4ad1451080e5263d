"""OSCAR's own Python client, unmodified from its registry, against embedded mode with S3."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.s3_embedded.conftest import Bench
from tests.testbed import versions
from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

PROGRAM = Path(__file__).with_name("oscar_python_program.py")


@pytest.mark.components
@pytest.mark.slow
@pytest.mark.parametrize("version", versions.OSCAR_PYTHON)
async def test_every_method_that_its_documentation_shows(stopped: Bench, tmp_path: Path, version: str) -> None:
    try:
        python = await asyncio.to_thread(obtain, f"oscar-python-{version[0]}")
    except MissingPart as missing:
        pytest.skip(str(missing))
    folder = tmp_path / "program"
    folder.mkdir()
    async with stopped.up(apply=False):
        assert stopped.platform is not None
        services = stopped.platform.services
        told = {
            "endpoint": stopped.platform.address,
            "user": services.credentials.user,
            "password": services.credentials.token,
            "folder": str(folder),
        }
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                [python, "-I", PROGRAM, json.dumps(told)], capture_output=True, text=True, timeout=240, check=False
            )
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all went well"
