"""Where the bed keeps things: finished binaries in a cache, everything else in one shared folder of this user.

Both are outside the repository. The cache is keyed by version, so two checkouts share it; the shared folder holds what
several beds on one machine must agree on (ports, slots) and a folder per running bed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """The folder of finished binaries; `PENSTOCK_TESTBED_CACHE` moves it."""
    chosen = os.environ.get("PENSTOCK_TESTBED_CACHE")
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "penstock" / "testbed"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shared_folder() -> Path:
    """What all beds of this user share; short, because Unix socket paths below it must stay under 108 bytes."""
    folder = Path(tempfile.gettempdir()) / f"penstock-testbed-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def runs_folder() -> Path:
    """One folder per running bed lies here, and the logs of beds that failed."""
    folder = shared_folder() / "runs"
    folder.mkdir(exist_ok=True)
    return folder
