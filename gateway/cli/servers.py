"""Which server a command talks to: the same answer that `penstock.Client()` gets (see `penstock.client_places`)."""

from __future__ import annotations

from penstock.client_places import Connection, address, alive, find, read_token, running_servers, state_folder

__all__ = ["Connection", "address", "alive", "find", "read_token", "running_servers", "state_folder"]
