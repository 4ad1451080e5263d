"""The fixtures of `tests.live`, for every test of this folder."""

from tests.live import COPY, client, ended, fdl, http, own_state_folder, platform, running, settings_for, until

__all__ = [
    "COPY",
    "client",
    "ended",
    "fdl",
    "http",
    "own_state_folder",
    "platform",
    "running",
    "settings_for",
    "until",
]
