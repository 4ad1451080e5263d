"""What an operator may say about Jobs on a cluster. Plain data, so that the pure parts may take it as an argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    namespace: str = "default"
    #: The image of both sidecars, and how a sidecar is started: this command, then the role (`input` or `output`).
    sidecar_image: str = "penstock:dev"
    sidecar_command: tuple[str, ...] = ("python3", "-m", "dispatcher.sidecar")
    #: Variables of both sidecars (where the store is, and the like). Never a credential: those are in the Secrets.
    sidecar_env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: User and group number of the sidecars: any but root.
    sidecar_uid: int = 65532
    sidecar_cpu_millis: int = 20
    sidecar_memory_bytes: int = 64 * 2**20
    #: A sidecar that needs more is broken: it streams.
    sidecar_memory_limit_bytes: int = 256 * 2**20
    #: Secrets with the store account of the function, one for each sidecar; `{uid}` is the function's. "" = none.
    input_secret: str = ""
    output_secret: str = ""
    #: What stands between the platform and the script: the text that is mounted as /oscar/config/launcher.sh, and the
    #: command of `oscar-container`.
    launcher: str = ""
    user_command: tuple[str, ...] = ("/bin/sh", "/oscar/config/launcher.sh", "/oscar/run", "/oscar/config/script.sh")
    #: The user's container too meets the restricted Pod Security profile; an image that runs as root is then refused
    #: by the kubelet. Off: most images run as root.
    restricted: bool = False
    #: Used when the function names no image. "" = such a function is refused.
    default_image: str = ""
    #: "" = Always for a moving tag (latest or none), IfNotPresent for a fixed tag or digest.
    pull_policy: str = ""
    sidecar_pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    #: "" = the namespace's own; its token is not mounted in either case.
    service_account: str = ""
    priority_class: str = ""
    runtime_class: str = ""
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    gpu_resource: str = "nvidia.com/gpu"
    #: What the FDL promises a function that says nothing about its size.
    default_cpu_millis: int = 200
    default_memory_bytes: int = 256 * 2**20
    #: Limit of /oscar/run (inputs and outputs of one item at a time), None = the node's disk.
    run_size_bytes: int | None = None
    #: Between TERM and KILL: time for `output` to publish what a cancelled item may keep.
    grace_s: int = 120
    #: Added to the items' own deadlines for the pull of the image, staging and publishing.
    start_slack_s: int = 1800
    #: How long a Job may wait for a node before Kubernetes ends it: scale from zero takes minutes, a delivery weeks.
    pending_limit_s: int = 7 * 24 * 3600
    #: Backstop only: the dispatcher deletes a Job as soon as its final records are durable.
    ttl_s: int = 24 * 3600
    #: Seconds that a pod stays on a node which does not answer before it is given up.
    node_loss_s: int = 30
    #: Lists of items up to this many bytes of JSON travel in an annotation, larger ones in a ConfigMap of their own.
    #: All annotations of an object share 256 KiB, and every watch event of the Job carries them.
    inline_bytes: int = 32 * 1024
    #: The ConfigMap and Secret of a function belong to its custom resource and are collected with it. Only where the
    #: registry is the custom resource: the API server would collect them at once otherwise.
    owned_by_function: bool = False
    #: Jobs that may be accepted and not running at once.
    pending_jobs: int = 500
    #: A container that cannot start (image, configuration) is given this long before its Job is ended.
    start_limit_s: float = 300.0
    #: After this long without progress a Job gets words that say what it waits for.
    name_after_s: float = 20.0
