"""What user code can see and do on a real node, and what the keys of its sidecars open: its own places, nothing else.

The test reads the Secrets that only sidecars mount, and then plays somebody who got hold of them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple

import pytest
import pytest_asyncio
import urllib3
from minio import Minio as MinioClient
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, S3Error

from penstock.adapters.kubernetes.resource import Hidden, secret_document, uid_of
from penstock.clock import now_ms
from penstock.codec import encode
from penstock.identity import JOB_NAME_LIMIT, invocation_id
from penstock.model import SYSTEM_BUCKET, TOPIC_EVENTS, ErrorClass, Phase, Record, Submission
from penstock.model.objects import Kept, answer_key, kept_prefix, log_key, payload_key, result_key
from penstock.ports import LogEntry
from tests.production.node import COPY, Bench, good, on_the_node
from tests.production.platform import Platform
from tests.testbed.bed import Bed

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

OWN_SECRET = "the-functions-own-secret"
#: Everything that a process in the container can look at.
LOOK = """cd "$TMP_OUTPUT_DIR"
env >env
cat /proc/[0-9]*/environ >environs 2>/dev/null
cat /proc/[0-9]*/cmdline >commands 2>/dev/null
cat /proc/mounts >mounts
find / \\( -path /proc -o -path /sys -o -path "$TMP_OUTPUT_DIR" \\) -prune -o -type f -print >files 2>/dev/null
find /oscar /var /run /tmp /etc -path "$TMP_OUTPUT_DIR" -prune -o -type f -exec cat {} + >contents 2>/dev/null
ls -d /var/run/secrets /run/secrets >tokens 2>/dev/null
wget -q -T 3 -O - http://169.254.169.254/latest/meta-data/ >metadata 2>/dev/null
wget -q -T 3 -O - http://metadata.google.internal/ >>metadata 2>/dev/null
for link in /oscar/store/secret_key /oscar/job/plan.json /proc/1/environ /etc/shadow; do
    ln -s $link $(basename $link)-link
done
true
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with on_the_node(bed, tmp_path_factory.mktemp("security")) as made:
        yield made


class Keys(NamedTuple):
    access: str
    secret: str


async def account(platform: Platform, function: str, role: str) -> Keys:
    """What a sidecar of the function holds."""
    uid = uid_of((await platform.function(function))["metadata"]["uid"])
    path = f"/api/v1/namespaces/{platform.namespace}/secrets/penstock-store-{uid}-{role}"
    data = (await platform.api.get(path))["data"]
    return Keys(*(base64.b64decode(data[name]).decode() for name in ("access_key", "secret_key")))


def store(platform: Platform, keys: Keys) -> MinioClient:
    pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60))
    return MinioClient(
        endpoint=str(platform.bed.minio.address),
        access_key=keys.access,
        secret_key=keys.secret,
        secure=False,
        http_client=pool,
    )


async def test_user_code_sees_no_credential(platform: Platform) -> None:
    bench = Bench(platform, "look")
    name = f"{bench.name}-secret"
    hidden = Hidden(token="t" * 64, secrets={"KEY": OWN_SECRET})
    path = f"/api/v1/namespaces/{platform.namespace}/secrets"
    await platform.api.send("POST", path, secret_document(name, bench.name, hidden, namespace=platform.namespace))
    await bench.deploy(LOOK, secretName=name)
    record = await bench.end()
    seen = {key: (await platform.get(bench.target, key)).decode(errors="replace") for key in await bench.outputs()}
    # What is no regular file is not published, and says so or fails the item; either way nothing came out.
    assert not [key for key in seen if key.endswith("-link")], record.reason
    assert {"env", "environs", "files", "contents", "mounts"} <= set(seen), record.reason
    everything = "\n".join(seen.values())
    minio = platform.bed.minio
    forbidden = [minio.password]
    for role in ("in", "out"):
        forbidden += await account(platform, bench.name, role)
    assert not [word for word in forbidden if word in everything]
    assert f"KEY={OWN_SECRET}" in seen["env"]
    assert f"OSCAR_SERVICE_TOKEN={'t' * 64}" in seen["env"]
    assert "PENSTOCK" not in seen["env"]
    assert "serviceaccount" not in seen["mounts"] + seen["files"]
    assert "/oscar/store" not in seen["mounts"] + seen["files"]
    assert "/oscar/job" not in seen["mounts"] + seen["files"]
    assert seen.get("metadata", "") == ""
    assert seen.get("tokens", "") == ""
    # Nor do the sidecars' processes show: containers of a pod do not share their process ids here.
    assert "dispatcher.sidecar" not in seen["commands"]


