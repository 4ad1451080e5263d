"""The shapes of what OSCAR's clients send and get, as types: the same field names as on the wire.

Answers hold no null where a client insists on a value. Times are RFC 3339 text, sizes bytes, processors thousandths
(OSCAR calls them cores all the same).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

#: The level of OSCAR's interface that is kept: clients show and hide features by it.
API_LEVEL = "v4.1.0"


def moment(time_ms: int) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Answer(msgspec.Struct, kw_only=True):
    """Base of what is answered: every field is always there."""


class Backend(Answer):
    name: str
    version: str


class Info(Answer):
    """`/system/info`. `version` is the level of OSCAR's interface, `penstock_version` our own."""

    version: str
    git_commit: str
    architecture: str
    kubernetes_version: str
    serverless_backend: Backend
    penstock_version: str


class ClusterConfig(Answer):
    name: str
    namespace: str
    services_namespace: str
    gpu_available: bool
    controller_service_account: str = ""
    interLink_available: bool = False  # noqa: N815 - OSCAR's name
    yunikorn_enable: bool = False
    kueue_enable: bool = False
    volume_enable: bool = False
    minio_quota_enabled: bool = False
    serverless_backend: str = "penstock"
    oidc_groups: tuple[str, ...] = ()


class MinioProvider(Answer):
    endpoint: str
    verify: bool
    access_key: str
    secret_key: str
    region: str


class Config(Answer):
    config: ClusterConfig
    minio_provider: MinioProvider
    allowed_image_repositories: tuple[str, ...] = ()


class Deployment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a service can take work, and if not why."""

    service_name: str
    state: str
    active_instances: int
    affected_instances: int
    resource_kind: str
    namespace: str = ""
    reason: str = ""
    last_transition_time: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job of a list. The last four are Penstock's own."""

    status: str
    creation_time: str
    start_time: str = ""
    finish_time: str = ""
    phase: str = ""
    reason: str = ""
    exit_code: int | None = None
    attempt: int = 1


class JobList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    jobs: dict[str, Job]
    next_page: str = ""


class Accepted(Answer):
    """What `/job` answers with 201."""

    job_id: str


class BucketMetadata(Answer):
    from_service: str
    owner_name: str


class Bucket(Answer):
    bucket_name: str
    visibility: str
    owner: str
    allowed_users: tuple[str, ...]
    metadata: BucketMetadata


class BucketObject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    object_name: str
    size_bytes: int
    last_modified: str
    owner: str = ""


class BucketPage(Bucket):
    objects: tuple[BucketObject, ...]
    next_page: str
    is_truncated: bool
    returned_items: int


class Presigned(Answer):
    object_key: str
    operation: str
    method: str
    url: str
    expires_at: str
    headers: dict[str, str] = {}


class StorageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of a service."""

    storage_provider: str
    path: str
    prefix: list[str] = []
    suffix: list[str] = []


class Variables(msgspec.Struct, frozen=True, kw_only=True):
    variables: dict[str, str] = {}
    secrets: dict[str, str] = {}


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service as answered: its definition, and what the server decides. Further fields of the FDL may be there."""

    name: str
    image: str
    cpu: str
    memory: str
    owner: str
    token: str
    visibility: str
    labels: dict[str, str]
    annotations: dict[str, str]
    expose: dict[str, Any]
    input: list[StorageEntry]
    output: list[StorageEntry]
    allowed_users: list[str]
    bucket_list: list[str]
    environment: Variables
    storage_providers: dict[str, dict[str, dict[str, Any]]]
    log_level: str
    script: str = ""
    deployment: dict[str, Any] = {}


# ---- status


class CpuMetrics(Answer):
    total_free_cores: int
    max_free_on_node_cores: int
    total_schedulable_cores: int
    total_schedulable_on_node_cores: int


class MemoryMetrics(Answer):
    total_free_bytes: int
    max_free_on_node_bytes: int
    total_schedulable_bytes: int
    max_schedulable_on_node_bytes: int


class GpuMetrics(Answer):
    total_gpu: int


class ClusterMetrics(Answer):
    cpu: CpuMetrics
    memory: MemoryMetrics
    gpu: GpuMetrics


class NodeCpu(Answer):
    capacity_cores: int
    usage_cores: int
    request_cores: int


class NodeMemory(Answer):
    capacity_bytes: int
    usage_bytes: int
    request_bytes: int


class Condition(Answer):
    type: str
    status: bool


class Node(Answer):
    name: str
    cpu: NodeCpu
    memory: NodeMemory
    gpu: int
    is_interlink: bool
    status: str
    conditions: tuple[Condition, ...]


class ClusterStatus(Answer):
    nodes_count: int
    metrics: ClusterMetrics
    nodes: tuple[Node, ...]


class OscarDeployment(Answer):
    available_replicas: int
    ready_replicas: int
    replicas: int
    creation_timestamp: str
    strategy: str
    labels: dict[str, str]


class Pods(Answer):
    total: int
    states: dict[str, int]


class Oidc(Answer):
    enabled: bool
    issuers: tuple[str, ...]
    groups: tuple[str, ...]


class OscarStatus(Answer):
    deployment_name: str
    ready: bool
    deployment: OscarDeployment
    jobs_count: int
    pods: Pods
    oidc: Oidc


class MinioStatus(Answer):
    buckets_count: int
    total_objects: int


class Status(Answer):
    cluster: ClusterStatus
    oscar: OscarStatus
    minio: MinioStatus


# ---- requests: lenient on purpose, as OSCAR's decoder is


class BucketOrder(msgspec.Struct, frozen=True, kw_only=True):
    """`bucket_name` may be `bucket/folder`."""

    bucket_name: str
    visibility: str = ""
    allowed_users: list[str] = []


class PresignOrder(msgspec.Struct, frozen=True, kw_only=True):
    """`operation` is upload or download; `expires` is another name of `expires_in` (seconds)."""

    object_key: str
    operation: str
    expires_in: int = 0
    expires: int = 0
    content_type: str = ""
    extra_headers: dict[str, str] = {}
