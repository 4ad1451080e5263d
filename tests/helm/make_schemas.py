"""Makes the folder `schemas`: what each Kubernetes version accepts of the kinds that the chart renders.

Run by hand when a version is added, never by the tests, which need no network:

    go mod download k8s.io/kubernetes@v1.35.0 && python -m tests.helm.make_schemas "$(go env GOMODCACHE)"

The source is the API description that each Kubernetes release has in its own module (`api/openapi-spec/swagger.json`).
Explanations are left out, and what has named members may have no others, so a misspelt field is an error as it is for
`kubectl --validate=strict`. `operator.json` is written by hand: the members of the Prometheus operator's two kinds that
the chart uses.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

FOLDER = Path(__file__).parent / "schemas"
KINDS = {
    "ClusterRole": "io.k8s.api.rbac.v1.ClusterRole",
    "ClusterRoleBinding": "io.k8s.api.rbac.v1.ClusterRoleBinding",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "CustomResourceDefinition": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "FlowSchema": "io.k8s.api.flowcontrol.v1.FlowSchema",
    "Ingress": "io.k8s.api.networking.v1.Ingress",
    "Namespace": "io.k8s.api.core.v1.Namespace",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "Pod": "io.k8s.api.core.v1.Pod",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "PriorityClass": "io.k8s.api.scheduling.v1.PriorityClass",
    "PriorityLevelConfiguration": "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    "ResourceQuota": "io.k8s.api.core.v1.ResourceQuota",
    "Role": "io.k8s.api.rbac.v1.Role",
    "RoleBinding": "io.k8s.api.rbac.v1.RoleBinding",
    "Secret": "io.k8s.api.core.v1.Secret",
    "Service": "io.k8s.api.core.v1.Service",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
}
_KEPT = {"type", "properties", "required", "items", "additionalProperties", "enum", "$ref", "pattern", "anyOf", "oneOf"}


def strict(schema: Any) -> Any:
    """Only what judges, with unknown members refused."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    found: Json = {key: value for key, value in schema.items() if key in _KEPT}
    if "properties" in found:
        found["properties"] = {name: strict(one) for name, one in found["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if key in found:
            found[key] = strict(found[key])
    return found


def definitions(swagger: Json) -> Json:
    """What the kinds need of one release, by name."""
    whole, found = swagger["definitions"], {}
    waiting = list(KINDS.values())
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _one(name, whole[name])
        waiting += re.findall(r'"#/definitions/([^"]+)"', json.dumps(found[name]))
    return dict(sorted(found.items()))


def _one(name: str, schema: Json) -> Json:
    if name.endswith(".Quantity"):
        return {"type": ["string", "number"]}
    made: Json = strict(schema)
    for kind in schema.get("x-kubernetes-group-version-kind", ()):
        if name in KINDS.values():
            version = f"{kind['group']}/{kind['version']}".removeprefix("/")
            made["properties"] |= {"apiVersion": {"enum": [version]}, "kind": {"enum": [kind["kind"]]}}
            made["required"] = sorted({*made.get("required", ()), "apiVersion", "kind"})
    return made


def write(name: str, content: Json) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / name).write_text(json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n")


def main(modules: Path) -> None:
    for folder in sorted(modules.glob("k8s.io/kubernetes@v1.*")):
        release = folder.name.split("@")[1]
        swagger = json.loads((folder / "api/openapi-spec/swagger.json").read_text())
        minor = ".".join(release.split(".")[:2])
        write(f"{minor}.json", {"release": release, "definitions": definitions(swagger)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