def denied(request: Callable[[], object]) -> bool:
    """Whether the store refuses it for want of a right, and for no other reason."""
    try:
        request()
    except S3Error as error:
        return error.code == "AccessDenied"
    return False


async def keep(platform: Platform, record: Record) -> dict[Kept, str]:
    """Put one object of each kind that the platform keeps of a function; returns their keys."""
    uid, invocation = record.function_uid, record.id
    keys = {
        Kept.PAYLOADS: payload_key(uid, "a"),
        Kept.LOGS: log_key(uid, invocation, record.attempt),
        Kept.ANSWERS: answer_key(uid, invocation, record.attempt),
        Kept.RESULTS: result_key(uid, record.job, invocation, record.attempt),
    }
    assert await platform.get(SYSTEM_BUCKET, keys[Kept.LOGS]), "the run left it there"
    for key in keys.values():
        await platform.put(SYSTEM_BUCKET, key, b"theirs")
    return keys


async def test_a_functions_keys_open_its_own_places_alone(platform: Platform) -> None:
    """Two functions in the same buckets, each with its folders, whose names differ in their last letter alone."""
    shared = Bench(platform, "shared")
    # So that even their Jobs' names begin alike.
    names = {name: f"{platform.mark}-{'a' * (JOB_NAME_LIMIT - 25)}-{name[0]}" for name in ("mine", "theirs")}
    for name, given in names.items():
        await shared.deploy(
            name=given,
            inputs=[{"bucket": shared.source, "folder": name}],
            outputs=[{"bucket": shared.target, "folder": name}],
        )
    assert good(await shared.run("mine/a", "theirs/a"))
    own, other = [platform.history.of(shared.source)[key] for key in ("mine/a", "theirs/a")]
    assert own.job[:-16] == other.job[:-16]
    mine = names["mine"]
    reader, writer = [store(platform, await account(platform, mine, role)) for role in ("in", "out")]
    kept = await keep(platform, other)

    def put(client: MinioClient, bucket: str, key: str) -> Callable[[], object]:
        return lambda: client.put_object(bucket, key, io.BytesIO(b"x"), 1)

    def get(client: MinioClient, bucket: str, key: str) -> Callable[[], object]:
        return lambda: client.get_object(bucket, key).close()

    def listing(client: MinioClient, bucket: str, prefix: str) -> Callable[[], object]:
        return lambda: list(client.list_objects(bucket, prefix=prefix, recursive=True))

    # What they are for does work, so that the refusals below mean something.
    get(reader, shared.source, "mine/a")()
    listing(reader, shared.source, "mine/")()
    put(writer, shared.target, "mine/b")()
    get(writer, shared.target, "mine/b")()
    wrong = {
        f"{role} {verb} {bucket} {key}": request(client, bucket, key)
        for role, client in (("in", reader), ("out", writer))
        for bucket in (shared.source, shared.target)
        for key in ("theirs/a", "theirs/", "elsewhere", "")
        for verb, request in (("get", get), ("put", put), ("list", listing))
        if key.strip("/") or verb == "list"
    }
    wrong |= {
        "in writes its input": put(reader, shared.source, "mine/a"),
        "in reads outputs": get(reader, shared.target, "mine/b"),
        "in writes outputs": put(reader, shared.target, "mine/c"),
        "out reads inputs": get(writer, shared.source, "mine/a"),
        "out writes inputs": put(writer, shared.source, "mine/c"),
        "out removes inputs": lambda: writer.remove_object(shared.source, "mine/a"),
        "out removes outputs": lambda: writer.remove_object(shared.target, "mine/b"),
        "out reads its logs": get(writer, SYSTEM_BUCKET, log_key(own.function_uid, own.id, 1)),
        "out reads its payloads": get(writer, SYSTEM_BUCKET, payload_key(own.function_uid, "a")),
        "in writes its logs": put(reader, SYSTEM_BUCKET, log_key(own.function_uid, own.id, 1)),
        "in reads its logs": get(reader, SYSTEM_BUCKET, log_key(own.function_uid, own.id, 1)),
        "in makes buckets": lambda: reader.make_bucket("another"),
        "out makes buckets": lambda: writer.make_bucket("another"),
        "out changes rules": lambda: writer.delete_bucket_notification(shared.source),
    }
    for role, client in (("in", reader), ("out", writer)):
        for kind, key in kept.items():
            for prefix in (f"{kind}/", kept_prefix(kind, other.function_uid), key):
                wrong[f"{role} lists {prefix}"] = listing(client, SYSTEM_BUCKET, prefix)
            wrong[f"{role} reads {kind} of another"] = get(client, SYSTEM_BUCKET, key)
            wrong[f"{role} forges {kind} of another"] = put(client, SYSTEM_BUCKET, key)
            wrong[f"{role} removes {kind} of another"] = partial(client.remove_object, SYSTEM_BUCKET, key)
            wrong[f"{role} writes into {kind}"] = put(client, SYSTEM_BUCKET, f"{kind}/elsewhere")
        wrong[f"{role} lists the platform's bucket"] = listing(client, SYSTEM_BUCKET, "")
        wrong[f"{role} writes beside"] = put(client, SYSTEM_BUCKET, "elsewhere")
    assert [what for what, request in wrong.items() if not denied(request)] == []
    assert {await platform.get(SYSTEM_BUCKET, key) for key in kept.values()} == {b"theirs"}
    for role in ("in", "out"):
        keys = await account(platform, mine, role)
        admin = MinioAdmin(
            endpoint=str(platform.bed.minio.address), credentials=StaticProvider(keys.access, keys.secret), secure=False
        )
        with pytest.raises(MinioAdminException):
            admin.user_list()


