"""Tokens of single sign-on: what is accepted and what is not, by published examples and by an issuer of ours."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.oidc import claims as judged
from gateway.oidc.jws import BadToken, Key, choose, keys_of, take_apart
from gateway.oidc.keys import PAUSE_S, IssuerKeys, check_address
from gateway.oidc.opening import open_verifier
from gateway.oidc.verifier import Verifier
from penstock.client_errors import Unauthenticated
from penstock.errors import Forbidden, InvalidInput, Unavailable
from penstock.settings_gateway import GatewayGroup
from tests.oscar.issuer import AUDIENCE, Issuer, SigningKey, encoded
from tests.oscar.world import world_of

#: RFC 7515, appendix A.2 (RS256) and A.3 (ES256): key, token.
RS256_KEY = {
    "kty": "RSA",
    "n": (
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-"
        "yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-"
        "bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-"
        "UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-"
        "DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    ),
    "e": "AQAB",
}
PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
RS256_TOKEN = (
    f"eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}."
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1d"
    "nZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwu"
    "sC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
ES256_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
ES256_TOKEN = (
    f"eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
EXAMPLES = [(RS256_KEY, RS256_TOKEN), (ES256_KEY, ES256_TOKEN)]
NOW = 1_800_000_000.0


@pytest.mark.parametrize(("key", "text"), EXAMPLES, ids=["RS256", "ES256"])
def test_the_examples_of_the_standard(key: dict[str, Any], text: str) -> None:
    token = take_apart(text)
    assert token.claims == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    assert Key(key).verify(token)


@pytest.mark.parametrize(("key", "text"), EXAMPLES, ids=["RS256", "ES256"])
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_changed_bit_anywhere_is_refused(key: dict[str, Any], text: str, position: int, bit: int) -> None:
    head, payload, signature = text.split(".")
    data = bytearray(base64.urlsafe_b64decode(signature + "=="))
    data[position % len(data)] ^= 1 << bit
    assert not Key(key).verify(take_apart(f"{head}.{payload}.{encoded(bytes(data))}"))
    claims = bytearray(base64.urlsafe_b64decode(payload + "=="))
    claims[position % len(claims)] ^= 1 << bit
    try:
        changed = take_apart(f"{head}.{encoded(bytes(claims))}.{signature}")
    except BadToken:
        return
    assert not Key(key).verify(changed)


def with_head(**head: Any) -> str:
    return f"{encoded(json.dumps(head).encode())}.{PAYLOAD}.{ES256_TOKEN.split('.')[2]}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (with_head(alg="none"), "algorithm"),
        (with_head(alg="NONE"), "algorithm"),
        (with_head(alg="HS256"), "algorithm"),  # a public key must never become a shared secret
        (with_head(alg=None), "algorithm"),
        (with_head(alg="ES256", crit=["exp"], exp=1), "critical"),
        ("a.b", "compact"),
        ("a.b.c.d", "compact"),
        (with_head(alg="ES256", b64=False), "cannot be read"),
        (with_head(alg="ES256", kid=3), "cannot be read"),
        ("!.!.!", "cannot be read"),
        (f"{encoded(b'[]')}.{PAYLOAD}.AA", "cannot be read"),
        (f"{encoded(b'[' * 9000)}.{PAYLOAD}.AA", "cannot be read"),
        (f"{encoded(b'{}')}.{PAYLOAD}.AA", "algorithm"),
        (f"{ES256_TOKEN.split('.', maxsplit=1)[0]}.{encoded(b'nothing')}.AA", "JSON object"),
        ("ä.ö.ü", "compact"),
        ("." * 2 + "a" * 20_000, "compact"),
    ],
)
def test_what_is_no_token_is_refused_with_a_reason(text: str, says: str) -> None:
    with pytest.raises(BadToken, match=says):
        take_apart(text)


@given(st.text(max_size=60) | st.builds("{}.{}.{}".format, st.text(), st.text(), st.text()))
def test_taking_apart_never_fails_otherwise(text: str) -> None:
    with contextlib.suppress(BadToken):
        assert take_apart(text).text == text


def test_keys_that_are_none_for_signatures_are_left_out() -> None:
    bad = [
        {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},  # a key of 17 bits
        {**ES256_KEY, "crv": "P-521"},
        {**ES256_KEY, "x": ES256_KEY["y"]},  # no point of the curve
        {**RS256_KEY, "use": "enc"},
        {"kty": "EC", "crv": "P-256"},
        "text",
        3,
    ]
    assert len(keys_of({"keys": [*bad, RS256_KEY, ES256_KEY]})) == 2
    with pytest.raises(BadToken):
        keys_of({"keys": None})


def test_a_signature_made_with_the_public_key_as_a_secret_is_refused() -> None:
    """The oldest attack: HMAC with the text of the public key, which everybody has. Under any label."""
    key = SigningKey("a")
    for algorithm in ("HS256", "RS256", "ES256"):
        head, payload = (encoded(json.dumps(part).encode()) for part in ({"alg": algorithm, "kid": "a"}, {"sub": "x"}))
        forged = hmac.new(json.dumps(key.public).encode(), f"{head}.{payload}".encode(), "sha256").digest()
        text = f"{head}.{payload}.{encoded(forged)}"
        if algorithm == "HS256":
            with pytest.raises(BadToken, match="algorithm"):
                take_apart(text)
        else:
            assert not Key(key.public).verify(take_apart(text))


def test_only_the_public_half_of_a_key_is_taken() -> None:
    """An issuer that publishes more than it should does not make us hold it."""
    found = Key({**ES256_KEY, "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"})
    assert found.verify(take_apart(ES256_TOKEN))
    assert not hasattr(found._key, "private_numbers")


def test_a_token_is_judged_by_keys_of_its_own_kind_and_name_alone() -> None:
    first, second = Key({**RS256_KEY, "kid": "a"}), Key({**ES256_KEY, "kid": "a"})
    named = Key({**RS256_KEY, "kid": "b"})
    token = take_apart(SigningKey("a").token({"sub": "x"}))
    assert choose(token, [first, second, named]) == [first]
    assert choose(take_apart(RS256_TOKEN), [first, second, named]) == [first, named], "without an id all that fit"
    assert choose(token, [Key({**RS256_KEY, "kid": "a", "alg": "RS512"})]) == []


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({}, "no expiry"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": NOW + 40 * 24 * 3600}, "longer than a month"),
        ({"exp": NOW + 60, "nbf": NOW + 31}, "not valid yet"),
        ({"exp": NOW + 60, "iat": NOW + 31}, "in the future"),
        ({"exp": "soon"}, "number of seconds"),
        ({"exp": True}, "number of seconds"),
        ({"exp": -1}, "number of seconds"),
    ],
)
def test_times(claims: dict[str, Any], says: str) -> None:
    with pytest.raises(BadToken, match=says):
        judged.check_times(claims, now_s=NOW, leeway_s=30)


def test_times_within_the_leeway_are_accepted() -> None:
    claims = {"exp": NOW - 29, "nbf": NOW + 29, "iat": NOW + 29}
    assert judged.check_times(claims, now_s=NOW, leeway_s=30) == int(NOW - 29)


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"aud": "us"}, True),
        ({"aud": ["them", "us"]}, True),
        ({"aud": "them", "azp": "us"}, False),
        ({"aud": [], "azp": "us"}, False),
        ({"azp": "us"}, True),
        ({"client_id": "us"}, True),
        ({}, False),
        ({"aud": 3}, False),
    ],
)
def test_audience(claims: dict[str, Any], accepted: bool) -> None:
    if accepted:
        judged.check_audience(claims, {"us"})
        return
    with pytest.raises(BadToken, match="another audience"):
        judged.check_audience(claims, {"us"})


def test_groups_of_egi_check_in() -> None:
    """Entitlements as Check-In writes them; those that another organisation writes cannot name EGI's groups."""
    claims = {
        "eduperson_entitlement": [
            "urn:mace:egi.eu:group:vo.example.eu:role=member#aai.egi.eu",
            "urn:mace:egi.eu:group:vo.example.eu:imaging:role=vm_operator#aai.egi.eu",
            "urn:mace:elsewhere.org:group:vo.other.eu:role=member#idp.elsewhere.org",
            "urn:mace:egi.eu:res:something#aai.egi.eu",
            "urn:geant:example.org:group:lab",
        ],
    }
    groups = judged.groups_of(claims, ["eduperson_entitlement"])
    assert groups is not None
    assert {"vo.example.eu", "vo.example.eu:imaging"} <= groups
    assert "vo.other.eu" not in groups
    assert {"urn:mace:elsewhere.org:group:vo.other.eu", "urn:geant:example.org:group:lab"} <= groups
    assert not any("role=" in group for group in groups)


