"""From a JobPlan to the Kubernetes Job, as a plain dict. Pure, so that a golden file and properties can pin it.

The pod (architecture, section 8) has three regular containers in this order, and expects of the programs in them:

* `input` and `output` (our image, `settings.sidecar_command` + role) find in /oscar/job: `plan.json` (the plan without
  items, script and secrets), `items.json` (the ordered list of JobItem; `items.json.gz` when it was too long for
  plain text) and `cancel` (invocations to be cancelled, one a line with the reason behind it, which grows while the pod
  runs). Their store account, where one is configured, is in /oscar/store and is read at each use; the keys of other
  stores that outputs go to are in /oscar/stores, for `output` alone. /tmp is shared by the two of them and by nobody
  else: they talk there.
* `input`'s first instruction makes the FIFOs in /oscar/run; the launcher waits until they are there.
* `output` puts each item's `ItemResult` at `result_key(...)` in the platform's bucket before it acknowledges.
* `oscar-container` (the user's image) runs the launcher, which ends only after `output` has acknowledged every item. It
  sees /oscar/config (launcher.sh, script.sh, function_config.yaml), its own variables, secrets and token, nothing else.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dispatcher.kubernetes.checks import check
from dispatcher.kubernetes.settings import KubernetesSettings
from penstock.model import JobItem, JobPlan
from penstock.quantity import format_bytes, format_cpu

Json = dict[str, Any]

INPUT, OUTPUT, USER = "input", "output", "oscar-container"
LABEL_MANAGED = "app.kubernetes.io/managed-by"
LABEL_KIND = "penstock.dev/kind"
LABEL_FUNCTION = "penstock.dev/function"
LABEL_UID = "penstock.dev/function-uid"
LABEL_GENERATION = "penstock.dev/generation"
LABEL_JOB = "penstock.dev/job"
NOTE_DIGEST = "penstock.dev/digest"
NOTE_JOB_ID = "penstock.dev/job-id"
#: Of the Job's first item; each script sees its own.
NOTE_TRACE = "penstock.dev/traceparent"
NOTE_ITEMS = "penstock.dev/items"
NOTE_CANCEL = "penstock.dev/cancel"
KIND_JOB, KIND_FILES, KIND_ITEMS = "job", "function-files", "items"

#: The API server's 32-bit seconds would take more, but nobody waits for 60 years.
LONGEST_S = 2**31 - 1

TOKEN_VARIABLE = "OSCAR_SERVICE_TOKEN"  # noqa: S105 - the variable's name, not its value
_PLATFORM = frozenset({"RESOURCE_ID", "OSCAR_SERVICE_NAME", "JOB_UUID", "VOLUME_PATH", TOKEN_VARIABLE})
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NOT_LABEL = re.compile(r"[^-A-Za-z0-9_.]")

encode_items = msgspec.json.Encoder().encode
decode_items = msgspec.json.Decoder(tuple[JobItem, ...]).decode


def job_manifest(plan: JobPlan, settings: KubernetesSettings) -> Json:
    """The Job that runs a plan. Raises InvalidInput for what no cluster could run."""
    check(plan, settings)
    items = encode_items(plan.items)
    inline = items.decode() if len(items) <= settings.inline_bytes else None
    return assemble(
        plan,
        settings,
        name=plan.name,
        job_id=plan.id,
        digest=plan_digest(common(plan), items),
        trace=plan.items[0].traceparent,
        items=inline,
        seconds=job_seconds(plan, settings),
    )


def common(plan: JobPlan) -> JobPlan:
    """What all Jobs of a function's generation share."""
    return msgspec.structs.replace(plan, name="", id="", items=())


def plan_digest(shared: JobPlan, items: bytes) -> str:
    """What tells whether a Job of this name is this plan's: 64 hex digits. The secrets are left out: a digest that
    anyone may read could be used to try guesses.
    """
    return digest_of(public_digest(shared), items)


def public_digest(shared: JobPlan) -> bytes:
    told = msgspec.to_builtins(msgspec.structs.replace(shared, secrets={}, token="", stores={}))
    # As it was before there were other stores: the Jobs of the version before are ours too.
    del told["stores"]
    return hashlib.sha256(encode_items(told)).digest()


def digest_of(public: bytes, items: bytes) -> str:
    return hashlib.sha256(public + items).hexdigest()


def job_seconds(plan: JobPlan, settings: KubernetesSettings) -> int:
    """How long the pod may take on its node."""
    return min(LONGEST_S, math.ceil(plan.deadline_s * len(plan.items)) + settings.start_slack_s)


def files_name(shared: JobPlan) -> str:
    """Name of the ConfigMap and of the Secret of a function's generation: from their content, so they never change."""
    digest = hashlib.sha256(f"{shared.function_uid}/{shared.generation}/".encode() + public_digest(shared)).hexdigest()
    stem = re.sub(r"[^a-z0-9-]+", "-", shared.function.lower())[:40].strip("-") or "function"
    return f"{stem}-{digest[:16]}"