async def test_a_body_is_read_and_an_answer_kept_by_the_function_that_it_was_posted_to_alone(
    platform: Platform,
) -> None:
    bench = Bench(platform, "posted")
    script = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/answer"; echo said'
    uids = []
    for name in ("posted", "beside"):
        given = f"{name}-{platform.mark}"
        await bench.deploy(script, name=given, inputs=[], outputs=[{"bucket": bench.target, "folder": name}])
        uids.append(uid_of((await platform.function(given))["metadata"]["uid"]))
    body = b"\xff" * 100_000
    records = []
    # As the gateway does it, and then with a reference to what was posted to the other one.
    for number, uid in enumerate(uids):
        key = payload_key(uid, f"{platform.mark}-{number}")
        await platform.put(SYSTEM_BUCKET, key, body)
        about = Submission(
            function=f"posted-{platform.mark}",
            function_uid=uids[0],
            id=f"{number}",
            time_ms=now_ms(),
            body_key=key,
            content_type="application/octet-stream",
            size=len(body),
            answer=True,
        )
        await platform.log.append(TOPIC_EVENTS, [LogEntry(about.function, encode(about))])
        records.append(await platform.submission_ended(invocation_id(uids[0], about.identity)))
    fine, foreign = records
    assert (fine.phase, fine.reason) == (Phase.SUCCEEDED, "")
    answer = await platform.get(SYSTEM_BUCKET, answer_key(uids[0], fine.id, fine.attempt))
    assert base64.b64decode(answer) == body
    assert await bench.log(fine) == "said\n"
    assert (foreign.phase, foreign.error) == (Phase.DEAD, ErrorClass.STAGE_IN), foreign.reason
    assert "the input could not be staged" in foreign.reason
    assert await platform.keys(SYSTEM_BUCKET, kept_prefix(Kept.ANSWERS, uids[0])) == [
        answer_key(uids[0], fine.id, fine.attempt)
    ]
    assert await platform.keys(SYSTEM_BUCKET, kept_prefix(Kept.ANSWERS, uids[1])) == []


async def test_forged_words_end_only_the_items_of_their_own_job(platform: Platform) -> None:
    forger, other = Bench(platform, "forger"), Bench(platform, "other")
    # The FIFO that the launcher speaks into is open to user code: every word that there is, and noise.
    script = f"""{COPY}
        for n in 0 1 2 3 99999999999; do echo "exit $n 0"; echo "exit $n 7 oom"; done >/oscar/run/alive
        echo hello >/oscar/run/alive; head -c 5000 /dev/urandom >/oscar/run/alive; echo >/oscar/run/alive
        sleep 1"""
    await forger.deploy(script, batch={"mode": "list", "max_items": 4, "linger_s": 1.0})
    await other.deploy(f"{COPY}; sleep 2", batch={"mode": "list", "max_items": 4, "linger_s": 1.0})
    keys = list("abcd")
    for key in keys:
        await forger.put(key)
        await other.put(key, key.encode())
    assert good(await platform.ended(other.source, keys))
    assert await other.outputs() == keys
    ends = await platform.ended(forger.source, keys)
    assert {record.phase for record in ends.values()} <= {Phase.SUCCEEDED, Phase.FAILED, Phase.DEAD}
    assert max(platform.history.successes().values()) == 1
    # And the next file of an honest function finds everything as it was.
    assert good(await other.run("e"))
