"""The pure rules: visibility, tokens of callers, names in labels, images, and how a function is shown."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import ADMIN, Caller, holder, invocation_token, mark_of, may_change, may_see, owner_name, owns_work
from gateway.bucket_book import BucketEntry, may_delete, may_manage, may_read
from gateway.oscar import shown
from gateway.permits import QuotaExceeded, check, check_bucket_quota, normalized
from gateway.storage import StoreAccount
from gateway.user_accounts import fitting, policy_of
from penstock.adapters.s3.accounts import POLICY_LIMIT
from penstock.errors import AlreadyExists, Forbidden, InvalidInput
from penstock.model import Function
from penstock.settings_gateway import GatewayGroup
from tests.factories import make_function


def caller(uid: str = "alice", **changes: Any) -> Caller:
    return Caller(request_id="r", uid=uid, user=uid, **changes)


ADMINISTRATOR = caller(ADMIN, admin=True)


def function(**definition: Any) -> Function:
    return make_function(owner="alice", definition=definition, token="f" * 64)


@pytest.mark.parametrize(
    ("definition", "who", "sees", "changes"),
    [
        ({}, caller("alice"), True, True),
        ({}, caller("bob"), False, False),
        ({}, ADMINISTRATOR, True, True),
        ({}, caller(""), False, False),
        ({"visibility": "public"}, caller("bob"), True, False),
        ({"visibility": "public"}, caller(""), False, False),
        ({"visibility": "restricted", "allowed_users": ["bob"]}, caller("bob"), True, False),
        ({"visibility": "restricted", "allowed_users": ["bob"]}, caller("carol"), False, False),
        ({"visibility": "private", "allowed_users": ["bob"]}, caller("bob"), False, False),
        ({}, caller("", function="thumbs"), True, False),
        ({}, caller("", function="other"), False, False),
    ],
)
def test_visibility(definition: dict[str, Any], who: Caller, sees: bool, changes: bool) -> None:
    one = function(**definition)
    assert (may_see(who, one), may_change(who, one)) == (sees, changes)


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_callers_token_is_his_and_only_of_this_function(uid: str, other: str) -> None:
    one = function(visibility="public")
    token = invocation_token(one, uid)
    assert len(token) == 64
    assert set(token) <= set(string.hexdigits)
    assert holder(token, one) == mark_of(uid)
    assert (holder(token, one) == mark_of(other)) == (uid == other)
    assert holder(token, make_function("other", definition={"visibility": "public"}, token="e" * 64)) is None
    rotated = make_function(owner="alice", definition={"visibility": "public"}, token="0" * 64)
    assert holder(token, rotated) is None, "it falls with the function's token"


@given(st.text(max_size=70))
def test_nothing_else_is_a_token(text: str) -> None:
    one = function(visibility="public")
    assert holder(text, one) is None or text == one.token
    assert holder(text, make_function(token="")) is None, "a function without a token is opened by none"


def test_work_is_his_who_owns_the_function_or_sent_it() -> None:
    one = function(visibility="public")
    assert owns_work(caller("alice"), one, "bob")
    assert owns_work(caller("bob"), one, "bob")
    assert owns_work(caller("bob"), one, mark_of("bob"))
    assert not owns_work(caller("bob"), one, "carol")
    assert not owns_work(caller("bob"), one, "")
    assert not owns_work(caller(""), one, "")


@given(st.text(max_size=200))
def test_names_in_labels_are_legal(name: str) -> None:
    told = owner_name(name)
    assert 1 <= len(told) <= 62
    assert set(told) <= set(string.ascii_letters + string.digits + "-_.")
    assert told[0] not in "-_."
    assert told[-1] not in "-_."


def test_names_lose_their_accents() -> None:
    assert owner_name("Zoë Müller-García") == "Zoe_Muller-Garcia"


@pytest.mark.parametrize(
    ("image", "allowed", "passes"),
    [
        ("example.org/team/x:1", "example.org/team", True),
        ("example.org/teammate/x", "example.org/team", False),
        ("example.org/team/x", "example.org/team/", True),
        ("evil.org/example.org/team/x", "example.org/team", False),
        ("ubuntu:24.04", "docker.io/library", True),
        ("ubuntu", "ubuntu", True),
        ("ubuntu2", "ubuntu", False),
        ("someone/x", "docker.io/someone", True),
        ("localhost:5000/x", "localhost:5000", True),
        ("ghcr.io/x/y", "ghcr.io", True),
        ("ghcr.io.evil.org/x", "ghcr.io", False),
        ("x@sha256:00", "docker.io/library/x", True),
    ],
)
def test_images_are_compared_from_their_beginning_and_by_whole_parts(image: str, allowed: str, passes: bool) -> None:
    settings = GatewayGroup(allowed_images=allowed)
    wanted = make_function(image=image)

    def judge() -> None:
        check(caller(), wanted, None, deployed=[], buckets={}, settings=settings)

    if passes:
        judge()
        return
    with pytest.raises(Forbidden, match="not allowed"):
        judge()


def test_an_image_written_in_any_way_is_the_same() -> None:
    assert (
        normalized("ubuntu") == normalized("docker.io/library/ubuntu") == normalized("https://docker.io/library/ubuntu")
    )


def test_deploying_is_refused_with_the_class_that_fits() -> None:
    def judge(wanted: Function, base: Function | None = None, **settings: Any) -> None:
        check(
            caller("alice", groups=frozenset({"lab"})),
            wanted,
            base,
            deployed=[make_function("one", owner="alice")],
            buckets={"photos": BucketEntry(owner="bob")},
            settings=GatewayGroup(**settings),
        )

    free = make_function(inputs=(), outputs=())
    judge(free)
    with pytest.raises(AlreadyExists, match="the bucket photos belongs to somebody else"):
        judge(make_function())
    with pytest.raises(Forbidden, match="only its owner"):
        judge(free, make_function(owner="bob"))
    with pytest.raises(QuotaExceeded, match="1 services already"):
        judge(free, user_functions=1)
    judge(free, make_function(owner="alice"), user_functions=1)
    with pytest.raises(Forbidden, match="you are not in the group"):
        judge(make_function(inputs=(), outputs=(), definition={"vo": "elsewhere"}))
    with pytest.raises(InvalidInput, match="not one of this installation's groups"):
        judge(make_function(inputs=(), outputs=(), definition={"vo": "lab"}), oidc_groups="research")
    with pytest.raises(InvalidInput, match="cannot be a user"):
        judge(make_function(inputs=(), outputs=(), definition={"allowed_users": ["a\nb"]}))


def test_bucket_quota() -> None:
    entries = {f"b{number}": BucketEntry(owner="alice") for number in range(3)}
    settings = GatewayGroup(user_buckets=4)
    check_bucket_quota(caller(), entries, 1, settings)
    check_bucket_quota(ADMINISTRATOR, entries, 9, settings)
    with pytest.raises(QuotaExceeded, match="4 buckets and you have 3"):
        check_bucket_quota(caller(), entries, 2, settings)


def test_in_a_public_bucket_nobody_deletes_what_others_put_there() -> None:
    """S7: reading and writing are given, deleting and managing are not."""
    public = BucketEntry(owner="alice", visibility="public")
    shared = BucketEntry(owner="alice", visibility="restricted", allowed_users=("bob",))
    judged = [(may_read(caller("bob"), one), may_delete(caller("bob"), one)) for one in (public, shared, BucketEntry())]
    assert judged == [(True, False), (True, True), (False, False)]
    assert not any(may_manage(caller("bob"), one) for one in (public, shared, BucketEntry()))
    assert not any(may_read(caller(""), one) for one in (public, shared, BucketEntry(owner="")))


def test_policies_open_what_the_entries_say_and_never_the_platforms_own_bucket() -> None:
    buckets = {
        "mine": BucketEntry(owner="bob"),
        "open": BucketEntry(owner="alice", visibility="public"),
        "closed": BucketEntry(owner="alice"),
        "penstock-system": BucketEntry(owner="bob", visibility="public"),
    }
    policy = policy_of(caller("bob"), buckets)
    opened = {action: one["Resource"] for one in policy["Statement"] for action in one["Action"]}
    assert opened["s3:GetObject"] == ["arn:aws:s3:::mine/*", "arn:aws:s3:::open/*"]
    assert opened["s3:DeleteObject"] == ["arn:aws:s3:::mine/*"]
    assert "closed" not in str(policy)
    assert "penstock-system" not in str(policy)
    assert policy_of(caller("nobody"), {})["Statement"][0]["Effect"] == "Deny"
    denied = policy_of(ADMINISTRATOR, buckets)["Statement"][-1]
    assert (denied["Effect"], "penstock-system" in str(denied["Resource"])) == ("Deny", True)


def test_a_policy_of_very_many_buckets_still_fits() -> None:
    many = {f"a-bucket-with-a-long-name-{number:04}": BucketEntry(owner="bob") for number in range(500)}
    policy = fitting(caller("bob"), many)
    assert len(str(policy)) <= POLICY_LIMIT
    assert policy["Statement"][0]["Effect"] == "Allow"


def test_a_service_is_shown_without_what_is_secret() -> None:
    one = make_function(
        owner="alice",
        secrets={"KEY": "s3cr3t"},
        environment={"A": "1"},
        definition={
            "name": "thumbs",
            "storage_providers": {"s3": {"x": {"access_key": "hidden"}}},
            "clusters": {"c": {"auth_password": "pw"}},
            "expose": {"api_port": [80], "min_scale": 1},
        },
    )
    told = shown.service(one, caller("alice"), StoreAccount(endpoint="https://store", region="r"))
    assert "s3cr3t" not in str(told)
    assert "clusters" not in told
    assert told["environment"] == {"variables": {"A": "1"}, "secrets": {"KEY": ""}}
    assert told["storage_providers"]["minio"]["default"]["endpoint"] == "https://store"
    assert told["storage_providers"]["s3"]["x"] == {"access_key": "hidden"}
    assert told["token"] == one.token
    assert shown.service(one, caller("bob"), StoreAccount())["token"] == invocation_token(one, "bob")
    assert "api_port" not in shown.service(one, caller("alice"), StoreAccount(), ports=False)["expose"]
    assert one.definition["clusters"], "what is stored is left alone"
