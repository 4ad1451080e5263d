"""The schema of the chart's values: what each value means, which type it has, and which names there are.

It is written here and not by hand in JSON because half of it is Penstock's own settings, whose names, types and
explanations already stand in `penstock.settings`. Helm refuses a value that does not fit by its name, before anything
is installed; a setting that the services would refuse at their start must not get that far.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from penstock.settings import Settings

Schema = dict[str, Any]

#: Settings that the chart itself decides, because mounts, ports and rights depend on them.
CHART_OWNS = frozenset(
    {
        "s3.credentials_dir",
        "s3.ca_file",
        "kafka.password_file",
        "kafka.ca_file",
        "kubernetes.kubeconfig",
        "kubernetes.context",
        "kubernetes.namespace",
        "kubernetes.lease_namespace",
        "state.data",
        "service.listen",
        "http.listen",
        "http.allow_remote",
        "gateway.credentials_dir",
        "gateway.tls_cert",
        "gateway.tls_key",
        "gateway.scaler",
        "gateway.scaler_token_file",
        "jobs.sidecar_image",
        "jobs.sidecar_pull_policy",
        "scaler.pools",
        "scaler.state",
        "scaler.listen",
        "scaler.token_file",
        "notify.listen",
        "notify.path",
        "notify.token_file",
    }
)
#: Groups of embedded mode, which no chart starts.
NOT_HERE = frozenset({"up", "runner"})


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def number(description: str, least: int = 0) -> Schema:
    return {"type": "integer", "minimum": least, "description": description}


def words(description: str) -> Schema:
    return {"type": "array", "items": {"type": "string"}, "description": description}


def free(description: str) -> Schema:
    """An object of Kubernetes' own, which the API server judges."""
    return {"type": "object", "description": description}


def pairs(description: str) -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string"}, "description": description}


def listed(description: str) -> Schema:
    return {"type": "array", "items": {"type": "object"}, "description": description}


def group(description: str, properties: Mapping[str, Schema], **more: Any) -> Schema:
    """An object that has these members and no other."""
    return {
        "type": "object",
        "additionalProperties": False,
        "description": description,
        "properties": dict(properties),
        **more,
    }


def document() -> Schema:
    """The whole schema."""
    values = group("Values of the chart penstock.", {**_general(), **_services(), **_cluster()})
    # Helm hands these to a chart that is part of another one.
    values["properties"] |= {"global": free("Values of a parent chart; not used."), "enabled": flag("Not used.")}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "penstock", **values}


QUANTITY = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


def _persistence(what: str) -> Schema:
    return group(
        f"The volume {what}.",
        {
            "enabled": flag("False = in the pod alone, gone with it."),
            "size": text("Size of the volume.", pattern=QUANTITY),
            "storageClass": text("Storage class; empty = the cluster's default."),
        },
    )


def _general() -> dict[str, Schema]:
    secret = text("Name of a Secret of yours; empty = the chart makes one.")
    return {
        "nameOverride": text("Replaces the chart's name in the names of objects."),
        "fullnameOverride": text("Replaces release and chart name in the names of objects."),
        "mode": text(
            "services = one workload per service, meeting on Kafka; edge = one pod with a log in a file.",
            enum=["services", "edge"],
        ),
        "image": group(
            "Penstock's own image, also of the sidecars in Jobs.",
            {
                "repository": text("Where it is, without tag.", minLength=1),
                # `latest` would change under a running platform, and what is running could not be told.
                "tag": {
                    "type": ["string", "integer"],
                    "not": {"const": "latest"},
                    "description": "Tag; empty = the chart's version. Never latest.",
                },
                "digest": text("Digest, which wins over the tag.", pattern="^(sha256:[0-9a-f]{64})?$"),
                "pullPolicy": text("When it is pulled.", enum=["Always", "IfNotPresent", "Never"]),
                "pullSecrets": words("Names of Secrets for the registry."),
            },
        ),
        "settings": settings_schema(),
        "secrets": group(
            "Credentials: Secrets of yours, or made once and kept at upgrades.",
            {
                "s3": group(
                    "Account of the object store.",
                    {
                        "existingSecret": text("Name of a Secret with the keys access_key and secret_key."),
                        "accessKey": text("The access key, where there is no such Secret."),
                        "secretKey": text("The secret key, where there is no such Secret."),
                        "perService": group(
                            "Secrets of accounts that can do less, by service; empty = the common one.",
                            {name: text(f"Secret of the {name}.") for name in ("watcher", "dispatcher", "gateway")},
                        ),
                    },
                ),
                "kafka": group(
                    "Password for Kafka; its user name is settings.kafka.username.",
                    {
                        "existingSecret": text("Name of a Secret with the key password."),
                        "password": text("The password, where there is no such Secret."),
                    },
                ),
                "admin": group("The administrator; keys username and password.", {"existingSecret": secret}),
                "scaler": group("What the gateway shows the scaler; key token.", {"existingSecret": secret}),
                "webhook": group("What the object store shows the watcher; key token.", {"existingSecret": secret}),
            },
        ),
        "trust": group(
            "Authorities to trust in place of the system's.",
            {
                "s3": text("Name of a ConfigMap with the key ca.crt, for the object store."),
                "kafka": text("Name of a ConfigMap with the key ca.crt, for Kafka."),
            },
        ),
    }


