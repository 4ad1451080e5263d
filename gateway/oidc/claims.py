"""What a verified token says about its holder: is it for us, is it valid now, and which groups is he in. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from gateway.oidc.jws import BadToken

#: Without an expiry a stolen token would open the door for ever; longer lives than this are not believed either.
LONGEST_LIFE_S = 30 * 24 * 3600
LONGEST_SUBJECT = 255
#: AARC-G002 and AARC-G069: NAMESPACE:group:GROUP[:SUBGROUP...][:role=ROLE][#AUTHORITY].
_ENTITLEMENT = re.compile(r"(?P<space>urn:[^#]{1,200}?):group:(?P<path>[^#]{1,500})(?:#.{1,200})?")
#: Namespaces of EGI Check-In, whose groups go by their bare names.
_EGI = frozenset({"urn:mace:egi.eu", "urn:mace:egi.eu:aai.egi.eu"})


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever a token speaks of."""

    subject: str
    issuer: str
    name: str
    groups: frozenset[str]
    expires_s: int


def check_times(claims: Mapping[str, Any], *, now_s: float, leeway_s: float) -> int:
    """Returns the expiry. Raises BadToken."""
    expires = _moment(claims, "exp")
    if expires is None:
        raise BadToken("it has no expiry")
    if expires + leeway_s <= now_s:
        raise BadToken("it has expired")
    if expires > now_s + LONGEST_LIFE_S:
        raise BadToken("it would be valid for longer than a month")
    for name, said in (("nbf", "it is not valid yet"), ("iat", "it was issued in the future")):
        moment = _moment(claims, name)
        if moment is not None and moment > now_s + leeway_s:
            raise BadToken(said)
    return int(expires)


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise BadToken(f"its `{name}` is not a number of seconds")
    return float(value)


def check_audience(claims: Mapping[str, Any], accepted: Collection[str]) -> None:
    """The token must name one of ours in `aud`; where it has none at all, in `azp` or `client_id`. Raises BadToken."""
    named = claims.get("aud")
    if named is None:
        named = claims.get("azp", claims.get("client_id"))
    audiences = named if isinstance(named, list) else [named]
    if not any(isinstance(one, str) and one in accepted for one in audiences):
        raise BadToken("it was made for another audience")


def subject_of(claims: Mapping[str, Any]) -> str:
    """Raises BadToken."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject or len(subject) > LONGEST_SUBJECT or not subject.isprintable():
        raise BadToken("it names no subject")
    return subject


def groups_of(claims: Mapping[str, Any], names: Iterable[str]) -> frozenset[str] | None:
    """All groups in the claims of these names; None = the token has none of them, so somebody else must tell."""
    found: set[str] = set()
    there = False
    for name in names:
        value = claims.get(name)
        if value is None:
            continue
        there = True
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and len(one) <= 1000:
                found |= _groups(one)
    return frozenset(found) if there else None


def _groups(written: str) -> set[str]:
    """The names of one entry: a plain group, a path, or an entitlement.

    An entitlement of another namespace than EGI's counts with its namespace only, or a home organisation could put its
    users into anybody's group.
    """
    if not written.startswith("urn:"):
        path = written.strip().strip("/")
        return {path} if path else set()
    match = _ENTITLEMENT.fullmatch(written)
    if match is None:
        return set()
    parts = [part for part in match["path"].split(":") if part and not part.startswith("role=")]
    paths = {":".join(parts[: count + 1]) for count in range(len(parts))}
    full = {f"{match['space']}:group:{path}" for path in paths}
    return full | paths if match["space"] in _EGI else full


def display_of(claims: Mapping[str, Any], subject: str) -> str:
    for name in ("name", "preferred_username"):
        value = claims.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()[:200]
    return subject
