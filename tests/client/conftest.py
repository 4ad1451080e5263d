"""A real platform with one function over a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.embedded import Embedded
from penstock.client import Client, Definition
from tests.live import client, own_state_folder, platform, until

__all__ = ["client", "own_state_folder", "platform", "until"]

#: Fails on files that say so, and tells each run by its own means.
SCRIPT = """\
echo "reading $(basename "$INPUT_FILE_PATH")"
echo "$INPUT_FILE_PATH" >> SEEN
if grep -q FAIL "$INPUT_FILE_PATH"; then echo "cannot shout this"; exit 3; fi
tr a-z A-Z < "$INPUT_FILE_PATH" > "$TMP_OUTPUT_DIR/$(basename "$INPUT_FILE_PATH").up"
"""


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def count(self) -> int:
        return len(self.path.read_text().splitlines()) if self.path.exists() else 0


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.fixture
async def upper(platform: Embedded, client: Client, runs: Runs) -> Definition:
    script = SCRIPT.replace("SEEN", f"'{runs.path}'")
    made = Definition(name="upper", script=script, inputs=["texts/in"], outputs=["texts/out"])
    await client.deploy(made)
    return made
