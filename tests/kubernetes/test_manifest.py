"""The Job as data: a golden file for people to read, properties for what must never happen."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given

from dispatcher.kubernetes import KubernetesSettings
from dispatcher.kubernetes.files import (
    DATA_LIMIT,
    function_files,
    function_secret,
    items_map,
    items_of,
    stores_secret,
)
from dispatcher.kubernetes.manifest import (
    NOTE_DIGEST,
    NOTE_ITEMS,
    common,
    decode_items,
    encode_items,
    escape,
    files_name,
    job_manifest,
    label_value,
    public_digest,
    pull_policy,
)
from dispatcher.kubernetes.template import JobTemplate
from penstock.errors import InvalidInput
from penstock.model import JobPlan, OtherStore, Volume
from tests.kubernetes.plans import EVENT, UID, plan, plans
from tests.kubernetes.plans import items_of as many

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = KubernetesSettings(
    namespace="penstock",
    sidecar_image="penstock:1.0",
    sidecar_env={"PENSTOCK_S3_ENDPOINT": "http://minio:9000"},
    input_secret="store-{uid}-input",
    output_secret="store-{uid}-output",
    pull_secrets=("registry",),
    node_selector={"pool": "gpu"},
    launcher="# launcher\n",
)


def containers(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in job["spec"]["template"]["spec"]["containers"]}


def variables(job: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in containers(job)["oscar-container"]["env"]}


@pytest.mark.parametrize(
    ("name", "made", "settings"),
    [
        ("plain", plan(), SETTINGS),
        (
            "everything",
            plan(volume=Volume(name="models", mount_path="/models"), count=2, labels={"owner_name": "Ada L."}),
            dataclasses.replace(SETTINGS, restricted=True, run_size_bytes=2**30, inline_bytes=10),
        ),
    ],
)
def test_the_job_is_the_one_in_the_golden_file(name: str, made: JobPlan, settings: KubernetesSettings) -> None:
    """When it fails for a good reason, write the new document there and read the difference."""
    golden = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    assert job_manifest(made, settings) == golden


@given(plans())
def test_a_rendered_job_is_the_manifest(made: JobPlan) -> None:
    rendered = JobTemplate(made, SETTINGS).render(made)
    assert json.loads(rendered.body) == json.loads(json.dumps(job_manifest(made, SETTINGS)))


@given(plans())
def test_one_template_serves_every_job_of_its_generation(made: JobPlan) -> None:
    template = JobTemplate(made, SETTINGS)
    other = msgspec.structs.replace(made, name="other", id="other", items=many(3))
    assert template.fits(other)
    assert not template.fits(msgspec.structs.replace(made, script=made.script + "x"))
    assert json.loads(template.render(other).body) == json.loads(json.dumps(job_manifest(other, SETTINGS)))


@given(plans())
def test_no_value_can_pull_in_another_variable_and_no_secret_is_in_the_job(made: JobPlan) -> None:
    secret = "Zq9-secret-value-7"
    made = msgspec.structs.replace(made, secrets=dict.fromkeys(made.secrets, secret), token=secret)
    job = job_manifest(made, SETTINGS)
    assert secret not in json.dumps(job)
    for container in containers(job).values():
        for variable in container["env"]:
            assert "$" not in variable.get("value", "").replace("$$", "")
    mounts = {mount["name"] for mount in containers(job)["oscar-container"]["volumeMounts"]}
    assert mounts <= {"run", "config", "volume"}
    assert secret not in json.dumps(function_files(made, SETTINGS))


@given(plans())
def test_every_label_is_one_that_kubernetes_takes(made: JobPlan) -> None:
    job = job_manifest(made, SETTINGS)
    for value in (*job["metadata"]["labels"].values(), *job["spec"]["template"]["metadata"]["labels"].values()):
        assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", value), value
        assert len(value) <= 63


def test_different_long_texts_get_different_labels() -> None:
    assert label_value("a" * 64) != label_value("a" * 65)
    assert label_value("Ada Lovelace") != label_value("Ada_Lovelace")
    assert label_value("plain-1.2_x") == "plain-1.2_x"


def test_the_digest_tells_plans_apart_and_ignores_secrets() -> None:
    def digest(made: JobPlan) -> str:
        found: str = job_manifest(made, SETTINGS)["metadata"]["annotations"][NOTE_DIGEST]
        return found

    assert digest(plan()) == digest(plan(secrets={"API_KEY": "other"}, token="other"))
    assert digest(plan()) == digest(msgspec.structs.replace(plan(), name="renamed"))
    different = [plan(), plan(script="false"), plan(count=2), plan(generation=4), plan(image="other:1")]
    assert len({digest(made) for made in different}) == len(different)


def test_items_come_back_from_the_annotation() -> None:
    made = plan(count=5)
    text = job_manifest(made, SETTINGS)["spec"]["template"]["metadata"]["annotations"][NOTE_ITEMS]
    assert decode_items(text) == made.items


@pytest.mark.parametrize("count", [300, 6000])
def test_long_lists_travel_in_a_config_map_and_very_long_ones_packed(count: int) -> None:
    made = plan(count=count)
    rendered = JobTemplate(made, SETTINGS).render(made)
    assert rendered.items == encode_items(made.items)
    document = items_map(made, SETTINGS, rendered.items)
    assert ("binaryData" in document) == (len(rendered.items) > DATA_LIMIT - 64)
    assert decode_items(items_of(document)) == made.items
    job = json.loads(rendered.body)
    assert NOTE_ITEMS not in job["spec"]["template"]["metadata"]["annotations"]
    sources = next(v for v in job["spec"]["template"]["spec"]["volumes"] if v["name"] == "job")["projected"]["sources"]
    assert {"configMap": {"name": "job-1-items"}} in sources


def test_a_list_that_nothing_could_hold_is_refused() -> None:
    keys = [os.urandom(500).hex() for _ in range(3000)]
    items = tuple(
        msgspec.structs.replace(item, trigger=msgspec.structs.replace(EVENT, key=key))
        for item, key in zip(many(3000), keys, strict=True)
    )
    with pytest.raises(InvalidInput, match=r"lower `batch.max_items`"):
        items_map(plan(items=items), SETTINGS, encode_items(items))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"items": ()}, "no items"),
        ({"name": "../x"}, "no Job name"),
        ({"name": "a" * 53}, "no Job name"),
        ({"environment": {"A": "\0"}}, "NUL"),
        ({"environment": {"A=B": "x"}}, "printable ASCII"),
        ({"environment": {"é": "x"}}, "printable ASCII"),
        ({"environment": {"BIG": "x" * 200_000}}, "too large"),
        ({"environment": {f"V{n}": "x" * 100_000 for n in range(6)}}, "too large"),
        ({"secrets": {"A B": "x"}}, "the secret 'A B'"),
        ({"image": ""}, "names no image"),
        ({"id": "a\0b"}, "NUL"),
    ],
)
def test_what_no_cluster_could_run_is_refused_with_a_sentence(changes: dict[str, Any], words: str) -> None:
    made = plan(**changes)
    with pytest.raises(InvalidInput, match=words):
        job_manifest(made, SETTINGS)
    with pytest.raises(InvalidInput, match=words):
        JobTemplate(made, SETTINGS).render(made)


def test_a_script_too_long_for_a_config_map_is_refused() -> None:
    with pytest.raises(InvalidInput, match="too large"):
        function_files(plan(script="x" * (2**20 + 1)), SETTINGS)


def test_secrets_win_over_variables_and_the_platform_over_both() -> None:
    made = plan(environment={"API_KEY": "plain", "JOB_UUID": "mine"}, secrets={"API_KEY": "s3cret", "RESOURCE_ID": "x"})
    seen = variables(job_manifest(made, SETTINGS))
    assert "API_KEY" not in seen
    assert seen["JOB_UUID"] == "job-1"
    secret = function_secret(made, SETTINGS)
    assert secret is not None
    values = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    assert values == {"API_KEY": "s3cret", "OSCAR_SERVICE_TOKEN": "t0ken"}
    assert function_secret(plan(secrets={}, token=""), SETTINGS) is None
    assert "envFrom" not in containers(job_manifest(plan(secrets={}, token=""), SETTINGS))["oscar-container"]


def test_the_files_say_what_scripts_and_sidecars_read() -> None:
    files = function_files(plan(), SETTINGS)
    assert files["metadata"]["name"] == files_name(common(plan()))
    assert files["data"]["script.sh"] == plan().script
    definition = yaml.safe_load(files["data"]["function_config.yaml"])
    assert definition["name"] == "classify"
    assert definition["output"] == [{"storage_provider": "minio.default", "path": "results/out", "suffix": [".json"]}]
    read = msgspec.json.decode(files["data"]["plan.json"], type=JobPlan)
    assert read == msgspec.structs.replace(common(plan()), script="-", secrets={}, token="")
    blank = function_files(plan(script=" \n"), SETTINGS)["data"]["plan.json"]
    assert msgspec.json.decode(blank, type=JobPlan).script == "", "the sidecars refuse to run nothing"


def test_files_of_another_content_have_another_name() -> None:
    names = {
        files_name(common(made)) for made in (plan(), plan(script="x"), plan(generation=4), plan(function_uid="u"))
    }
    assert len(names) == 4
    owned = function_files(plan(), KubernetesSettings(owned_by_function=True))["metadata"]["ownerReferences"]
    assert owned[0]["uid"].replace("-", "") == UID


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("host:5000/a/b", "Always"),
        ("host:5000/a/b:1.2", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
    ],
)
def test_what_moves_is_pulled_always(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_dollars_are_doubled() -> None:
    assert escape("$(A) $$ x") == "$$(A) $$$$ x"


ARCHIVE = OtherStore(endpoint="https://far", region="r", access_key="Zq9-access", secret_key="Zq9-secret")


def test_the_keys_of_other_stores_are_for_the_sidecar_that_sends_outputs_alone() -> None:
    made = plan(stores={"minio.far": ARCHIVE})
    job = job_manifest(made, SETTINGS)
    mounted = {
        name
        for name, container in containers(job).items()
        if any(mount["mountPath"] == "/oscar/stores" for mount in container["volumeMounts"])
    }
    assert mounted == {"output"}
    assert "Zq9" not in json.dumps(job)
    assert "Zq9" not in json.dumps(function_files(made, SETTINGS))
    assert "Zq9" not in json.dumps(function_secret(made, SETTINGS))
    secret = stores_secret(made, SETTINGS)
    assert secret is not None
    volumes = job["spec"]["template"]["spec"]["volumes"]
    (volume,) = [one for one in volumes if one["name"] == "other-stores"]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    told = msgspec.json.decode(base64.b64decode(secret["data"]["stores.json"]), type=dict[str, OtherStore])
    assert told == made.stores


def test_without_other_stores_there_is_neither_secret_nor_mount_and_the_digest_is_that_of_before() -> None:
    assert stores_secret(plan(), SETTINGS) is None
    assert "/oscar/stores" not in json.dumps(job_manifest(plan(), SETTINGS))
    assert public_digest(plan()) == public_digest(plan(stores={"minio.far": ARCHIVE}))