def test_plain_groups() -> None:
    assert judged.groups_of({"groups": ["/lab/imaging", "staff", 3, ""]}, ["groups"]) == frozenset(
        {"lab/imaging", "staff"}
    )
    assert judged.groups_of({"groups": "staff"}, ["groups"]) == frozenset({"staff"})
    assert judged.groups_of({"other": ["staff"]}, ["groups"]) is None, "somebody else must tell"


@given(st.recursive(st.none() | st.text() | st.integers(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_groups_of_anything(value: Any) -> None:
    found = judged.groups_of({"groups": value, "entitlements": [value, f"urn:{value}:group:{value}"]}, ["groups"])
    assert found is None or "" not in found


@pytest.mark.parametrize("address", ["http://example.org", "ftp://example.org", "example.org", "https://", ""])
def test_issuers_are_reached_by_https_alone(address: str) -> None:
    with pytest.raises(InvalidInput, match="https"):
        check_address(address, where="gateway.oidc_issuers")
    check_address("http://127.0.0.1:1", where="x")
    check_address("https://example.org/realm", where="x")


# ---- with a service that answers


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@asynccontextmanager
async def verifying(issuer: Issuer, **settings: Any) -> AsyncIterator[tuple[Verifier, Clock]]:
    clock = Clock()
    wanted = {"oidc_issuers": issuer.address, "oidc_audience": AUDIENCE, "oidc_groups": "researchers"} | settings
    keys = IssuerKeys(issuer.address, clock=clock)
    verifier = Verifier(GatewayGroup(**wanted), {issuer.address: keys})
    try:
        yield verifier, clock
    finally:
        await verifier.close()


async def test_a_good_token_is_believed_and_remembered() -> None:
    issuer = Issuer()
    async with issuer.serving(), verifying(issuer) as (verifier, _):
        found = await verifier.identify(token := issuer.token(name="Alice Example"))
        assert (found.subject, found.name, found.groups) == ("alice", "Alice Example", frozenset({"researchers"}))
        asked = len(issuer.asked)
        for _ in range(5):
            assert await verifier.identify(token) == found
        assert await verifier.identify(issuer.token("bob")) != found
        assert len(issuer.asked) == asked, "keys are asked for once"


async def test_elliptic_keys_are_accepted_beside_the_others() -> None:
    issuer = Issuer()
    issuer.keys.insert(0, SigningKey("curve", elliptic=True))
    async with issuer.serving(), verifying(issuer) as (verifier, _):
        assert (await verifier.identify(issuer.token())).subject == "alice"


async def test_a_changed_key_is_taken_up_and_strangers_cannot_make_us_ask_for_it() -> None:
    issuer = Issuer()
    async with issuer.serving(), verifying(issuer) as (verifier, clock):
        await verifier.identify(issuer.token())
        issuer.keys = [SigningKey("second")]
        stranger = SigningKey("stranger")
        for _ in range(20):
            with pytest.raises(Unauthenticated):
                await verifier.identify(stranger.token(issuer.claims()))
        assert issuer.asked.count("/keys") == 1, "not again within the pause"
        clock.ahead += PAUSE_S + 1
        assert (await verifier.identify(issuer.token("bob"))).subject == "bob"
        assert issuer.asked.count("/keys") == 2


async def test_a_key_of_another_with_the_same_name_is_refused() -> None:
    issuer = Issuer()
    async with issuer.serving(), verifying(issuer) as (verifier, _):
        with pytest.raises(Unauthenticated):
            await verifier.identify(SigningKey("first").token(issuer.claims()))


async def test_an_issuer_that_is_away_is_no_refusal_and_its_known_keys_stay_good() -> None:
    issuer = Issuer()
    issuer.silent = True
    async with issuer.serving(), verifying(issuer) as (verifier, clock):
        with pytest.raises(Unavailable, match="does not answer"):
            await verifier.identify(issuer.token())
        issuer.silent = False
        clock.ahead += PAUSE_S + 1
        await verifier.identify(issuer.token())
        issuer.silent = True
        clock.ahead += 24 * 3600
        assert (await verifier.identify(issuer.token("bob"))).subject == "bob"


async def test_groups_come_from_the_user_information_where_the_token_has_none() -> None:
    issuer = Issuer()
    entitlement = "urn:mace:egi.eu:group:vo.example.eu:role=member#aai.egi.eu"
    async with issuer.serving(), verifying(issuer, oidc_groups="vo.example.eu") as (verifier, _):
        issuer.user_info = {"sub": "alice", "eduperson_entitlement": [entitlement], "name": "Alice"}
        token = issuer.token(groups=None, name=None)
        found = await verifier.identify(token)
        assert ("vo.example.eu" in found.groups, found.name) == (True, "Alice")
        with pytest.raises(Unauthenticated):
            await verifier.identify(issuer.token("bob", groups=None))  # it speaks of alice
        issuer.user_info = {"sub": "carol"}
        with pytest.raises(Forbidden, match=r"vo\.example\.eu"):
            await verifier.identify(issuer.token("carol", groups=None))


async def test_users_of_a_second_issuer_cannot_be_taken_for_those_of_the_first() -> None:
    home, other = Issuer(), Issuer()
    async with home.serving(), other.serving():
        settings = GatewayGroup(oidc_audience=AUDIENCE)
        keys = {one.address: IssuerKeys(one.address) for one in (home, other)}
        verifier = Verifier(settings, keys)
        try:
            assert (await verifier.identify(home.token())).subject == "alice"
            assert (await verifier.identify(other.token())).subject == f"alice@{other.address}"
            with pytest.raises(Unauthenticated):
                await verifier.identify(other.keys[0].token(home.claims()))
        finally:
            await verifier.close()


async def test_without_an_audience_it_does_not_start() -> None:
    with pytest.raises(InvalidInput, match="oidc_audience"):
        async with open_verifier(GatewayGroup(oidc_issuers="https://example.org")):
            raise AssertionError("opened")
    async with open_verifier(GatewayGroup()) as verifier:
        assert verifier is None


async def test_an_administrator_of_single_sign_on(tmp_path: Path) -> None:
    async with world_of(tmp_path / "data", oidc_admins="alice") as world:
        await world.create("theirs", who=world.bearer("bob"))
        seen = await world.ask("GET", "/system/services", who=world.bearer("alice"))
        assert [one["name"] for one in seen.json] == ["theirs"]
        assert (await world.ask("GET", "/v1/dead", who=world.bearer("alice"))).status == 200
        assert (await world.ask("GET", "/v1/dead", who=world.bearer("bob"))).status == 403


async def test_many_at_once_ask_for_the_keys_once() -> None:
    issuer = Issuer()
    async with issuer.serving(), verifying(issuer) as (verifier, _):
        await asyncio.gather(*(verifier.identify(issuer.token(f"user-{number}")) for number in range(20)))
        assert issuer.asked.count("/keys") == 1
