"""The production path on a real node: every way in which an item can end, each with its phase and its words.

Watcher and dispatcher run as processes, pods with our sidecars on a kubelet; uploads come from a stock S3 client and
functions from `kubectl apply`. What is checked is what a user can see: records, objects, logs.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from minio.error import S3Error

from penstock.errors import PenstockError
from penstock.model import ErrorClass, Phase
from penstock.model.objects import META_CHECKSUM, META_HOPS, META_INPUT, META_INVOCATION
from tests.production.node import COPY, Bench, Refused, good, kubectl, on_the_node
from tests.production.platform import Json, Platform, eventually, resource
from tests.testbed.bed import Bed
from tests.testbed.images import PAUSE

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with on_the_node(bed, tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.fixture
def bench(platform: Platform, request: pytest.FixtureRequest) -> Bench:
    return Bench(platform, str(request.node.name).removeprefix("test_").replace("_", "-")[:28].strip("-"))


async def test_success(bench: Bench) -> None:
    await bench.deploy()
    record = await bench.end("pic ture.txt")
    assert (record.phase, record.exit_code, record.attempt) == (Phase.SUCCEEDED, 0, 1), record.reason
    assert await bench.platform.get(bench.target, "pic ture.txt") == b"pic ture.txt"
    (output,) = record.outputs
    assert (output.bucket, output.key, output.size) == (bench.target, "pic ture.txt", len("pic ture.txt"))
    told = bench.platform.s3.stat_object(bench.target, "pic ture.txt").metadata
    assert told is not None
    lineage = {name: told[f"x-amz-meta-{name}"] for name in (META_INVOCATION, META_HOPS, META_CHECKSUM, META_INPUT)}
    assert lineage[META_INVOCATION] == record.id
    assert lineage[META_HOPS] == "1"
    assert lineage[META_INPUT] == record.trigger.identity
    assert len(lineage[META_CHECKSUM]) == 64
    assert await bench.log(record) == "did pic ture.txt\n"
    phases = [mark.phase for mark in record.timeline]
    assert phases[0] is Phase.QUEUED
    assert phases[-1] is Phase.SUCCEEDED


async def test_a_chain_of_two(bench: Bench) -> None:
    last = f"{bench.name}-last"
    await bench.deploy(f"{COPY}; echo first >>$TMP_OUTPUT_DIR/a.txt")
    await bench.deploy(
        f"{COPY}; echo second >>$TMP_OUTPUT_DIR/a.txt",
        name=f"{bench.name}-2",
        inputs=[{"bucket": bench.target}],
        outputs=[{"bucket": last, "folder": "done"}],
    )
    await bench.put("a.txt", b"upload ")
    (ended,) = (await bench.platform.ended(bench.target, ["a.txt"])).values()
    assert ended.phase is Phase.SUCCEEDED, ended.reason
    assert await bench.platform.get(last, "done/a.txt") == b"upload first\nsecond\n"
    told = bench.platform.s3.stat_object(last, "done/a.txt").metadata
    assert told is not None
    assert told[f"x-amz-meta-{META_HOPS}"] == "2"


async def test_a_loop_ends_at_the_hop_limit(bench: Bench) -> None:
    """Each feeds the other, under a new name each time, so that only the count of hops can end it."""
    back: Json = {"inputs": [{"bucket": bench.target}], "outputs": [{"bucket": bench.source}]}
    longer = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/x$(basename "$INPUT_FILE_PATH")"'
    await bench.deploy(longer, max_hops=3)
    await bench.deploy(longer, name=f"{bench.name}-2", max_hops=3, **back)
    await bench.put("a")
    (ended,) = (await bench.platform.ended(bench.target, ["xxxa"])).values()
    assert (ended.phase, ended.error) == (Phase.SKIPPED, ErrorClass.HOP_LIMIT)
    assert "3" in ended.reason
    assert await bench.platform.keys(bench.source) == ["a", "xxa"]


async def test_a_script_that_fails(bench: Bench) -> None:
    await bench.deploy(f"{COPY}; exit 3")
    record = await bench.end()
    assert (record.phase, record.error, record.exit_code) == (Phase.FAILED, ErrorClass.SCRIPT, 3)
    assert "3" in record.reason
    assert await bench.outputs() == ["a.txt"]
    assert [output.key for output in record.outputs] == ["a.txt"]
    assert await bench.log(record) == "did a.txt\n"


async def test_a_script_that_fails_and_is_tried_again(bench: Bench) -> None:
    await bench.deploy("echo once more; exit 4", retries=2)
    record = await bench.end()
    assert (record.phase, record.exit_code, record.attempt, record.script_failures) == (Phase.FAILED, 4, 3, 3)
    assert await bench.log(record) == "once more\n"


async def test_out_of_memory(bench: Bench) -> None:
    await bench.deploy("echo eats; x=x; while :; do x=$x$x; done", resources={"memory_bytes": 2**25})
    record = await bench.end()
    assert (record.phase, record.error) == (Phase.FAILED, ErrorClass.OUT_OF_MEMORY)
    assert "memory" in record.reason
    assert await bench.log(record) == "eats\n"


async def test_a_deadline(bench: Bench) -> None:
    await bench.deploy(f"{COPY}; sleep 1000", deadline_s=2)
    record = await bench.end()
    assert (record.phase, record.error) == (Phase.FAILED, ErrorClass.DEADLINE)
    assert "2" in record.reason
    assert await bench.outputs() == ["a.txt"]


async def test_an_image_that_is_not_there(bench: Bench) -> None:
    image = "penstock.test/never-made:1"
    await bench.deploy(image=image)
    record = await bench.end()
    assert (record.phase, record.error) == (Phase.DEAD, ErrorClass.UNSTARTABLE)
    assert image in record.reason
    # One retry, since a registry may be away for a moment; each attempt tells of itself.
    assert record.attempt == 2
    assert any(image in mark.note for mark in record.timeline if mark.attempt < record.attempt + 1)


async def test_an_image_without_a_shell(bench: Bench) -> None:
    await bench.deploy(image=PAUSE)
    record = await bench.end()
    assert (record.phase, record.error) == (Phase.DEAD, ErrorClass.UNSTARTABLE)
    assert "/bin/sh" in record.reason


async def test_no_node_has_room(bench: Bench) -> None:
    """The scheduler's own words reach the user, and nothing is given up: a node may come."""
    name = await bench.deploy(resources={"cpu_millis": 500_000})
    await bench.put("a.txt")

    await bench.named("a.txt", "Insufficient cpu")
    status = (await bench.platform.function(name))["status"]
    assert status["state"] == "Waiting"
    assert "Insufficient cpu" in status["message"]
    await kubectl(bench.platform, "delete", "function", name)
    (record,) = (await bench.platform.ended(bench.source, ["a.txt"])).values()
    assert record.phase is Phase.CANCELLED


