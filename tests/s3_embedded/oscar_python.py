"""Runs the one program of OSCAR's Python client, for whichever platform is to be tried with it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

PROGRAM = Path(__file__).with_name("oscar_python_program.py")


async def run_program(version: str, folder: Path, *, seconds: float = 240.0, **told: Any) -> list[str]:
    """Run it in the environment of this version of the client, with `folder` (not there yet) for its files. `told` =
    what its first lines say. Returns the steps that it took; fails with its output unless all went well.
    """
    try:
        python = await asyncio.to_thread(obtain, f"oscar-python-{version[0]}")
    except MissingPart as missing:
        pytest.skip(str(missing))
    await asyncio.to_thread(folder.mkdir)
    argv: list[str | Path] = [python, "-I", PROGRAM, json.dumps({"folder": str(folder), **told})]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "all went well"
    # The client prints too.
    return [line.removeprefix("done: ") for line in lines if line.startswith("done: ")]
