"""Shapes of answers that clients read as plain JSON and that have no type of their own elsewhere."""

from __future__ import annotations

from typing import Any

import msgspec


class Ready(msgspec.Struct, frozen=True):
    ready: bool
    waiting_for: list[str] = []


class Validated(msgspec.Struct, frozen=True):
    functions: list[str]
    warnings: list[str]


class Submitted(msgspec.Struct, frozen=True):
    invocation: str


class Command(msgspec.Struct, frozen=True):
    command: str


class BucketCreated(msgspec.Struct, frozen=True):
    name: str


class StoredInfo(msgspec.Struct, frozen=True):
    bucket: str
    key: str
    etag: str
    size: int
    modified_ms: int
    arrived_ms: int
    version_id: str | None = None
    metadata: dict[str, str] = {}


class DeadEntry(msgspec.Struct, frozen=True):
    kind: str
    id: str
    function: str
    message: str
    time_ms: int


class FunctionShown(msgspec.Struct, frozen=True):
    """The definition, what the server decided, and counts. Further fields are there."""

    name: str
    uid: str
    generation: int
    owner: str
    token: str
    image: str
    script: str
    paused: bool
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    environment: dict[str, str]
    secrets: dict[str, str]
    definition: dict[str, Any]
    queued: int
    running: int
    succeeded: int
    failed: int


class Functions(msgspec.Struct, frozen=True):
    functions: list[FunctionShown]


class Sentence(msgspec.Struct, frozen=True):
    """What an error says: a word for programs, a sentence for people, and the field it is about."""

    code: str
    message: str
    where: str


class Error(msgspec.Struct, frozen=True):
    error: Sentence
