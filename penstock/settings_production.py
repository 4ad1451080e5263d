"""The settings of the production profile: where the object store, the log and the cluster are, and who we are there.

Kept apart from `settings`, which embedded mode needs too, only because of its length; the rules are the same. A
password or key is better given as a file (mounted from a Secret, read again when it changes) than as a variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ProductionGroup(BaseModel):
    """A group of settings: frozen, and an unknown name is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class S3Group(ProductionGroup):
    """The object store in production: MinIO or any S3 endpoint."""

    endpoint: str = ""
    """`http[s]://HOST[:PORT]` as the services reach it. Empty = there is none (embedded mode)."""
    pod_endpoint: str = ""
    """The same store as pods of Jobs reach it. Empty = the same address."""
    public_endpoint: str = ""
    """The same store as users outside the cluster reach it, for presigned links. Empty = the same address."""
    region: str = "us-east-1"
    """Region that requests are signed for. `us-east-1` is what MinIO and most others expect."""
    style: Literal["path", "virtual"] = "path"
    """Where the bucket's name stands: in the path, which every store understands, or in the host name."""
    access_key: str = ""
    """Access key of this service's account. Prefer `credentials_dir`."""
    secret_key: SecretStr = SecretStr("")
    """Secret key of this service's account. Prefer `credentials_dir`."""
    credentials_dir: Path | None = None
    """Folder with the files `access_key`, `secret_key` and perhaps `session_token`, as a mounted Secret has them. Read
    again when they change, so that keys can be rotated without a restart; wins over the two settings above."""
    ca_file: Path | None = None
    """Authorities to trust in place of the system's, PEM. Certificates are always verified."""
    any_key: bool = False
    """The store takes every key that S3 does, `a` beside `a/b` too. Off: MinIO's rules are kept."""
    versioned: bool = False
    """New buckets keep old versions. Off: most data sets are written once, and versions cost space."""
    accounts: Literal["none", "minio"] = "minio"
    """How a function gets its own store account: `minio` = an account with a policy of its own, made by the admin
    API; `none` = the sidecars use Secrets that the operator supplies, named by `jobs.input_secret` and so on."""


class KafkaGroup(ProductionGroup):
    """The durable log in production."""

    servers: str = ""
    """`HOST:PORT`, several with commas between. Empty = no Kafka: the log is a file in `state.data` (edge profile)."""
    prefix: str = ""
    """Stands before every topic, group and transactional id, so that installations can share a cluster."""
    partitions: int = Field(default=8, ge=1)
    """Partitions of each topic, fixed at installation. 8: one broker's disks are busy with fewer already."""
    replication: int = Field(default=1, ge=1)
    """Copies of each partition. Set 3 where there are three brokers."""
    tls: bool = False
    """Encrypt, and verify the brokers' certificates."""
    ca_file: Path | None = None
    """Authorities to trust in place of the system's, PEM."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How the user name is proved, where there is one."""
    username: str = ""
    """User name that the brokers know us by, empty = none is asked for."""
    password: SecretStr = SecretStr("")
    """Password of that user. Prefer `password_file`, which a listing of the process does not show."""
    password_file: Path | None = None
    """File with the password; wins over `password`."""


class KubernetesGroup(ProductionGroup):
    """The cluster."""

    kubeconfig: Path | None = None
    """A kubeconfig. None = this process runs in a pod and uses its service account."""
    context: str = ""
    """Context of the kubeconfig, empty = its current one."""
    namespace: str = "penstock-functions"
    """Namespace of the functions and their Jobs, with nothing else in it."""
    lease_namespace: str = ""
    """Namespace of the Leases. Empty = the same as `namespace`."""
    in_flight: int = Field(default=32, ge=1)
    """Requests to the API server under way at once. 32 saturate one; more only wait in its queue."""


class StateGroup(ProductionGroup):
    """What a service keeps locally: views that can be rebuilt from the log, and in the edge profile the log itself."""

    data: Path = Path("/var/lib/penstock")
    """Folder, made if it is missing. On a volume, so that a restart reads only the tail of the log."""


class ServiceGroup(ProductionGroup):
    """The small HTTP interface of every service that is a process of its own: health, readiness, metrics."""

    listen: str = "127.0.0.1:9090"
    """Host and port of /health, /ready and /metrics. Loopback unless said otherwise; the chart sets the pod's."""