async def test_what_the_api_server_refuses_is_told_at_once(bench: Bench) -> None:
    """A definition of a wrong form never comes in; the one before stays as it was."""
    name = await bench.deploy()
    for wrong, words in (({"deadline_s": "soon"}, "deadline_s"), ({"retries": -1}, "retries")):
        document = {"apiVersion": "penstock.dev/v1", "kind": "Function", **resource(name, bench.spec(**wrong))}
        with pytest.raises(Refused, match=words):
            await kubectl(
                bench.platform, "apply", "--server-side", "--force-conflicts", "-f-", text=json.dumps(document)
            )
    assert good(await bench.run("a.txt"))


async def test_a_definition_that_cannot_work_is_shown_as_invalid(bench: Bench) -> None:
    """Right in form, wrong by the rules of the FDL; what came meanwhile runs once it is right."""
    wrong = bench.spec(volume={"name": "data", "mount_path": "/data", "size": "a lot"})
    await bench.platform.apply(resource(bench.name, wrong))

    async def told() -> bool:
        status = (await bench.platform.function(bench.name)).get("status", {})
        return bool(status.get("state") == "Invalid" and "a lot" in status.get("message", ""))

    await eventually("the status says what is wrong", told)
    await bench.platform.apply(resource(bench.name, bench.spec()))
    await bench.ready(bench.name)
    assert good(await bench.run("a.txt"))


async def test_a_job_that_the_api_server_refuses(bench: Bench) -> None:
    """A policy of the cluster's owner: the item is dead with its words, the neighbour's goes on."""
    words = "images of that registry are not allowed here"
    async with policy(bench, f"object.metadata.labels['penstock.dev/function'] != '{bench.name}'", words):
        await bench.deploy()
        other = Bench(bench.platform, "neighbour")
        await other.deploy()
        record = await bench.end()
        assert record.phase is Phase.DEAD
        assert words in record.reason
        assert good(await other.run("a.txt"))


async def test_replaced_before_its_turn(bench: Bench) -> None:
    name = await bench.deploy(limits={"concurrency": 1}, paused=True, state="Paused")
    await bench.put("a.txt", b"old")
    await bench.known("a.txt", 1)
    await bench.put("a.txt", b"new")
    await bench.known("a.txt", 2)
    await bench.deploy(name=name)
    old, new = await bench.ends_of(bench.source, "a.txt", 2)
    assert (old.phase, new.phase) == (Phase.SUPERSEDED, Phase.SUCCEEDED)
    assert "replaced" in old.reason
    assert await bench.platform.get(bench.target, "a.txt") == b"new"


async def test_deleted_before_its_turn(bench: Bench) -> None:
    name = await bench.deploy(paused=True, state="Paused")
    for key in ("a.txt", "b.txt"):
        await bench.put(key)
        await bench.known(key, 1)
    bench.platform.s3.remove_object(bench.source, "a.txt")
    await bench.deploy(name=name)
    ended = await bench.platform.ended(bench.source, ["a.txt", "b.txt"])
    assert (ended["a.txt"].phase, ended["a.txt"].error) == (Phase.SKIPPED, ErrorClass.GONE)
    assert ended["a.txt"].reason
    assert ended["b.txt"].phase is Phase.SUCCEEDED


