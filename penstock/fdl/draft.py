"""What parsing gives: drafts of functions, and the document that held them."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from penstock.fdl.storage import Providers
from penstock.model import Function


class Start(enum.StrEnum):
    """Which objects a new function takes. The deployer, who has a clock, turns it into `Function.start_ms`."""

    NOW = "now"
    EXISTING = "existing"


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A valid function before it is deployed: no uid, generation 1, created at 0, and what the deployer needs beside.

    `function.secrets` and `storage_providers` hold values in clear; `function.definition` and the text form of a draft
    do not.
    """

    function: Function
    start: Start = Start.NOW
    #: The cluster id under which the service stood, "" in JSON.
    cluster: str = ""
    #: Credentials of other stores as given, {type: {id: fields}}; the word `hidden` = keep what is stored.
    storage_providers: Providers = {}
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Draft(name={self.function.name!r}, cluster={self.cluster!r}, warnings={len(self.warnings)})"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One FDL file. `warnings` has those of the drafts too, in the order of the file."""

    functions: tuple[Draft, ...] = ()
    warnings: tuple[str, ...] = ()
    storage_providers: Providers = {}
    #: {id: {endpoint, auth_user, ssl_verify}}; passwords are dropped while reading.
    clusters: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        names = ", ".join(draft.function.name for draft in self.functions)
        return f"Document(functions=[{names}], warnings={len(self.warnings)})"