def _workload(what: str, **more: Schema) -> Schema:
    return group(
        what,
        {
            **more,
            "resources": free("Requests and limits of the container."),
            "persistence": _persistence("for its local state"),
            "volumes": listed("Further volumes of the pod, for example with credentials of a driver."),
            "volumeMounts": listed("Where the container finds them."),
            "env": listed("Further environment variables, as in a pod. Never a credential in the clear."),
            "podAnnotations": pairs("Further annotations of the pod."),
            "podLabels": pairs("Further labels of the pod."),
            "nodeSelector": pairs("Labels that its node must have."),
            "tolerations": listed("Taints of nodes that it bears."),
            "affinity": free("Rules for its place."),
        },
    )


def _service(**more: Schema) -> Schema:
    kinds = ["ClusterIP", "NodePort", "LoadBalancer"]
    return group(
        "Its Service.",
        {"type": text("Type of the Service.", enum=kinds), "annotations": pairs("Annotations of the Service."), **more},
    )


def _services() -> dict[str, Schema]:
    enabled = flag("Install this service.")
    ingress = group(
        "How users outside of the cluster reach it.",
        {
            "enabled": flag("Make an Ingress."),
            "className": text("Ingress class; empty = the cluster's default."),
            "host": text("Host name that users type."),
            "annotations": pairs("Annotations of the Ingress, for example of cert-manager."),
            "tls": group(
                "Encryption.",
                {"enabled": flag("Serve HTTPS."), "secretName": text("Secret with the certificate and its key.")},
            ),
        },
    )
    replicas = number("Pods.", least=1)
    return {
        "watcher": _workload(
            "Notices objects and writes events to the log.",
            enabled=enabled,
            service=_service(),
            webhookFrom=words("CIDRs that may send events; empty = any address, or the bundled object store alone."),
        ),
        "dispatcher": _workload("Turns events into Jobs.", enabled=enabled, replicas=replicas),
        "gateway": _workload(
            "REST interface.",
            enabled=enabled,
            replicas=replicas,
            service=_service(port=number("Port of the Service.", least=1)),
            ingress=ingress,
        ),
        "scaler": _workload(
            "Grows and shrinks the cluster.",
            enabled=enabled,
            pools=free("Pools, options and drivers, see docs/operations/scaler.md."),
        ),
        "edge": _workload("The one pod of mode edge."),
    }