def stores_name(files: str) -> str:
    """Name of the Secret with the keys of other stores, beside a generation's files of this name."""
    return f"{files}-stores"


def label_value(text: str) -> str:
    """The text itself where it can be a label's value, else as much of it as can be and a hash of the rest."""
    if len(text) <= 63 and _LABEL_VALUE.fullmatch(text):
        return text
    stem = _NOT_LABEL.sub("-", text)[:50].strip("-_.")
    return f"{stem}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}".lstrip("-")


def escape(value: str) -> str:
    """The kubelet expands $(NAME) in values, so a user's data could pull in the token of its function."""
    return value.replace("$", "$$")


def labels(plan: JobPlan, kind: str) -> dict[str, str]:
    return {
        **{name: label_value(value) for name, value in plan.labels.items()},
        "oscar_service": label_value(plan.function),
        "oscar.grycap/user-service": "true",
        LABEL_MANAGED: "penstock",
        LABEL_KIND: kind,
        LABEL_FUNCTION: label_value(plan.function),
        LABEL_UID: label_value(plan.function_uid),
        LABEL_GENERATION: str(plan.generation),
    }


# The document


def assemble(
    plan: JobPlan,
    settings: KubernetesSettings,
    *,
    name: str,
    job_id: str,
    digest: str,
    trace: str,
    items: str | None,
    seconds: int,
) -> Json:
    """The Job from what is shared (`plan`) and what is its own. `items` None = in the ConfigMap of the Job."""
    marks = labels(plan, KIND_JOB)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": marks,
            "annotations": {NOTE_DIGEST: digest, NOTE_JOB_ID: job_id, NOTE_TRACE: trace},
        },
        "spec": {
            "parallelism": 1,
            "completions": 1,
            # Retries are the dispatcher's, per item.
            "backoffLimit": 0,
            "activeDeadlineSeconds": min(LONGEST_S, seconds + settings.pending_limit_s),
            "ttlSecondsAfterFinished": settings.ttl_s,
            "template": {
                "metadata": {
                    "labels": {**marks, LABEL_JOB: name},
                    "annotations": {NOTE_ITEMS: items} if items is not None else {},
                },
                "spec": _pod(plan, settings, name=name, inline=items is not None, seconds=seconds),
            },
        },
    }


def _pod(plan: JobPlan, settings: KubernetesSettings, *, name: str, inline: bool, seconds: int) -> Json:
    optional: Json = {
        "serviceAccountName": settings.service_account,
        "priorityClassName": settings.priority_class,
        "runtimeClassName": settings.runtime_class,
        "nodeSelector": dict(settings.node_selector),
        "imagePullSecrets": [{"name": secret} for secret in settings.pull_secrets],
    }
    gone = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": settings.node_loss_s}
    return {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": settings.grace_s,
        # From the start on a node, unlike the Job's, which also counts the wait for one.
        "activeDeadlineSeconds": seconds,
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", **gone},
            {"key": "node.kubernetes.io/unreachable", **gone},
            *(dict(toleration) for toleration in settings.tolerations),
        ],
        **{field: value for field, value in optional.items() if value},
        "containers": [
            _sidecar(INPUT, plan, settings, name, settings.input_secret),
            _sidecar(OUTPUT, plan, settings, name, settings.output_secret),
            _user(plan, settings, name),
        ],
        "volumes": list(_volumes(plan, settings, name, inline=inline)),
    }


