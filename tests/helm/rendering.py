"""Renders the chart as `helm` does for a user, and tells what the profiles need to be complete."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "penstock"
NAMESPACE = "penstock"
RELEASE = "p"
#: A helm built from source knows no Kubernetes version of its own.
VERSION = "1.34.0"

EXTERNAL = {
    "settings.s3.endpoint": "https://s3.example.org",
    "settings.kafka.servers": "kafka.example.org:9092",
    "secrets.s3.existingSecret": "store-account",
}
#: Profile -> the values without which it is refused.
PROFILES: dict[str, Mapping[str, str]] = {
    "default": EXTERNAL,
    "trial": {},
    "edge": {},
    "production": {
        **EXTERNAL,
        "gateway.ingress.host": "penstock.example.org",
        "gateway.ingress.tls.secretName": "penstock-tls",
    },
}
#: Everything that can be switched on beside a profile, in one.
EVERYTHING = {
    **PROFILES["production"],
    "scaler.enabled": "true",
    "rbac.readCluster": "true",
    "scaler.pools.pools[0].name": "gpu",
    "settings.kafka.username": "penstock",
    "secrets.kafka.existingSecret": "kafka-account",
    "trust.s3": "store-ca",
    "trust.kafka": "kafka-ca",
    "functions.quota.pods": "100",
    "networkPolicy.metricsFrom.name": "monitoring",
    "networkPolicy.gatewayFrom.name": "ingress",
    "watcher.webhookFrom[0]": "10.1.0.0/16",
    "image.pullSecrets[0]": "registry",
    "priorityClassName": "system-cluster-critical",
    "gateway.nodeSelector.disk": "fast",
    "functions.networkPolicy.allowed[0]": "10.2.0.0/16",
}


def helm() -> Path:
    """The program, or a skip that says what is missing."""
    try:
        return obtain("helm")
    except MissingPart as missing:
        pytest.skip(str(missing))


def arguments(profile: str, values: Mapping[str, str]) -> list[str]:
    """What comes behind `helm template|install RELEASE CHART`."""
    file = [] if profile == "default" else ["--values", str(CHART / f"values-{profile}.yaml")]
    return [*file, *(word for name, value in values.items() for word in ("--set", f"{name}={value}"))]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *words], capture_output=True, text=True, check=False, timeout=120)


def template(profile: str, values: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`helm template` with a profile and values by `--set`."""
    given = arguments(profile, values)
    return run("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", VERSION, *given)


@functools.cache
def _rendered(profile: str, everything: bool) -> str:
    done = template(profile, EVERYTHING if everything else PROFILES[profile])
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(profile: str, *, everything: bool = False) -> list[Json]:
    """The objects of a complete profile."""
    return [one for one in yaml.safe_load_all(_rendered(profile, everything)) if one]


def all_profiles() -> Iterator[tuple[str, list[Json]]]:
    for profile in PROFILES:
        yield profile, documents(profile)
    yield "everything", documents("production", everything=True)


def pods(objects: list[Json]) -> Iterator[tuple[str, Json]]:
    """The name and pod specification of whatever makes pods."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield name, one["spec"]
        elif one["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
            yield name, one["spec"]["template"]["spec"]


def settings_of(objects: list[Json]) -> str:
    """The settings file that the services get."""
    (found,) = (
        one["data"]["penstock.toml"]
        for one in objects
        if one["kind"] == "ConfigMap" and "penstock.toml" in one.get("data", {})
    )
    return str(found)
