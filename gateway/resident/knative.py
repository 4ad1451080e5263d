"""A function as a Knative Service, where Knative is installed. Pure.

The same two kinds of container as in our own Deployment; Knative decides how many pods there are and holds runs while
one wakes. What it does not let a Service say is left out: the node's name in RESOURCE_ID, and our hook at the end of a
container, in whose place Knative puts its own. What its operator must allow by a feature flag (node selector,
tolerations, priority, runtime class, a volume of the function's) is there only if we were told to use it.
"""

from __future__ import annotations

import copy
from typing import Any

from dispatcher.kubernetes.manifest import USER
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.sidecar.calls import PORT
from gateway.resident import manifest
from gateway.resident.manifest import NOTE_MADE, SIDECAR, Json, Shape, made_from
from gateway.resident.scaling import Bounds
from penstock.model import Function

GROUP = "serving.knative.dev"
API = f"{GROUP}/v1"
#: Longer ones need another word of Knative's operator (max-revision-timeout-seconds).
LONGEST_S = 600
_LONGEST_RETENTION_S = 3600
_POD_KEYS = frozenset(
    {"containers", "volumes", "imagePullSecrets", "serviceAccountName", "enableServiceLinks", "nodeSelector"}
    | {"automountServiceAccountToken", "tolerations", "priorityClassName", "runtimeClassName"}
)


def service(function: Function, settings: KubernetesSettings, shape: Shape, limits: Bounds, *, idle_s: float) -> Json:
    """The Knative Service. Raises InvalidInput for what no cluster could run."""
    made = manifest.deployment(function, settings, shape, replicas=0)
    template = _template(made["spec"]["template"], settings, shape)
    template["metadata"] = {
        "labels": made["metadata"]["labels"],
        "annotations": {
            "autoscaling.knative.dev/min-scale": str(limits.low),
            "autoscaling.knative.dev/max-scale": str(limits.high),
            "autoscaling.knative.dev/scale-to-zero-pod-retention-period": f"{min(int(idle_s), _LONGEST_RETENTION_S)}s",
        },
    }
    metadata = {
        **made["metadata"],
        # Only from inside the cluster: users come through the gateway.
        "labels": {**made["metadata"]["labels"], "networking.knative.dev/visibility": "cluster-local"},
        "annotations": {NOTE_MADE: made_from(template)},
    }
    return {"apiVersion": API, "kind": "Service", "metadata": metadata, "spec": {"template": template}}


def _template(template: Json, settings: KubernetesSettings, shape: Shape) -> Json:
    pod: Json = {key: value for key, value in copy.deepcopy(template["spec"]).items() if key in _POD_KEYS}
    pod["tolerations"] = [dict(one) for one in settings.tolerations]
    if not pod["tolerations"]:
        del pod["tolerations"]
    for container in pod["containers"]:
        _adapt(container)
    pod["containerConcurrency"] = shape.slots
    pod["timeoutSeconds"] = min(LONGEST_S, int(shape.longest_s))
    return {"spec": pod}


def _adapt(container: Json) -> None:
    container.pop("lifecycle", None)
    container["env"] = [one for one in container.get("env", ()) if "valueFrom" not in one]
    security: dict[str, Any] = container.get("securityContext", {})
    # Knative takes no word about it, and nobody is privileged there.
    security.pop("privileged", None)
    if container["name"] == SIDECAR:
        container["ports"] = [{"name": "http1", "containerPort": PORT}]
    elif not container["name"].startswith(USER):
        raise AssertionError(container["name"])


def outdated(found: Json, wanted: Json) -> bool:
    """Whether the Service that is there is to be replaced."""
    there, here = manifest.generation_of(found), manifest.generation_of(wanted)
    notes = found["metadata"].get("annotations") or {}
    return there < here or (there == here and notes.get(NOTE_MADE) != wanted["metadata"]["annotations"][NOTE_MADE])


def replaced(found: Json, wanted: Json) -> Json:
    """What to send in place of what is there: Knative's own annotations cannot be taken back."""
    notes = (found["metadata"].get("annotations") or {}) | wanted["metadata"]["annotations"]
    version = found["metadata"]["resourceVersion"]
    return {**wanted, "metadata": {**wanted["metadata"], "annotations": notes, "resourceVersion": version}}


def address_of(found: Json) -> str:
    """Where it is called, "" = it is not set up yet."""
    status = found.get("status") or {}
    return str((status.get("address") or {}).get("url") or "")


def trouble_of(found: Json) -> str:
    """Why it is not set up, "" = nothing is known to be wrong."""
    for condition in (found.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") == "False":
            return f"Knative says: {condition.get('reason', '')} {str(condition.get('message', ''))[:300]}".strip()
    return ""