def _cluster() -> dict[str, Schema]:
    cidrs = "CIDRs that no function may reach."
    server = {
        "enabled": flag("Install it."),
        "image": {
            **text("Image with a fixed tag or digest. Never latest.", pattern="[^/]+[:@][^/]+$"),
            "not": {"pattern": ":latest$"},
        },
        "resources": free("Requests and limits of the container."),
        "persistence": _persistence("with its data"),
    }
    return {
        "functions": group(
            "Where functions run.",
            {
                "namespace": group(
                    "The namespace of functions and their Jobs.",
                    {
                        "name": text("Its name; nothing else may be in it.", pattern=DNS_LABEL, maxLength=63),
                        "create": flag("Make it; False = it is there, with its labels."),
                        "podSecurity": text("Pod Security standard.", enum=["baseline", "restricted", "privileged"]),
                        "labels": pairs("Further labels of the namespace."),
                    },
                ),
                "quota": free("Hard limits of a ResourceQuota; empty = none."),
                "networkPolicy": group(
                    "What functions may reach.",
                    {
                        "enabled": flag("Make a NetworkPolicy."),
                        "blocked": words(cidrs),
                        "allowed": words("CIDRs that functions may reach; empty = all but the blocked ones."),
                    },
                ),
            },
        ),
        "bundled": group(
            "Servers for a trial, one pod each.",
            {
                "minio": group("An object store.", {**server, "command": words("How its program is started.")}),
                "kafka": group(
                    "A broker.",
                    {
                        **server,
                        "home": text("Folder of Kafka in the image."),
                        "heap": text("Heap of the Java machine.", pattern="^[0-9]+[mg]$"),
                    },
                ),
            },
        ),
        "rbac": group(
            "Rights.",
            {
                "create": flag("Make roles and their bindings."),
                "readCluster": flag("Let the gateway list all nodes and pods, for the status."),
            },
        ),
        "serviceAccounts": group("Accounts of the services.", {"annotations": pairs("Annotations of all of them.")}),
        "networkPolicy": group(
            "Who may call the services.",
            {
                "enabled": flag("Make NetworkPolicies."),
                "metricsFrom": pairs("Labels of namespaces that may read metrics; empty = any."),
                "gatewayFrom": pairs("Labels of namespaces that may call the gateway; empty = anything."),
            },
        ),
        "podDisruptionBudget": group("Drains of nodes.", {"enabled": flag("Make PodDisruptionBudgets.")}),
        "flowControl": group(
            "A share of the API server for the creation of Jobs.",
            {"enabled": flag("Make it."), "shares": number("Its size; workloads of users have 100.", least=1)},
        ),
        "monitoring": _monitoring(),
        "probes": group(
            "Patience of the kubelet.",
            {
                "startupSeconds": number("Seconds that a start may take.", least=10),
                "livenessFailures": number("Failed probes before a container is started again.", least=1),
            },
        ),
        "priorityClass": group(
            "A class for the services' pods: before Jobs in the scheduler's queue, without preemption.",
            {"create": flag("Make it."), "value": number("Its priority.")},
        ),
        "priorityClassName": text("Priority class of the services' pods."),
    }


def _monitoring() -> Schema:
    labels = pairs("Labels by which it is found.")
    return group(
        "Prometheus and Grafana.",
        {
            "annotations": flag("Annotate pods with prometheus.io/scrape."),
            "serviceMonitor": group(
                "For the Prometheus operator.",
                {
                    "enabled": flag("Make a ServiceMonitor."),
                    "interval": text("Time between two scrapes.", pattern="^[0-9]+(ms|s|m)$"),
                    "labels": labels,
                },
            ),
            "rules": group(
                "Alerts, for the Prometheus operator.", {"enabled": flag("Make a PrometheusRule."), "labels": labels}
            ),
            "dashboards": group(
                "Dashboards, for Grafana's sidecar.",
                {
                    "enabled": flag("Make ConfigMaps with the dashboards."),
                    "labels": labels,
                    "folder": text("Folder in Grafana."),
                },
            ),
        },
    )


def settings_schema() -> Schema:
    """Penstock's settings, less what the chart decides itself, and less every secret: they would be in a ConfigMap."""
    groups: dict[str, Schema] = {}
    for name, field in Settings.model_fields.items():
        model = field.annotation
        if name in NOT_HERE or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        fields = _fields(name, model)
        if fields:
            groups[name] = group((model.__doc__ or name).strip().splitlines()[0], fields)
    return group("Penstock's settings by their own names, see docs/reference/settings.md.", groups)


def _fields(name: str, model: type[BaseModel]) -> dict[str, Schema]:
    whole = model.model_json_schema(mode="validation")
    found: dict[str, Schema] = {}
    for field, detail in model.model_fields.items():
        if detail.annotation is SecretStr or f"{name}.{field}" in CHART_OWNS:
            continue
        found[field] = _plain(whole["properties"][field], whole.get("$defs", {}))
    return found


def _plain(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Without references and titles. An empty text counts as not said, so it is allowed for everything."""
    if isinstance(schema, list):
        return [_plain(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    kept = {key: _plain(value, definitions) for key, value in schema.items() if key not in {"title", "default"}}
    kept.pop("format", None)
    if kept.get("type") == "number":
        # `helm --set name=0.5` makes a text of it.
        limits = {key: kept.pop(key) for key in list(kept) if key != "description"}
        kept["anyOf"] = [limits, {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?$"}]
    if "description" in kept:
        kept["description"] = " ".join(str(kept["description"]).split())
    return kept
