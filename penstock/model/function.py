"""A function: what OSCAR calls a service, validated and frozen. Made by `penstock.fdl`, kept by the `Registry`."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

#: Provider types whose objects live in the product's own store (embedded: the data folder; production: MinIO).
OWN_STORE = frozenset({"minio", "local"})
#: Provider types whose stores speak S3, so that outputs can be sent to them.
SPEAKS_S3 = frozenset({"minio", "s3"})

DAY_S = 24 * 3600


class StorageIO(msgspec.Struct, frozen=True, kw_only=True):
    """One `input` or `output` entry of the FDL, with `path` split into bucket and folder."""

    provider: str  # type, lower case: minio, local, s3, onedata, webdav, rucio
    provider_id: str = "default"
    bucket: str
    #: Folder below the bucket without leading or trailing slash, "" = the whole bucket.
    folder: str = ""
    #: On outputs: which relative names go here. On inputs: which names below the folder trigger.
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """How FDL refers to the store, id included."""
        return f"{self.provider}.{self.provider_id}"

    @property
    def own_store(self) -> bool:
        """Whether its objects live in this installation's own store; `minio.<id>` names another one's."""
        return self.provider in OWN_STORE and self.provider_id == "default"

    @property
    def key_prefix(self) -> str:
        """Prefix that every key of this entry has: "" or "folder/"."""
        return f"{self.folder}/" if self.folder else ""

    def accepts(self, relative: str) -> bool:
        """Tell whether a name relative to the folder passes the filters (empty filter = all)."""
        return (not self.prefix or relative.startswith(self.prefix)) and (
            not self.suffix or relative.endswith(self.suffix)
        )

    @property
    def path(self) -> str:
        return f"{self.bucket}/{self.folder}" if self.folder else self.bucket


class BatchMode(enum.StrEnum):
    SINGLE = "single"
    AUTO = "auto"
    LIST = "list"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """How many items may share a container. `SINGLE` is the default: scripts may leave files behind."""

    mode: BatchMode = BatchMode.SINGLE
    max_items: int = 1
    max_bytes: int = 0  # 0 = no limit
    linger_s: float = 0.0  # how long a list may wait for more items


class UploadOnFailure(enum.StrEnum):
    ALWAYS = "always"
    NEVER = "never"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that outlives the Job; its path is in `VOLUME_PATH`."""

    name: str
    mount_path: str
    size: str = ""
    lifecycle_policy: str = "delete"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one function may take, and its share when functions compete."""

    concurrency: int = 0  # running items at once, 0 = unlimited
    rate: float = 0.0  # items started per second, 0 = unlimited
    priority: int = 0  # -100..100, higher goes first, always
    weight: float = 1.0  # fair share among equal priorities


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How many pods serve a function's synchronous runs."""

    min_scale: int = 0  # kept ready
    max_scale: int = 0  # 0 = as many as the installation allows


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of the user container. None = the FDL did not say, so its small defaults apply on a cluster only."""

    cpu_millis: int | None = None
    memory_bytes: int | None = None
    gpu: bool = False


class Function(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    #: New at every create; survives updates. Part of every invocation id.
    uid: str = ""
    #: 1 at creation, plus one at every replace.
    generation: int = 1
    created_ms: int = 0
    updated_ms: int = 0
    #: Objects that arrived before this moment (store's clock) do not trigger. 0 = all existing ones do.
    start_ms: int = 0
    owner: str = "cluster_admin"
    token: str = ""

    image: str = ""
    script: str = ""
    inputs: tuple[StorageIO, ...] = ()
    outputs: tuple[StorageIO, ...] = ()
    environment: dict[str, str] = {}
    secrets: dict[str, str] = {}
    #: Other stores that inputs and outputs name, with their credentials, {type: {id: fields}}. Secret as a whole: kept
    #: where `secrets` are, and in no listing, log, event or definition.
    storage_providers: dict[str, dict[str, dict[str, Any]]] = {}
    resources: Resources = Resources()
    limits: Limits = Limits()
    batch: Batch = Batch()
    volume: Volume | None = None
    synchronous: Scale = Scale()
    #: Retries of the script's own failures; platform errors are retried by the platform's rule.
    retries: int = 0
    deadline_s: float = DAY_S
    upload_on_failure: UploadOnFailure = UploadOnFailure.ALWAYS
    max_hops: int = 16
    file_stage_in: bool = False  # OSCAR's spelling: true = the input is NOT downloaded
    log_level: str = "INFO"
    paused: bool = False
    #: The FDL entry as OSCAR's clients expect it back (lower-case keys, strings coerced), secrets blanked.
    definition: dict[str, Any] = {}

    @property
    def existing(self) -> bool:
        return self.start_ms == 0
