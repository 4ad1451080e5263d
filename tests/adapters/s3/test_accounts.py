"""Store accounts on a real MinIO: what their keys open, and above all what they do not."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.adapters.s3.accounts import (
    POLICY_LIMIT,
    Grants,
    MinioAccounts,
    Place,
    access_key,
    input_policy,
    output_policy,
    policy_text,
)
from penstock.errors import Forbidden, InvalidInput, PenstockError, Unavailable
from penstock.model import SYSTEM_BUCKET
from penstock.model.objects import Kept, answer_key, kept_prefix, log_key, payload_key, result_key
from tests.adapters.s3.support import content, every, opened
from tests.testbed.minio import Minio

SECRET = "0123456789abcdef0123456789abcdef"


#: One is the beginning of the other, and one of another kind than the two.
MINE, THEIRS, ODD = "0a1b", "0a1b2c", "Odd/*"


def grants(name: str, bucket: str, uid: str = MINE) -> Grants:
    return Grants(
        function_uid=uid,
        inputs=frozenset({Place(bucket, f"{name}/in/")}),
        outputs=frozenset({Place(bucket, f"{name}/out/"), Place(f"{bucket}-more", "")}),
    )


def kept_keys(uid: str) -> dict[Kept, str]:
    """One key of each kind."""
    return {
        Kept.PAYLOADS: payload_key(uid, "1"),
        Kept.LOGS: log_key(uid, "i", 1),
        Kept.ANSWERS: answer_key(uid, "i", 1),
        Kept.RESULTS: result_key(uid, "job", "i", 1),
    }


def allows(policy: dict[str, Any], action: str, bucket: str, key: str, prefix: str = "") -> bool:
    """Whether a policy document allows it, as the store reads it. `prefix` is what a listing asks for."""

    def fits(pattern: str, text: str) -> bool:
        return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL) is not None

    resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
    for statement in policy["Statement"]:
        patterns = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", ["*"])
        if (
            action in statement["Action"]
            and any(fits(one, resource) for one in statement["Resource"])
            and any(fits(one, prefix) for one in patterns)
        ):
            return True
    return False


@given(st.uuids().map(lambda uid: uid.hex) | st.text(), st.uuids().map(lambda uid: uid.hex) | st.text())
def test_no_policy_opens_what_is_kept_of_another_function(mine: str, theirs: str) -> None:
    assume(mine != theirs)
    for policy in (input_policy(grants("a", "bucket", mine)), output_policy(grants("a", "bucket", mine))):
        for kind, key in kept_keys(theirs).items():
            for action in ("s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:AbortMultipartUpload"):
                assert not allows(policy, action, SYSTEM_BUCKET, key)
            for prefix in (key, kept_prefix(kind, theirs), f"{kind}/", ""):
                assert not allows(policy, "s3:ListBucket", SYSTEM_BUCKET, "", prefix)


@pytest.mark.parametrize("uid", [MINE, ODD])
def test_what_is_kept_of_a_function_is_read_and_written_as_its_sidecars_need_it_and_no_more(uid: str) -> None:
    reader, writer = input_policy(grants("a", "bucket", uid)), output_policy(grants("a", "bucket", uid))
    keys = kept_keys(uid)
    may = {
        name: {kind for kind, key in keys.items() if allows(policy, action, SYSTEM_BUCKET, key)}
        for name, policy, action in (
            ("in reads", reader, "s3:GetObject"),
            ("in writes", reader, "s3:PutObject"),
            ("out reads", writer, "s3:GetObject"),
            ("out writes", writer, "s3:PutObject"),
        )
    }
    assert may == {
        "in reads": {Kept.PAYLOADS, Kept.RESULTS},
        "in writes": set(),
        "out reads": {Kept.RESULTS},
        "out writes": {Kept.RESULTS, Kept.LOGS, Kept.ANSWERS},
    }
    for policy in (reader, writer):
        lists = {kind for kind in Kept if allows(policy, "s3:ListBucket", SYSTEM_BUCKET, "", kept_prefix(kind, uid))}
        assert lists == {Kept.RESULTS}
        assert not any("Delete" in action for statement in policy["Statement"] for action in statement["Action"])


def test_a_folder_that_a_policy_would_read_as_a_pattern_is_refused() -> None:
    for folder in ("*/", "a?/", "${aws:username}/"):
        wild = Grants(function_uid=MINE, inputs=frozenset({Place("b", folder)}), outputs=frozenset())
        with pytest.raises(InvalidInput, match="reads as a pattern"):
            input_policy(wild)


def test_a_policy_that_the_store_would_not_keep_is_refused_with_its_size() -> None:
    many = frozenset(Place("b", f"{number:0100}/") for number in range(64))
    with pytest.raises(InvalidInput, match=f"keeps {POLICY_LIMIT}"):
        policy_text(input_policy(Grants(function_uid=MINE, inputs=many, outputs=frozenset())))


def test_two_generations_together_may_what_each_may() -> None:
    both = grants("a", "bucket") | grants("b", "bucket")
    assert both.inputs == {Place("bucket", "a/in/"), Place("bucket", "b/in/")}


def test_keys_are_stable_short_and_of_their_parent() -> None:
    key = access_key("root", "u1", "in")
    assert key == access_key("root", "u1", "in")
    assert len(key) <= 20
    assert len({key, access_key("root", "u1", "out"), access_key("root", "u2", "in"), access_key("x", "u1", "in")}) == 4


@pytest.fixture
async def admin(minio: Minio) -> AsyncIterator[MinioAccounts]:
    made = MinioAccounts(minio.url, lambda: Credentials(minio.user, minio.password))
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def as_account(minio: Minio, key: str, secret: str = SECRET) -> AsyncIterator[S3Store]:
    store = S3Store(S3Config(endpoint=minio.url, credentials=Credentials(key, secret), attempts=1))
    try:
        yield store
    finally:
        await store.close()


async def refused(minio: Minio, key: str, verb: str, bucket: str, name: str) -> bool:
    """Whether an account may not do something; anything but a clear refusal counts as a yes."""
    async with as_account(minio, key) as store:
        try:
            if verb == "read":
                await content(store, bucket, name)
            elif verb == "write":
                await store.put(bucket, name, b"x")
            elif verb == "delete":
                await store.delete(bucket, name)
            else:
                await every(store.list(bucket, name))
        except Forbidden:
            return True
        except PenstockError as error:
            raise AssertionError(f"{verb} {bucket}/{name}: {error!r}") from error
    return False


@pytest.mark.components
async def test_the_keys_of_a_function_open_its_own_prefixes_and_no_other(minio: Minio, admin: MinioAccounts) -> None:
    bucket = f"acc-{secrets.token_hex(4)}"
    async with opened(minio) as root:
        for one in (bucket, f"{bucket}-more", SYSTEM_BUCKET):
            await root.create_bucket(one)
        keys = ["mine/in/a", "mine/out/a", "theirs/in/a", "theirs/out/a", "mine/secret"]
        for key in keys:
            await root.put(bucket, key, b"x")
        kept = [key for uid in (MINE, THEIRS, ODD) for key in kept_keys(uid).values()]
        for key in kept:
            await root.put(SYSTEM_BUCKET, key, b"x")
    reader, writer = f"acc{secrets.token_hex(6)}", f"acc{secrets.token_hex(6)}"
    await admin.put(reader, SECRET, input_policy(grants("mine", bucket)), name="mine-in")
    await admin.put(writer, SECRET, output_policy(grants("mine", bucket)), name="mine-out")
    own = kept_keys(MINE)
    results = kept_prefix(Kept.RESULTS, MINE)
    allowed = {
        (reader, "read", bucket, "mine/in/a"),
        (reader, "list", bucket, "mine/in/"),
        *((reader, "read", SYSTEM_BUCKET, own[kind]) for kind in (Kept.PAYLOADS, Kept.RESULTS)),
        *((writer, verb, bucket, f"mine/out/{name}") for verb in ("write", "read") for name in "ab"),
        (writer, "list", bucket, "mine/out/"),
        (writer, "write", f"{bucket}-more", "anything"),
        (writer, "list", f"{bucket}-more", ""),
        (reader, "list", SYSTEM_BUCKET, results),
        (writer, "list", SYSTEM_BUCKET, results),
        (writer, "list", SYSTEM_BUCKET, f"{results}job/"),
        (writer, "read", SYSTEM_BUCKET, own[Kept.RESULTS]),
        *((writer, "write", SYSTEM_BUCKET, own[kind]) for kind in (Kept.RESULTS, Kept.LOGS, Kept.ANSWERS)),
    }
    tried = {
        (account, verb, place, key)
        for account in (reader, writer)
        for verb in ("read", "write", "delete")
        for place, names in (
            (bucket, [*keys, "mine/out/b"]),
            (SYSTEM_BUCKET, [*kept, "elsewhere", *(f"{kind}/beside" for kind in Kept)]),
        )
        for key in names
        if key in kept or place == bucket or verb != "read"
    } | {
        (account, "list", place, prefix)
        for account in (reader, writer)
        for place, prefixes in (
            (bucket, ["", "mine/", "mine/in/", "mine/out/", "theirs/in/", "theirs/out/"]),
            (
                SYSTEM_BUCKET,
                [
                    "",
                    *(f"{kind}/" for kind in Kept),
                    *(kept_prefix(kind, uid) for kind in Kept for uid in (MINE, THEIRS, ODD)),
                ],
            ),
        )
        for prefix in prefixes
    }
    # Reads last: a write that got through would show as one more object.
    for attempt in sorted(allowed | tried, key=lambda one: ("write", "list", "delete", "read").index(one[1])):
        assert await refused(minio, *attempt) is (attempt not in allowed), attempt


@pytest.mark.components
async def test_a_large_file_goes_up_in_parts_under_the_output_account(minio: Minio, admin: MinioAccounts) -> None:
    bucket = f"acc-{secrets.token_hex(4)}"
    async with opened(minio) as root:
        await root.create_bucket(bucket)
    key = f"acc{secrets.token_hex(6)}"
    await admin.put(key, SECRET, output_policy(grants("mine", bucket)), name="large")
    async with as_account(minio, key) as store:
        await store.put(bucket, "mine/out/large", b"x" * (20 * 2**20))
    async with opened(minio) as root:
        assert (await root.head(bucket, "mine/out/large")).size == 20 * 2**20


@pytest.mark.components
async def test_changing_and_removing_take_effect_and_may_be_repeated(minio: Minio, admin: MinioAccounts) -> None:
    bucket = f"acc-{secrets.token_hex(4)}"
    async with opened(minio) as root:
        await root.create_bucket(bucket)
        await root.put(bucket, "a/in/x", b"x")
        await root.put(bucket, "b/in/x", b"x")
    key = f"acc{secrets.token_hex(6)}"
    for _ in range(2):
        await admin.put(key, SECRET, input_policy(grants("a", bucket)), name="changing")
    assert key in await admin.names()
    assert not await refused(minio, key, "read", bucket, "a/in/x")
    await admin.put(key, SECRET, input_policy(grants("b", bucket)), name="changing")
    assert await refused(minio, key, "read", bucket, "a/in/x")
    assert not await refused(minio, key, "read", bucket, "b/in/x")
    for _ in range(2):
        await admin.remove(key)
    assert key not in await admin.names()
    assert await refused(minio, key, "read", bucket, "b/in/x")


@pytest.mark.components
async def test_who_may_not_make_accounts_is_told_so_and_an_absent_store_can_be_asked_again(
    minio: Minio, admin: MinioAccounts
) -> None:
    policy = input_policy(grants("a", "some-bucket"))
    wrong = MinioAccounts(minio.url, lambda: Credentials(minio.user, "not-the-password"))
    with pytest.raises(Forbidden, match="give its account the rights"):
        await wrong.put("acc000000", SECRET, policy, name="x")
    await wrong.close()
    away = MinioAccounts("http://127.0.0.1:9", lambda: Credentials("user", "password"))
    with pytest.raises(Unavailable, match="does not answer"):
        await away.put("acc000000", SECRET, policy, name="x")
    await away.close()
