"""What the cluster is given for synchronous runs: who sees what, what changes with what, and Knative's own schema."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.kubernetes.settings import KubernetesSettings
from gateway.resident import knative, manifest
from gateway.resident.manifest import Shape, base_name, deployment, files, key_secret
from gateway.resident.scaling import Bounds
from penstock.errors import InvalidInput
from penstock.model import Function, Resources, StorageIO, Volume
from tests.testbed.lookup import obtain

SETTINGS = KubernetesSettings(
    namespace="functions",
    input_secret="in-{uid}",
    output_secret="out-{uid}",
    launcher="launcher",
    owned_by_function=True,
)
#: Whose Service the manifests are held against.
KNATIVE = "knative.dev/serving@v0.46.0"


def function(**changes: Any) -> Function:
    given: dict[str, Any] = {
        "name": "classify",
        "uid": "0" * 31 + "1",
        "generation": 3,
        "image": "registry.test/user:1",
        "script": "echo $HOME",
        "token": "t" * 64,
        "secrets": {"PASSWORD": "hidden"},
        "environment": {"A": "$(B)"},
        "resources": Resources(cpu_millis=500, memory_bytes=2**28),
    }
    return Function(**(given | changes))


def containers(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in made["spec"]["template"]["spec"]["containers"]}


def mounts(container: dict[str, Any]) -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}


def test_user_code_gets_its_own_folder_and_neither_key_nor_store() -> None:
    made = deployment(function(), SETTINGS, Shape(slots=2), replicas=1)
    found = containers(made)
    assert list(found) == ["resident", "oscar-container", "oscar-container-1"]
    assert mounts(found["oscar-container"]) == {"/oscar/run": "run-0", "/oscar/config": "config"}
    assert mounts(found["oscar-container-1"]) == {"/oscar/run": "run-1", "/oscar/config": "config"}
    assert set(mounts(found["resident"])) == {
        *("/oscar/job", "/tmp", "/oscar/store", "/oscar/store-in", "/oscar/key"),
        *("/oscar/slots/0", "/oscar/slots/1"),
    }
    for name in ("oscar-container", "oscar-container-1"):
        assert found[name]["image"] == "registry.test/user:1"
        assert "hidden" not in json.dumps(found[name])
        assert found[name]["env"][0] == {"name": "A", "value": "$$(B)"}
        assert "JOB_UUID" not in {one["name"] for one in found[name]["env"]}
    pod = made["spec"]["template"]["spec"]
    assert {one["name"] for one in pod["volumes"]} >= {*mounts(found["resident"]).values(), "config"}
    assert pod["automountServiceAccountToken"] is False


def test_a_run_that_has_begun_is_finished_before_its_container_ends() -> None:
    made = deployment(function(), SETTINGS, Shape(longest_s=300), replicas=1)
    assert made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 300
    assert containers(made)["oscar-container"]["lifecycle"]["preStop"]["exec"]["command"][0] == "/bin/sh"
    assert made["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_name_is_of_one_life_and_the_files_are_of_one_content() -> None:
    one, next_one = function(), function(generation=4, script="echo other")
    assert base_name(one) == base_name(next_one)
    assert base_name(one) != base_name(function(uid="0" * 31 + "2")), "deleted and made anew"
    assert files(one, SETTINGS)[0]["metadata"]["name"] != files(next_one, SETTINGS)[0]["metadata"]["name"]
    maps, secret = files(one, SETTINGS)
    assert "hidden" not in json.dumps(maps)
    assert (
        secret["metadata"]["name"]
        == containers(deployment(one, SETTINGS, Shape(), replicas=0))["oscar-container"]["envFrom"][0]["secretRef"][
            "name"
        ]
    )
    assert key_secret(one, SETTINGS, "k" * 64)["metadata"]["ownerReferences"][0]["name"] == "classify"
    assert len(base_name(function(name="a" * 60))) <= 52


def test_what_no_cluster_could_run_is_refused_with_a_sentence() -> None:
    with pytest.raises(InvalidInput, match="names no image"):
        deployment(function(image=""), SETTINGS, Shape(), replicas=0)


def test_the_keys_of_other_stores_are_for_the_sidecar_alone() -> None:
    keys = {"endpoint": "https://far", "access_key": "Zq9-access", "secret_key": "Zq9-secret"}
    made = function(
        outputs=(StorageIO(provider="minio", provider_id="far", bucket="there"),),
        storage_providers={"minio": {"far": keys}},
    )
    document = deployment(made, SETTINGS, Shape(), replicas=0)
    found = containers(document)
    assert "/oscar/stores" in mounts(found["resident"])
    assert "/oscar/stores" not in mounts(found["oscar-container"])
    assert "Zq9" not in json.dumps(document)
    secret = files(made, SETTINGS)[-1]
    volumes = {one["name"]: one for one in document["spec"]["template"]["spec"]["volumes"]}
    assert volumes["other-stores"]["secret"]["secretName"] == secret["metadata"]["name"]
    assert secret["kind"] == "Secret"
    assert len({one["metadata"]["name"] for one in files(made, SETTINGS) if one["kind"] == "Secret"}) == 2


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The definition of a Knative Service, as Knative publishes it in its Go module."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is needed to obtain Knative's definitions")
    told = subprocess.run([go, "mod", "download", "-json", KNATIVE], capture_output=True, check=True, timeout=300)
    folder = Path(json.loads(told.stdout)["Dir"])
    text = (folder / "config" / "core" / "300-resources" / "service.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


@pytest.mark.components
@pytest.mark.parametrize("volume", [None, Volume(name="models", mount_path="/models")])
def test_knative_s_own_schema_takes_the_service(tmp_path: Path, schema: dict[str, Any], volume: Volume | None) -> None:
    made = knative.service(function(volume=volume), SETTINGS, Shape(slots=2), Bounds(1, 5), idle_s=60)
    (tmp_path / "service.json").write_text(json.dumps(schema))
    words = [str(obtain("kubeconform")), "-strict", "-schema-location", f"{tmp_path}/{{{{.ResourceKind}}}}.json", "-"]
    checked = subprocess.run(words, input=json.dumps(made), capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert unknown(made, schema) == [], "a real API server would drop these"
    notes = made["spec"]["template"]["metadata"]["annotations"]
    assert notes["autoscaling.knative.dev/min-scale"] == "1"
    assert made["spec"]["template"]["spec"]["containerConcurrency"] == 2
    assert sum("ports" in one for one in made["spec"]["template"]["spec"]["containers"]) == 1, "Knative wants one"


def unknown(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Fields that the schema does not know, by path."""
    if isinstance(value, list):
        return [found for one in value for found in unknown(one, schema.get("items", {}), f"{path}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    known = schema.get("properties", {})
    if not known or path in {".metadata", ".spec.template.metadata"}:
        return []
    inner = [found for key in value if key in known for found in unknown(value[key], known[key], f"{path}.{key}")]
    return [f"{path}.{key}" for key in value if key not in known] + inner


def test_a_service_of_knative_s_is_replaced_for_a_later_generation_or_other_settings_only() -> None:
    def service(made: Function, shape: Shape) -> dict[str, Any]:
        return knative.service(made, SETTINGS, shape, Bounds(0, 5), idle_s=60)

    there = service(function(), Shape())
    there["metadata"]["annotations"]["serving.knative.dev/creator"] = "system"
    there["metadata"]["resourceVersion"] = "7"
    assert not knative.outdated(there, service(function(), Shape()))
    assert knative.outdated(there, service(function(generation=4), Shape()))
    assert knative.outdated(there, service(function(), Shape(slots=2)))
    assert not knative.outdated(there, service(function(generation=2), Shape(slots=2))), "a late gateway"
    sent = knative.replaced(there, service(function(generation=4), Shape()))
    assert sent["metadata"]["annotations"]["serving.knative.dev/creator"] == "system"
    assert sent["metadata"]["resourceVersion"] == "7"


def test_the_key_is_only_in_its_own_secret() -> None:
    key = "k" * 64
    everything = [*files(function(), SETTINGS), deployment(function(), SETTINGS, Shape(), replicas=1)]
    assert key not in json.dumps(everything)
    assert manifest.key_name(function()) in json.dumps(everything[-1]["spec"]["template"]["spec"]["volumes"])
