"""What the chart renders: taken by every supported Kubernetes, safe by our own policy, settings that Penstock reads."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.settings import load
from tests.helm.rendering import CHART, Json, all_profiles, documents, pods, settings_of
from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

pytestmark = pytest.mark.components

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34")
PROFILES = ("default", "trial", "edge", "production", "everything")


def profile_of(name: str) -> list[Json]:
    return dict(all_profiles())[name] if name == "everything" else documents(name)


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each kind and version, as kubeconform reads them."""
    folder = tmp_path_factory.mktemp("schemas")
    operator = json.loads((SCHEMAS / "operator.json").read_text())
    from tests.helm.make_schemas import KINDS  # noqa: PLC0415 - a program of its own, its list is wanted here alone

    for version in VERSIONS:
        found = json.loads((SCHEMAS / f"v{version}.json").read_text())["definitions"]
        place = folder / version
        place.mkdir()
        for kind, name in KINDS.items():
            schema = {"$ref": f"#/definitions/{name}", "definitions": found}
            (place / f"{kind.lower()}.json").write_text(json.dumps(schema))
        for kind, schema in operator.items():
            (place / f"{kind.lower()}.json").write_text(json.dumps(schema))
    return folder


def conform(schemas: Path, version: str, text: str) -> subprocess.CompletedProcess[str]:
    try:
        program = obtain("kubeconform")
    except MissingPart as missing:
        pytest.skip(str(missing))
    location = f"{schemas}/{version}/{{{{.ResourceKind}}}}.json"
    return subprocess.run(
        [program, "-summary", "-schema-location", location, "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_supported_kubernetes_takes_every_profile(profile: str, version: str, schemas: Path) -> None:
    objects = profile_of(profile)
    done = conform(schemas, version, "\n---\n".join(json.dumps(one) for one in objects))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Valid: {len(objects)}, Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_refuse_what_is_wrong(version: str, schemas: Path) -> None:
    good = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    misspelt = {**good, "spec": {"prots": []}}
    wrong_type = {**good, "spec": {"ports": [{"port": "http"}]}}
    old = {**good, "apiVersion": "v1beta1"}
    assert conform(schemas, version, json.dumps(good)).returncode == 0
    for bad in (misspelt, wrong_type, old):
        assert conform(schemas, version, json.dumps(bad)).returncode == 1, bad


@pytest.mark.parametrize("version", VERSIONS)
def test_the_custom_resource_definition_is_taken_too(version: str, schemas: Path) -> None:
    done = conform(schemas, version, (CHART / "crds" / "functions.yaml").read_text())
    assert done.returncode == 0, done.stdout


def containers(profile: str) -> Iterator[tuple[str, Json, Json]]:
    for name, spec in pods(profile_of(profile)):
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield f"{name}/{container['name']}", spec, container


@pytest.mark.parametrize("profile", PROFILES)
def test_every_container_meets_the_restricted_profile_and_cannot_write_to_its_image(profile: str) -> None:
    names = []
    for name, spec, container in containers(profile):
        names.append(name)
        own, pod = container["securityContext"], spec["securityContext"]
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert own["runAsNonRoot"] is True, name
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] > 0, name
        assert not any(spec.get(word) for word in ("hostNetwork", "hostPID", "hostIPC")), name
        assert not any("hostPath" in volume for volume in spec.get("volumes", ())), name
        # Variables of the name PENSTOCK_... that Kubernetes invents would be read as settings.
        assert spec["enableServiceLinks"] is False, name
    assert len(names) >= 2


@pytest.mark.parametrize("profile", PROFILES)
def test_every_container_has_a_fixed_image_and_known_needs(profile: str) -> None:
    for name, _, container in containers(profile):
        image = container["image"]
        assert ":" in image.rpartition("/")[2] or "@" in image, name
        assert not image.endswith(":latest"), name
        assert container["resources"]["limits"]["memory"], name
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name


@pytest.mark.parametrize("profile", PROFILES)
def test_every_server_is_probed(profile: str) -> None:
    for one in profile_of(profile):
        if one["kind"] in {"Deployment", "StatefulSet"}:
            for container in one["spec"]["template"]["spec"]["containers"]:
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), one["metadata"]["name"]


def is_secret_name(name: str) -> bool:
    words = ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY", "CREDENTIAL")
    return any(word in name.upper() for word in words) and not name.upper().endswith(("_FILE", "_DIR"))


@pytest.mark.parametrize("profile", PROFILES)
def test_no_credential_stands_in_the_clear(profile: str) -> None:
    for name, _, container in containers(profile):
        for variable in container.get("env", ()):
            if is_secret_name(variable["name"]):
                assert "secretKeyRef" in variable.get("valueFrom", {}), (name, variable["name"])
    for one in profile_of(profile):
        if one["kind"] == "ConfigMap":
            text = json.dumps(one["data"])
            for word in ("secret_key =", "password =", "token ="):
                assert word not in text, one["metadata"]["name"]


def test_generated_credentials_are_long_and_of_each_installation_its_own() -> None:
    from tests.helm.rendering import template  # noqa: PLC0415 - renders anew, unlike `documents`

    found = []
    for _ in range(2):
        text = template("trial", {}).stdout
        found.append([line.split()[1] for line in text.splitlines() if line.startswith(("  password: ", "  token: "))])
    assert len(found[0]) == 2
    assert all(len(value) >= 64 for value in found[0])
    assert not set(found[0]) & set(found[1])


@pytest.mark.parametrize("profile", PROFILES)
def test_penstock_reads_the_settings_that_it_is_given(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text(settings_of(profile_of(profile)))
    settings = load(file)
    assert settings.kubernetes.namespace == "penstock-functions"
    assert settings.kubernetes.lease_namespace == "penstock"
    assert settings.s3.endpoint
    assert bool(settings.kafka.servers) is (profile != "edge")
    # What the containers get by their environment must be settings as well.
    for name, _, container in containers(profile):
        for variable in container.get("env", ()):
            if variable["name"].startswith("PENSTOCK_") and not name.startswith("Pod/"):
                assert variable["name"] == "PENSTOCK_CONFIG", name


def test_what_the_settings_point_to_is_mounted() -> None:
    for profile in PROFILES:
        objects = profile_of(profile)
        text = settings_of(objects)
        paths = {line.split('"')[1] for line in text.splitlines() if '= "/etc/penstock/' in line}
        assert paths
        services = [spec for name, spec in pods(objects) if name.split("/")[0] != "Pod"]
        mounted = {
            mount["mountPath"] for spec in services for one in spec["containers"] for mount in one["volumeMounts"]
        }
        for path in paths:
            assert any(Path(path).is_relative_to(mount) for mount in mounted), (profile, path)


def test_every_volume_that_is_mounted_exists_and_the_other_way_round() -> None:
    for profile in PROFILES:
        for one in profile_of(profile):
            if one["kind"] not in {"Deployment", "StatefulSet"}:
                continue
            spec = one["spec"]["template"]["spec"]
            there = {volume["name"] for volume in spec["volumes"]}
            there |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())}
            mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
            assert there == mounted, one["metadata"]["name"]