async def test_names_that_are_hard(bench: Bench) -> None:
    """One by one and as they are: nothing is unescaped twice, nothing leads out of its folder."""
    long = "/".join("n" * 250 for _ in range(4)) + "/" + "m" * 20
    keys = ["a+b c.txt", "a%2Fb.txt", "..a/..b", "ünï/日本語.txt", "q?x=1&y#z", "'\"$(id)`;*", "-rf", long]
    assert max(len(key.encode()) for key in keys) == 1024
    await bench.deploy(batch={"mode": "list", "max_items": 8, "linger_s": 1.0})
    records = await bench.run(*keys)
    assert good(records), {key: record.reason for key, record in records.items()}
    for key, record in records.items():
        (output,) = record.outputs
        assert output.key == key.rpartition("/")[2]
        assert await bench.platform.get(bench.target, output.key) == key.encode()
        assert await bench.log(record) == f"did {key}\n"


async def test_as_much_metadata_as_the_store_takes(bench: Bench) -> None:
    """An object brings its own headers along; what is beyond the store's limit never comes in."""
    await bench.deploy()
    client = bench.platform.s3
    with pytest.raises(S3Error, match="metadata"):
        client.put_object(bench.source, "b.txt", io.BytesIO(b"x"), 1, metadata={"note": "n" * 200 * 1024})
    client.put_object(bench.source, "a.txt", io.BytesIO(b"x"), 1, metadata={"note": "n" * 1900})
    (record,) = (await bench.platform.ended(bench.source, ["a.txt"])).values()
    assert record.phase is Phase.SUCCEEDED, record.reason


async def test_a_bad_file_among_good_ones(bench: Bench) -> None:
    """A list shares a container, and nothing else."""
    script = f"case $INPUT_FILE_PATH in */3) exit 9;; */5) kill -9 $$;; esac; {COPY}"
    await bench.deploy(script, batch={"mode": "list", "max_items": 8, "linger_s": 2.0})
    records = await bench.run(*map(str, range(8)))
    assert len({record.job for record in records.values()}) < 8
    bad = {key: record for key, record in records.items() if record.phase is not Phase.SUCCEEDED}
    assert {key: (record.phase, record.exit_code) for key, record in bad.items()} == {
        "3": (Phase.FAILED, 9),
        "5": (Phase.FAILED, 137),
    }
    assert await bench.outputs() == ["0", "1", "2", "4", "6", "7"]


async def test_kubectl_shows_how_it_stands(bench: Bench) -> None:
    """Applied and read by the real kubectl."""
    document = {"apiVersion": "penstock.dev/v1", "kind": "Function", **resource(bench.name, bench.spec("exit 1"))}
    assert "created" in await kubectl(bench.platform, "apply", "-f-", text=json.dumps(document))
    await bench.ready(bench.name)
    await bench.end()

    async def shown() -> bool:
        lines = (await kubectl(bench.platform, "get", "functions", bench.name)).splitlines()
        row = dict(zip(lines[0].split(), lines[1].split(), strict=False))
        return (row["STATE"], row["QUEUED"], row["RUNNING"], row["FAILED"]) == ("Ready", "0", "0", "1")

    await eventually("kubectl shows the failure", shown)


@asynccontextmanager
async def policy(bench: Bench, rule: str, words: str) -> AsyncIterator[None]:
    """A rule of the cluster's owner over the Jobs of this installation, in force."""
    kinds = "/apis/admissionregistration.k8s.io/v1"
    match = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": bench.platform.namespace}},
        "resourceRules": [
            {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
        ],
    }
    spec = {"matchConstraints": match, "validations": [{"expression": rule, "message": words}]}
    binding = {"policyName": bench.name, "validationActions": ["Deny"]}
    api = bench.platform.api
    name = {"metadata": {"name": bench.name}}
    made = {"validatingadmissionpolicies": spec, "validatingadmissionpolicybindings": binding}
    for kind, content in made.items():
        await api.send("POST", f"{kinds}/{kind}", {**name, "spec": content})
    try:
        await eventually("the policy is in force", lambda: in_force(bench, words))
        yield
    finally:
        for kind in made:
            await api.request("DELETE", f"{kinds}/{kind}/{bench.name}")


async def in_force(bench: Bench, words: str) -> bool:
    job = {
        "metadata": {"name": "try", "labels": {"penstock.dev/function": bench.name}},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}}},
    }
    path = f"/apis/batch/v1/namespaces/{bench.platform.namespace}/jobs?dryRun=All"
    try:
        await bench.platform.api.send("POST", path, job)
    except PenstockError as error:
        return words in str(error)
    return False