def _sidecar(role: str, plan: JobPlan, settings: KubernetesSettings, name: str, secret: str) -> Json:
    mounts: list[Json] = [
        {"name": "run", "mountPath": "/oscar/run"},
        {"name": "job", "mountPath": "/oscar/job", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - inside the container; the user's has another one
    ]
    if secret:
        mounts.append({"name": f"{role}-store", "mountPath": "/oscar/store", "readOnly": True})
    if role == OUTPUT and plan.stores:
        mounts.append({"name": "other-stores", "mountPath": "/oscar/stores", "readOnly": True})
    env = {**settings.sidecar_env, "PENSTOCK_JOB": name, "PENSTOCK_FUNCTION": plan.function}
    return {
        "name": role,
        "image": settings.sidecar_image,
        "imagePullPolicy": settings.sidecar_pull_policy,
        "command": [*settings.sidecar_command, role],
        "env": [{"name": key, "value": escape(value)} for key, value in env.items()],
        "resources": {
            "requests": {
                "cpu": format_cpu(settings.sidecar_cpu_millis),
                "memory": format_bytes(settings.sidecar_memory_bytes),
            },
            "limits": {"memory": format_bytes(settings.sidecar_memory_limit_bytes)},
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.sidecar_uid,
            "runAsGroup": settings.sidecar_uid,
            "readOnlyRootFilesystem": True,
            **_restricted(),
        },
        # A sidecar that crashes explains itself on its error output only.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _restricted() -> Json:
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _user(plan: JobPlan, settings: KubernetesSettings, name: str) -> Json:
    image = plan.image or settings.default_image
    mounts: list[Json] = [
        {"name": "run", "mountPath": "/oscar/run"},
        {"name": "config", "mountPath": "/oscar/config", "readOnly": True},
    ]
    if plan.volume is not None:
        mounts.append({"name": "volume", "mountPath": plan.volume.mount_path})
    container: Json = {
        "name": USER,
        "image": image,
        "imagePullPolicy": settings.pull_policy or pull_policy(image),
        "command": list(settings.user_command),
        "env": list(_environment(plan, name)),
        "resources": _resources(plan, settings),
        # The launcher writes codes and a pointer; the tail of a user's log must not end up in the pod's status.
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }
    if has_secret(plan):
        container["envFrom"] = [{"secretRef": {"name": files_name(common(plan))}}]
    if settings.restricted:
        container["securityContext"] = {"runAsNonRoot": True, **_restricted()}
    return container


def pull_policy(image: str) -> str:
    """Always for a tag that moves, IfNotPresent for what stays the same."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in {"", "latest"} else "IfNotPresent"


def has_secret(plan: JobPlan) -> bool:
    return bool(secret_values(plan))


def secret_values(plan: JobPlan) -> dict[str, str]:
    """What the user's container gets from the Secret, in the clear."""
    values = {name: value for name, value in plan.secrets.items() if value and name not in _PLATFORM}
    return values | ({TOKEN_VARIABLE: plan.token} if plan.token else {})


def _environment(plan: JobPlan, name: str) -> Iterator[Json]:
    """`env` wins over `envFrom`, so a variable that is also a secret is left to the secret."""
    for key, value in plan.environment.items():
        if value and key not in _PLATFORM and not plan.secrets.get(key):
            yield {"name": key, "value": escape(value)}
    yield {"name": "OSCAR_SERVICE_NAME", "value": escape(plan.function)}
    yield {"name": "JOB_UUID", "value": name}
    yield {"name": "RESOURCE_ID", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    if plan.volume is not None:
        yield {"name": "VOLUME_PATH", "value": escape(plan.volume.mount_path)}


def _resources(plan: JobPlan, settings: KubernetesSettings) -> Json:
    wanted = plan.resources
    limits = {
        "cpu": format_cpu(settings.default_cpu_millis if wanted.cpu_millis is None else wanted.cpu_millis),
        "memory": format_bytes(settings.default_memory_bytes if wanted.memory_bytes is None else wanted.memory_bytes),
    }
    requests = dict(limits)
    if wanted.gpu:
        limits[settings.gpu_resource] = "1"
    return {"requests": requests, "limits": limits}


def _volumes(plan: JobPlan, settings: KubernetesSettings, name: str, *, inline: bool) -> Iterator[Json]:
    files = files_name(common(plan))
    run: Json = {} if settings.run_size_bytes is None else {"sizeLimit": format_bytes(settings.run_size_bytes)}
    yield {"name": "run", "emptyDir": run}
    yield {"name": "tmp", "emptyDir": {}}
    shown = ("launcher.sh", "script.sh", "function_config.yaml")
    yield {
        "name": "config",
        "configMap": {"name": files, "defaultMode": 0o555, "items": [{"key": key, "path": key} for key in shown]},
    }
    notes = [_note("cancel", NOTE_CANCEL)] + ([_note("items.json", NOTE_ITEMS)] if inline else [])
    sources: list[Json] = [
        {"configMap": {"name": files, "items": [{"key": "plan.json", "path": "plan.json"}]}},
        {"downwardAPI": {"items": notes}},
    ]
    if not inline:
        sources.append({"configMap": {"name": items_name(name)}})
    yield {"name": "job", "projected": {"defaultMode": 0o444, "sources": sources}}
    for role, secret in ((INPUT, settings.input_secret), (OUTPUT, settings.output_secret)):
        if secret:
            named = secret.replace("{uid}", plan.function_uid)
            yield {"name": f"{role}-store", "secret": {"secretName": named, "defaultMode": 0o444}}
    if plan.stores:
        yield {"name": "other-stores", "secret": {"secretName": stores_name(files), "defaultMode": 0o444}}
    if plan.volume is not None:
        yield {"name": "volume", "persistentVolumeClaim": {"claimName": plan.volume.name}}


def _note(path: str, annotation: str) -> Mapping[str, Any]:
    return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}


def items_name(job: str) -> str:
    """Name of the ConfigMap with a Job's list of items, where the list is long."""
    return f"{job}-items"
