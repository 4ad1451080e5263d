"""The volumes of functions: a claim in the cluster, made when its function first runs. Pure.

A function that gives a size has its volume made; one that gives none uses a claim that is there. With the policy
`delete` the claim belongs to its function and is collected with it; with `retain` it stays.
"""

from __future__ import annotations

import dataclasses
import uuid

from dispatcher.kubernetes.files import FUNCTION_API
from dispatcher.kubernetes.manifest import Json, labels
from penstock.model import JobPlan
from penstock.quantity import format_bytes, memory_bytes

KIND_VOLUME = "function-volume"
RETAIN = "retain"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VolumeSettings:
    #: "" = the cluster's default class.
    storage_class: str = ""
    #: Pods of one function may be on several nodes only where the class offers ReadWriteMany.
    access_mode: str = "ReadWriteOnce"


def claim(plan: JobPlan, settings: VolumeSettings, *, namespace: str, owned_by_function: bool) -> Json | None:
    """The claim to make, None = the function has no volume, or one that is there already."""
    volume = plan.volume
    if volume is None or not volume.size:
        return None
    metadata: Json = {"name": volume.name, "namespace": namespace, "labels": labels(plan, KIND_VOLUME)}
    if owned_by_function and volume.lifecycle_policy != RETAIN:
        metadata["ownerReferences"] = [
            {
                "apiVersion": FUNCTION_API,
                "kind": "Function",
                "name": plan.function,
                "uid": str(uuid.UUID(plan.function_uid)),
            }
        ]
    spec: Json = {
        "accessModes": [settings.access_mode],
        "resources": {
            "requests": {
                "storage": format_bytes(memory_bytes(volume.size, where=f"function {plan.function}: volume.size"))
            }
        },
    }
    if settings.storage_class:
        spec["storageClassName"] = settings.storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
