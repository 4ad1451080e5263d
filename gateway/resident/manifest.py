"""From a Function to what the cluster keeps for its synchronous runs, as plain dicts. Pure.

The pod is the pod of a Job with other sidecars: it is taken from the Job's own manifest, so whatever is decided there
(images, resources, Pod Security, tolerations, what user code may see) holds here too. One sidecar takes the place of
two, serves HTTP, and stays; each container of the user's has a folder of its own, which it sees as /oscar/run.

The key that the gateway proves itself with is in a Secret that only the sidecar mounts.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
import uuid
from typing import Any

import msgspec

from dispatcher.kubernetes.checks import check_shared
from dispatcher.kubernetes.files import FUNCTION_API, function_files, function_secret, secret_of, stores_secret
from dispatcher.kubernetes.manifest import (
    LABEL_GENERATION,
    LABEL_KIND,
    LABEL_MANAGED,
    LABEL_UID,
    OUTPUT,
    USER,
    assemble,
    common,
    files_name,
    has_secret,
    labels,
    stores_name,
)
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.plan import make_plan
from dispatcher.sidecar.calls import PORT, READY_PATH
from penstock.model import Function, JobPlan

Json = dict[str, Any]

KIND = "resident"
KIND_FILES = "resident-files"
KIND_KEY = "resident-key"
SIDECAR = "resident"
COMMAND = ("python3", "-m", "dispatcher.sidecar.resident")
#: On the Deployment and its pods: what they were made from, so that a change of our settings is carried out too.
NOTE_MADE = "penstock.dev/made-from"
#: Added to the longest run: the outputs of a run that ends last still have to go up.
_PUBLISH_S = 60
_SELECTOR = (LABEL_MANAGED, LABEL_KIND, LABEL_UID)


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What the installation says about resident pods."""

    slots: int = 1
    #: The longest that a run may take, in seconds: a pod that leaves gets so long for what it has begun.
    longest_s: float = 300.0


def plan_of(function: Function) -> JobPlan:
    """The function as a Job without items."""
    return common(make_plan(function, []))


def base_name(function: Function) -> str:
    """Of the Deployment and of what goes with it: one for each life of a function."""
    digest = hashlib.sha256(f"resident/{function.uid}".encode()).hexdigest()[:10]
    stem = re.sub(r"[^a-z0-9-]+", "-", function.name.lower())[:36].strip("-") or "function"
    return f"{stem}-{digest}"


def key_name(function: Function) -> str:
    return f"{base_name(function)}-key"


def _files_name(function: Function) -> str:
    """Their content decides, so what has the name is the same."""
    return f"{base_name(function)}-{files_name(plan_of(function))[-16:]}"


def _metadata(function: Function, settings: KubernetesSettings, name: str, kind: str) -> Json:
    metadata: Json = {
        "name": name,
        "namespace": settings.namespace,
        "labels": labels(plan_of(function), kind),
    }
    if settings.owned_by_function:
        metadata["ownerReferences"] = [
            {"apiVersion": FUNCTION_API, "kind": "Function", "name": function.name, "uid": str(uuid.UUID(function.uid))}
        ]
    return metadata


def files(function: Function, settings: KubernetesSettings) -> list[Json]:
    """The ConfigMap of a generation, and its Secrets: user code's, and that of other stores. Raises InvalidInput."""
    plan = plan_of(function)
    made = [function_files(plan, settings), function_secret(plan, settings)]
    metadata = _metadata(function, settings, _files_name(function), KIND_FILES)
    documents = [{**document, "metadata": metadata} for document in made if document is not None]
    stores = stores_secret(plan, settings)
    if stores is not None:
        documents.append({**stores, "metadata": {**metadata, "name": stores_name(metadata["name"])}})
    return documents


def key_secret(function: Function, settings: KubernetesSettings, key: str) -> Json:
    return secret_of(_metadata(function, settings, key_name(function), KIND_KEY), {"token": key.encode()})


def deployment(function: Function, settings: KubernetesSettings, shape: Shape, *, replicas: int) -> Json:
    """Raises InvalidInput for what no cluster could run."""
    check_shared(plan_of(function), settings)
    metadata = _metadata(function, settings, base_name(function), KIND)
    template = pod_template(function, settings, shape)
    made = made_from(template)
    metadata["annotations"] = template["metadata"]["annotations"] = {NOTE_MADE: made}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": {name: metadata["labels"][name] for name in _SELECTOR}},
            # The old ones stay until the new ones serve.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"}},
            "template": template,
        },
    }


