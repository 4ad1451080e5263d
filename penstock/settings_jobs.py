"""The settings of Jobs on a cluster: what their pods are made of and how long they may take.

Apart from `settings` for its length; the rules are the same. What is a list or a mapping is given as text, so that one
variable holds it: names with commas between, or JSON where Kubernetes itself has a structure.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, Json

from penstock.settings_production import ProductionGroup


class JobsGroup(ProductionGroup):
    """The Jobs that the dispatcher makes."""

    sidecar_image: str = "penstock/penstock:0.1.0"
    """Image of the two containers that stage inputs and publish outputs: Penstock's own, as installed."""
    sidecar_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When that image is pulled. A released tag never moves, so once per node is enough."""
    sidecar_uid: int = Field(default=65532, ge=1)
    """User and group number of those containers: any but root. 65532 is the image's own."""
    sidecar_cpu_millis: int = Field(default=20, ge=1)
    """Thousandths of a processor that each of them asks for. They mostly wait; small requests pack nodes well."""
    sidecar_memory_mib: int = Field(default=64, ge=16)
    """MiB that each of them asks for: they stream, so the size of files does not matter."""
    sidecar_memory_limit_mib: int = Field(default=256, ge=32)
    """MiB beyond which one is ended as broken: they stream, whatever the size of a file."""
    input_secret: str = "penstock-store-{uid}-in"  # noqa: S105 - the name of a Secret
    """Secret with the store account that reads a function's inputs, `{uid}` being the function's. Where `s3.accounts`
    is `none`, the one that the operator made."""
    output_secret: str = "penstock-store-{uid}-out"  # noqa: S105 - the name of a Secret
    """Secret with the store account that writes a function's outputs, logs and results."""
    results: Literal["store", "pod"] = "store"
    """Where the end of an item is read: `store` = the result objects that are written beside its outputs; `pod` = the
    exit of the script's container alone, for trials on simulated nodes (KWOK), where nothing really runs."""
    default_image: str = ""
    """Image of functions that name none. Empty = such a function is refused."""
    pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """When users' images are pulled. Empty = Always for a tag that moves (`latest` or none), else once per node."""
    pull_secrets: str = ""
    """Secrets with registry accounts, in the functions' namespace, with commas between. Empty = public images only."""
    service_account: str = ""
    """Service account of the pods; its token is never mounted. Empty = the namespace's own."""
    priority_class: str = ""
    """PriorityClass of the pods. Empty = the cluster's default; a low one lets other work push Jobs aside."""
    runtime_class: str = ""
    """RuntimeClass of the pods (gVisor, Kata), for scripts that nobody trusts. Empty = the nodes' default."""
    node_selector: Json[dict[str, str]] = Field(default="{}", validate_default=True)
    """Labels that a node must have, as a JSON object. Empty = any node."""
    tolerations: Json[list[dict[str, str | int]]] = Field(default="[]", validate_default=True)
    """Taints that the pods put up with, as a JSON list like a pod's own. Loss of a node is always tolerated briefly."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the device that a function with `enable_gpu` asks for one of. NVIDIA's plugin offers this one."""
    restricted: bool = False
    """Users' containers meet the restricted Pod Security profile too: an image that runs as root is then refused. Off,
    because most images do."""
    default_cpu_millis: int = Field(default=200, ge=1)
    """Thousandths of a processor for a function that does not say. 200 is what the FDL promises."""
    default_memory_mib: int = Field(default=256, ge=1)
    """MiB for a function that does not say. 256 is what the FDL promises."""
    run_size_mib: int = Field(default=0, ge=0)
    """MiB of one item's inputs and outputs on the node's disk, 0 = whatever the node has."""
    storage_class: str = ""
    """StorageClass of volumes that functions ask for. Empty = the cluster's default."""
    volume_access_mode: Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"] = "ReadWriteOnce"
    """Access mode of those volumes. ReadWriteMany where the class can: pods of a function then run on any nodes."""
    pending: int = Field(default=500, ge=1)
    """Jobs that may wait for a place in the cluster at once; the rest waits in the queue, where it costs nothing. 500
    keep a large cluster busy; each function may have one in any case."""
    grace_s: int = Field(default=120, ge=0)
    """Seconds between TERM and KILL of a pod: time to publish what a cancelled item may keep."""
    start_limit_s: float = Field(default=300.0, gt=0)
    """Seconds that a container which cannot start (image, configuration) is given before its Job is ended."""
    start_slack_s: int = Field(default=1800, ge=0)
    """Seconds added to the items' deadlines for the pull of the image, staging and publishing."""
    pending_limit_s: int = Field(default=604800, ge=60)
    """Seconds that a Job may wait for a node. A week: growing from zero takes minutes, a delivery of nodes days."""
    ttl_s: int = Field(default=86400, ge=0)
    """Seconds after which Kubernetes itself removes a Job that ended. Only a backstop: the dispatcher removes each when
    its last record is durable, and after a longer absence it finds the results in the store."""
    node_loss_s: int = Field(default=30, ge=0)
    """Seconds that pods stay on a node which does not answer before they are given up and run elsewhere."""
    name_after_s: float = Field(default=20.0, gt=0)
    """Seconds without progress after which a Job says what it waits for."""
