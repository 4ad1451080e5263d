"""The shapes that public FDL files have, in files of our own: what is read from each, and what is warned about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock.fdl import Document, Draft, Start, cycles, parse_document, parse_service
from penstock.model import Batch, BatchMode, Limits, Resources, StorageIO, UploadOnFailure, Volume

SHAPES = Path(__file__).parent / "shapes"


def read(name: str, **options: bool) -> Document:
    return parse_document((SHAPES / f"{name}.yaml").read_bytes(), read_script=lambda path: f"# {path}\r\n", **options)


def only(document: Document) -> Draft:
    (draft,) = document.functions
    return draft


@pytest.mark.parametrize("path", sorted(SHAPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shape_is_read_and_its_definition_reads_back_to_itself(path: Path) -> None:
    for draft in read(path.stem, require_script=False).functions:
        definition = json.loads(json.dumps(draft.function.definition))
        again = parse_service(definition, require_script=False)
        assert again.function.definition == draft.function.definition
        assert again.function.inputs == draft.function.inputs
        assert again.function.outputs == draft.function.outputs
        assert again.function.limits == draft.function.limits
        assert again.function.batch == draft.function.batch
        assert again.start == draft.start


def test_crlf_and_tab_after_a_scalar() -> None:
    raw = (SHAPES / "crlf_tab.yaml").read_bytes()
    assert b"\t\r\n" in raw
    assert not raw.endswith(b"\n")
    document = read("crlf_tab")
    draft = only(document)
    function = draft.function
    assert (function.name, function.script) == ("greyscale", "# convert.sh\n")
    assert (function.uid, function.generation, function.created_ms, function.start_ms) == ("", 1, 0, 0)
    assert function.resources == Resources(cpu_millis=1000, memory_bytes=2**30)
    assert function.log_level == "CRITICAL"
    assert function.inputs == (StorageIO(provider="minio", bucket="greyscale", folder="arriving"),)
    assert (draft.cluster, draft.start, document.warnings) == ("lab-cluster", Start.NOW, ())


def test_chain_over_a_shared_bucket() -> None:
    document = read("chain_shared_bucket")
    stitch, split = (draft.function for draft in document.functions)
    assert stitch.inputs == split.outputs
    assert split.outputs[0].path == "film/work/frames"
    assert split.definition["output"] == [{"storage_provider": "minio", "path": "film/work/frames"}]
    assert document.warnings == ()
    assert cycles([stitch, split]) == []


def test_legacy_replicas_become_a_federation() -> None:
    document = read("legacy_replicas")
    north, south = (draft.function for draft in document.functions)
    replica = {"cluster_id": "", "service_name": "", "url": "", "ssl_verify": True, "priority": 0, "headers": {}}
    assert north.definition["federation"] == {
        "group_id": "smoke-watch",
        "topology": "none",
        "delegation": "static",
        "rescheduler_threshold": 30,
        "members": [
            replica
            | {"type": "oscar", "cluster_id": "cluster-south", "service_name": "smoke-watch-south", "priority": 1},
            replica
            | {"type": "endpoint", "url": "https://example.org/run", "priority": 101, "headers": {"X-Site": "7"}},
        ],
    }
    assert {"replicas", "delegation", "rescheduler_threshold"}.isdisjoint(north.definition)
    assert north.environment == {"NOTIFY": "false", "THRESHOLD": "0.80", "AREA": "coast", "CAMERAS": "[1, 2]"}
    assert (north.definition["cpu"], south.definition["cpu"]) == ("2.0", "1.0")
    assert "federation" not in south.definition
    assert south.outputs[0].provider_id == "cluster-north"
    assert [warning.partition(": ")[2] for warning in document.warnings] == [
        "a list of one stands for its item; write it without the list (text is wanted)",
        "a list becomes its JSON text; quote it to choose the text yourself",
        "members of a federation need `environment.secrets.refresh_token` to call each other",
        "'minio.cluster-north' has no entry in `storage_providers`; outputs there will be refused",
    ]


def test_nulls_are_absent_and_passwords_are_dropped() -> None:
    document = read("nulls_everywhere")
    draft = only(document)
    assert document.clusters == {
        "reef-west": {"endpoint": "https://west.example.org", "auth_user": "operator", "ssl_verify": False},
        "reef-east": {"endpoint": "", "auth_user": "", "ssl_verify": True},
    }
    west = document.storage_providers["minio"]["reef-west"]
    assert (west["access_key"], west["secret_key"], west["region"]) == ("west-key", "west-secret", "")
    assert draft.storage_providers == document.storage_providers
    shown = draft.function.definition["storage_providers"]["minio"]["reef-west"]
    assert (shown["access_key"], shown["secret_key"]) == ("hidden", "hidden")
    assert shown["endpoint"] == "https://store.west.example.org"
    assert draft.function.outputs[1].suffix == (".png",)
    assert draft.function.outputs[1].prefix == ()
    for text in (json.dumps(draft.function.definition), repr(draft), repr(document), *document.warnings):
        assert "west-password" not in text
        assert "west-secret" not in text
    assert document.warnings == ("clusters.reef-west.region (line 37): unknown key `region`, ignored",)


def test_a_file_without_script_is_read_only_when_asked() -> None:
    with pytest.raises(InvalidInput, match=r"\(line 5\): `script` is missing; write the script's path"):
        read("rucio_no_script")
    document = read("rucio_no_script", require_script=False)
    function = only(document).function
    assert (function.script, function.file_stage_in) == ("", True)
    assert function.inputs[0].path == "<scope>"
    assert function.outputs[0].path == "<account>/skimmed"
    assert not function.inputs[0].own_store
    assert "script" not in function.definition
    assert any("do not trigger by themselves" in warning for warning in document.warnings)
    assert any("`script` is missing" in warning for warning in document.warnings)


def test_virtual_node() -> None:
    function = only(read("virtual_node")).function
    assert function.image == "docker://example.org/thermal/heat:1.2"
    assert function.definition["interlink_node_name"] == "vnode-gpu"
    assert function.definition["annotations"]["slurm-job.example.org/flags"].startswith("--partition=gpu --gres")


def test_exposed_with_volume() -> None:
    function = only(read("expose_volume")).function
    assert function.definition["expose"] == {
        "min_scale": 1,
        "max_scale": 1,
        "api_port": [8888, 9000],
        "cpu_threshold": 80,
        "nodePort": [0, 30900],
        "set_auth": True,
        "auth_type": "forward",
        "rewrite_target": True,
        "default_command": False,
        "health_path": "/healthz",
        "probe_mode": "direct",
    }
    assert function.volume == Volume(
        name="workbench", mount_path="/home/bench/work", size="5Gi", lifecycle_policy="retain"
    )
    assert function.definition["volume_status"] == {"enabled": True, "name": "workbench"}


def test_exposed_with_mount_and_secrets() -> None:
    function = only(read("expose_mount")).function
    assert function.definition["mount"] == {
        "storage_provider": "minio.default",
        "path": "notepad",
        "options": "--vfs-cache-mode writes",
    }
    assert function.secrets == {"NOTES_PASSWORD": "swordfish"}
    assert function.definition["environment"] == {
        "variables": {"PASSWORD_FILE": "/run/secret", "GRANT": "yes"},
        "secrets": {"NOTES_PASSWORD": ""},
    }
    assert function.resources == Resources()
    assert (function.definition["cpu"], function.definition["memory"]) == ("0.2", "256Mi")


def test_exposed_by_the_images_own_command() -> None:
    document = read("expose_scalar_port")
    function = only(document).function
    assert function.script == ""
    assert function.definition["expose"]["api_port"] == [80]
    assert "nodePort" not in function.definition["expose"]
    assert function.environment == {"ZONE": "010", "RETRY": "on", "EMPTY": ""}
    assert document.warnings == ("functions.oscar[0].lab-cluster.expose.port (line 9): `port` is read as `api_port`",)


def test_secrets_beside_variables_and_words_in_any_case() -> None:
    document = read("secrets_vo_list")
    function = only(document).function
    assert function.definition["vo"] == "vo.example.org"
    assert function.definition["isolation_level"] == "USER"
    assert function.definition["visibility"] == "restricted"
    assert function.definition["allowed_users"] == ["ann@example.org"]
    assert function.log_level == "INFO"
    assert function.secrets == {"API_KEY": "not-for-everyone"}
    # Without a slash the bucket is named like the service.
    assert function.inputs[0].path == "breed-guess/pets"
    assert len(document.warnings) == 2
    assert document.warnings[1].startswith("functions.oscar[0].lab-cluster.log_level (line 8): 'VERBOSE' is not a log")


@pytest.mark.parametrize(("name", "kind"), [("kserve_inference", "inference"), ("kserve_llm", "llm_inference")])
def test_model_servers_need_no_script(name: str, kind: str) -> None:
    document = read(name)
    kserve = only(document).function.definition["kserve"]
    assert (kserve["type"], kserve["max_scale"]) == (kind, 1)
    assert kserve["set_auth"] is (kind == "inference")
    assert document.warnings == ()


def test_every_kind_of_provider_and_three_clusters_in_one_element() -> None:
    document = read("three_clusters")
    assert [draft.cluster for draft in document.functions] == ["alpha", "beta", "gamma"]
    dav, onedata, amazon = (draft.function for draft in document.functions)
    assert dav.outputs == (StorageIO(provider="webdav", provider_id="dcache", bucket="data", folder="out"),)
    assert dav.definition["output"] == [{"storage_provider": "webdav.dcache", "path": "data/out"}]
    assert onedata.inputs[0].path == "to-onedata/plain"
    assert onedata.outputs[0].path == "results/today"
    assert [entry.path for entry in amazon.outputs] == ["example-bucket/c", "to-amazon/letters"]
    assert set(document.storage_providers) == {"webdav", "onedata", "s3"}
    assert [warning.partition(" (")[0] for warning in document.warnings] == [
        "functions.storage_providers",
        "functions.oscar[0].alpha.input[0].storage_provider",
        "functions.oscar[0].gamma.output[0]",
    ]


@pytest.mark.parametrize(("name", "drafts"), [("hybrid_full", 1), ("hybrid_fan_out", 1), ("aws_only", 0)])
def test_functions_for_aws_are_ignored_with_a_warning(name: str, drafts: int) -> None:
    document = read(name)
    assert len(document.functions) == drafts
    assert any("functions for AWS are ignored" in warning for warning in document.warnings)
    assert any("no function" in warning for warning in document.warnings) == (drafts == 0)


def test_fan_out_by_ending() -> None:
    sound, frames = only(read("hybrid_fan_out")).function.outputs
    assert sound.suffix == ("wav",)
    assert frames.accepts("frame-1.png")
    assert not frames.accepts("sub/frame-1.png")


def test_our_own_keys_and_yaml_merging() -> None:
    document = read("own_keys")
    first, second = (draft.function for draft in document.functions)
    assert first.limits == Limits(concurrency=4, rate=2.5, priority=-5, weight=3)
    assert (first.retries, first.deadline_s, first.max_hops) == (2, 5400, 3)
    assert first.batch == Batch(mode=BatchMode.LIST, max_items=20, max_bytes=64 * 2**20, linger_s=0.5)
    assert first.upload_on_failure is UploadOnFailure.NEVER
    assert first.inputs[0].prefix == ("a-", "b-")
    assert [draft.start for draft in document.functions] == [Start.EXISTING, Start.NOW]
    assert (second.image, second.deadline_s, second.batch.mode) == ("example.org/x", 45, BatchMode.AUTO)
    assert second.limits == Limits()
    assert "concurrency" not in second.definition
    assert document.warnings == ()


def test_the_json_body_of_clients() -> None:
    body: dict[str, Any] = json.loads((SHAPES / "api_body.json").read_text())
    draft = parse_service(body)
    function = draft.function
    assert function.script == "#!/bin/sh\necho ready\n"
    assert function.resources == Resources(cpu_millis=4000, memory_bytes=8 * 2**30, gpu=True)
    assert (function.definition["cpu"], function.definition["memory"]) == ("4", "8Gi")
    assert function.definition["expose"]["api_port"] == [8000]
    assert (function.definition["expose"]["max_scale"], function.definition["expose"]["health_path"]) == (10, "/")
    assert "nodePort" not in function.definition["expose"]
    assert function.environment == {"CTX": "4096"}
    # The server decides these, whatever a client sends.
    assert (function.token, function.owner) == ("", "cluster_admin")
    assert (function.definition["token"], function.definition["bucket_list"]) == ("", [])
    assert {"namespace", "federation", "volume", "replicas", "imageRules"}.isdisjoint(function.definition)
    assert function.definition["clusters"]["far"] == {
        "endpoint": "https://far.example.org",
        "auth_user": "root",
        "ssl_verify": True,
    }
    assert function.definition["storage_providers"]["minio"]["default"]["secret_key"] == "hidden"
    assert draft.storage_providers["minio"]["default"]["secret_key"] == "s3cr3t"
    assert draft.warnings == ("imageRules: unknown key `imageRules`, ignored",)


def test_what_clients_index_is_always_there() -> None:
    definition = parse_service({"name": "abc", "image": "i", "script": "true"}).function.definition
    for key, empty in (("labels", {}), ("expose", {}), ("input", []), ("output", []), ("allowed_users", [])):
        assert definition[key] == empty
    for key in ("name", "image", "owner", "token", "cpu", "memory", "script", "visibility"):
        assert isinstance(definition[key], str)
    omitted = ("federation", "image_pull_secrets", "storage_providers", "clusters", "namespace", "volume", "kserve")
    assert set(omitted).isdisjoint(definition)


def test_embedded_use_warns_about_a_missing_image() -> None:
    draft = parse_service({"name": "abc", "script": "true"}, require_image=False)
    assert draft.warnings == ("`image` is missing; write the container image that has what the script needs",)


def test_a_script_of_several_lines_is_the_text_itself() -> None:
    head = "functions:\n  oscar:\n  - c:\n      name: abc\n      image: i\n"
    text = head + "      script: |\n        echo a\n        echo b\n"
    draft = only(parse_document(text, read_script=lambda path: f"# {path}"))
    assert draft.function.script == "echo a\necho b\n"


def test_a_typing_slip_gets_a_suggestion() -> None:
    draft = parse_service({"name": "abc", "image": "i", "script": "true", "enviroment": {}, "xyzzy": 1})
    assert draft.warnings == (
        "enviroment: unknown key `enviroment`, ignored; did you mean `environment`?",
        "xyzzy: unknown key `xyzzy`, ignored",
    )


@pytest.mark.parametrize(
    ("value", "seconds"), [("90", 90), ("90s", 90), ("1h30m", 5400), ("500ms", 0.5), (0.25, 0.25), ("1D", 86400)]
)
def test_deadlines(value: object, seconds: float) -> None:
    assert parse_service({"name": "abc", "image": "i", "script": "t", "deadline": value}).function.deadline_s == seconds


@pytest.mark.parametrize(
    ("value", "batch"),
    [
        ("single", Batch()),
        ("Auto", Batch(mode=BatchMode.AUTO)),
        (1, Batch()),
        ("50", Batch(mode=BatchMode.LIST, max_items=50)),
        ({"linger": 2}, Batch(mode=BatchMode.LIST, max_items=100, linger_s=2)),
        (None, Batch()),
    ],
)
def test_batches(value: object, batch: Batch) -> None:
    assert parse_service({"name": "abc", "image": "i", "script": "t", "batch": value}).function.batch == batch


def test_legacy_keys_yield_to_a_federation() -> None:
    body = {"name": "abc", "image": "i", "script": "t", "federation": {"topology": "star"}, "delegation": "random"}
    draft = parse_service(body)
    assert draft.function.definition["federation"]["delegation"] == "static"
    assert draft.warnings[0].startswith("`replicas`, `delegation` and `rescheduler_threshold` are ignored")


def test_one_name_on_two_clusters_is_one_function() -> None:
    service = "{name: twin, image: i, script: x.sh}"
    text = f"functions:\n  oscar:\n  - a: {service}\n  - b: {service}\n"
    document = parse_document(text, read_script=lambda _: "true")
    assert [draft.cluster for draft in document.functions] == ["a", "b"]
    sentence = "the name 'twin' occurs on several clusters; here they are the same function"
    assert document.warnings == (f"functions.oscar[1].b.name (line 4): {sentence}",)


def test_an_attached_volume_outlives_the_function() -> None:
    draft = parse_service(
        {"name": "abc", "image": "i", "script": "t", "volume": {"name": "shared", "mount_path": "/data"}}
    )
    assert draft.function.volume == Volume(name="shared", mount_path="/data", lifecycle_policy="retain")
    assert draft.function.definition["volume"] == {"name": "shared", "mount_path": "/data"}


@pytest.mark.parametrize("key", ["replicas", "replica", "Replicas"])
def test_a_refused_replica_is_counted_as_in_the_file(key: str) -> None:
    entries = [None, {"type": "endpoint", "url": "https://example.org"}, {}, {"type": "endpoint"}]
    with pytest.raises(InvalidInput, match=rf"{key}\[3\]: a replica of type endpoint needs `url`"):
        parse_service({"name": "abc", "image": "i", "script": "t", key: entries})


def test_nulls_in_a_list_of_inputs_are_skipped() -> None:
    entries = [None, {"storage_provider": "minio", "path": "abc/in"}]
    draft = parse_service({"name": "abc", "image": "i", "script": "t", "input": entries, "output": {}})
    assert [entry.path for entry in draft.function.inputs] == ["abc/in"]
    assert draft.function.outputs == ()