def made_from(template: Json) -> str:
    """Of what a template is made; the same template always gives the same."""
    return hashlib.sha256(msgspec.json.encode(template, order="deterministic")).hexdigest()[:32]


def pod_template(function: Function, settings: KubernetesSettings, shape: Shape) -> Json:
    plan = plan_of(function)
    name = base_name(function)
    job = assemble(plan, settings, name=name, job_id="", digest="", items="[]", seconds=1, trace="")
    pod: Json = copy.deepcopy(job["spec"]["template"]["spec"])
    by_name = {one["name"]: one for one in pod["containers"]}
    del pod["activeDeadlineSeconds"]
    pod["restartPolicy"] = "Always"
    pod["terminationGracePeriodSeconds"] = math.ceil(shape.longest_s) + _PUBLISH_S
    users = [_user(by_name[USER], function, number) for number in range(shape.slots)]
    pod["containers"] = [_sidecar(by_name[OUTPUT], settings, shape), *users]
    pod["volumes"] = list(_volumes(pod["volumes"], function, shape))
    return {"metadata": {"labels": labels(plan, KIND)}, "spec": pod}


def _user(container: Json, function: Function, number: int) -> Json:
    made = copy.deepcopy(container)
    # There is no Job.
    made["env"] = [one for one in made["env"] if one["name"] != "JOB_UUID"]
    if has_secret(plan_of(function)):
        made["envFrom"] = [{"secretRef": {"name": _files_name(function)}}]
    for mount in made["volumeMounts"]:
        if mount["name"] == "run":
            mount["name"] = f"run-{number}"
    if number:
        made["name"] = f"{USER}-{number}"
    # What has begun is finished first: the sidecar says when.
    wait = "read -r _ </oscar/run/drained"
    made["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", wait]}}}
    return made


def _sidecar(container: Json, settings: KubernetesSettings, shape: Shape) -> Json:
    made = copy.deepcopy(container)
    made["name"] = SIDECAR
    made["command"] = list(COMMAND)
    made["env"] = [
        *(one for one in made["env"] if one["name"] != "PENSTOCK_JOB"),
        {"name": "PENSTOCK_RESIDENT_SLOTS", "value": str(shape.slots)},
    ]
    made["ports"] = [{"name": "runs", "containerPort": PORT}]
    # For people and for rolling updates; the gateway asks by itself.
    made["readinessProbe"] = {"httpGet": {"path": READY_PATH, "port": PORT}, "periodSeconds": 1}
    kept = [mount for mount in made["volumeMounts"] if mount["name"] in {"job", "tmp", "output-store", "other-stores"}]
    kept += [{"name": f"run-{number}", "mountPath": f"/oscar/slots/{number}"} for number in range(shape.slots)]
    kept.append({"name": "key", "mountPath": "/oscar/key", "readOnly": True})
    if settings.input_secret:
        kept.append({"name": "input-store", "mountPath": "/oscar/store-in", "readOnly": True})
    made["volumeMounts"] = kept
    return made


def _volumes(given: list[Json], function: Function, shape: Shape) -> list[Json]:
    made: list[Json] = []
    maps = _files_name(function)
    for volume in given:
        if volume["name"] == "run":
            made += [{"name": f"run-{number}", "emptyDir": volume["emptyDir"]} for number in range(shape.slots)]
        elif volume["name"] == "config":
            made.append({**volume, "configMap": {**volume["configMap"], "name": maps}})
        elif volume["name"] == "other-stores":
            made.append({**volume, "secret": {**volume["secret"], "secretName": stores_name(maps)}})
        elif volume["name"] == "job":
            plan = {"name": maps, "items": [{"key": "plan.json", "path": "plan.json"}], "defaultMode": 0o444}
            made.append({"name": "job", "configMap": plan})
        else:
            made.append(volume)
    made.append({"name": "key", "secret": {"secretName": key_name(function), "defaultMode": 0o444}})
    return made


def generation_of(document: Json) -> int:
    return int(document["metadata"]["labels"][LABEL_GENERATION])
