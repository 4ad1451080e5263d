"""Signed tokens (RFC 7515, 7518, 7519): taking one apart and checking its signature. Pure.

Only asymmetric algorithms, and only with a key of the kind that the algorithm names: a token cannot choose to be judged
by another rule than its issuer's. The arithmetic is a library's; what stands here is the format and its refusals.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from penstock.errors import PenstockError

#: Algorithms by the key type they need, the curve, and the hash.
ALGORITHMS = {
    "RS256": ("RSA", "", "SHA256"),
    "RS384": ("RSA", "", "SHA384"),
    "RS512": ("RSA", "", "SHA512"),
    "PS256": ("RSA", "", "SHA256"),
    "ES256": ("EC", "P-256", "SHA256"),
    "ES384": ("EC", "P-384", "SHA384"),
}
LONGEST_TOKEN = 16 * 1024
_LEAST_RSA_BITS = 2048
_MOST_RSA_BITS = 8192


class BadToken(PenstockError):
    """The token is not accepted. The text says why, for the log; clients are told less."""

    code = "unauthenticated"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token taken apart and not yet believed."""

    algorithm: str
    key_id: str
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def looks_like_token(text: str) -> bool:
    return text.count(".") == 2 and len(text) <= LONGEST_TOKEN


def take_apart(text: str) -> Token:
    """Raises BadToken for whatever is no compact JWS with a JSON object in it."""
    if not looks_like_token(text):
        raise BadToken("it is no compact signed token")
    head_text, payload, signature = text.split(".")
    head, claims = _object(head_text, "header"), _object(payload, "payload")
    algorithm = head.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise BadToken(f"its algorithm is {str(algorithm)[:20]!r}, not one of {', '.join(ALGORITHMS)}")
    if "crit" in head:
        raise BadToken("it demands extensions that are not understood here")
    key_id = head.get("kid", "")
    return Token(
        algorithm=algorithm,
        key_id=key_id if isinstance(key_id, str) else "",
        claims=claims,
        signed=f"{head_text}.{payload}".encode("ascii"),
        signature=_bytes(signature, "signature"),
    )


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken(f"its {what} is not base64url") from error


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(_bytes(text, what), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadToken(f"its {what} is not a JSON object") from error


class Key:
    """One public key of an issuer, as a JWK tells it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Raises BadToken for a key that cannot be used for signatures here."""
        self.kind = str(document.get("kty", ""))
        self.id = str(document.get("kid", ""))
        self.algorithm = str(document.get("alg", ""))
        self.curve = str(document.get("crv", "")) if self.kind == "EC" else ""
        if document.get("use", "sig") != "sig" or self.kind not in {"RSA", "EC"}:
            raise BadToken("the key is not one for signatures")
        try:
            self._key: Any = _rsa(document) if self.kind == "RSA" else _elliptic(document)
        except (KeyError, ValueError, TypeError) as error:
            raise BadToken(f"the key cannot be used: {error}") from error

    def fits(self, algorithm: str) -> bool:
        kind, curve, _ = ALGORITHMS[algorithm]
        return self.kind == kind and self.curve == curve and self.algorithm in {"", algorithm}

    def verify(self, token: Token) -> bool:
        from Crypto.Hash import SHA256, SHA384, SHA512  # noqa: PLC0415 - an extra
        from Crypto.Signature import DSS, pkcs1_15, pss  # noqa: PLC0415 - an extra

        hashes = {"SHA256": SHA256, "SHA384": SHA384, "SHA512": SHA512}
        digest = hashes[ALGORITHMS[token.algorithm][2]].new(token.signed)
        schemes: dict[str, Any] = {"RS": pkcs1_15, "PS": pss}
        scheme = schemes.get(token.algorithm[:2])
        verifier: Any = DSS.new(self._key, "fips-186-3", encoding="binary") if scheme is None else scheme.new(self._key)
        try:
            verifier.verify(digest, token.signature)
        except ValueError:
            return False
        return True


def _number(document: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_bytes(str(document[name]), f"key's {name}"), "big")


def _rsa(document: Mapping[str, Any]) -> Any:
    from Crypto.PublicKey import RSA  # noqa: PLC0415 - an extra

    modulus = _number(document, "n")
    if not _LEAST_RSA_BITS <= modulus.bit_length() <= _MOST_RSA_BITS:
        raise ValueError(f"an RSA key of {modulus.bit_length()} bits")
    return RSA.construct((modulus, _number(document, "e")))


def _elliptic(document: Mapping[str, Any]) -> Any:
    from Crypto.PublicKey import ECC  # noqa: PLC0415 - an extra

    curve = str(document["crv"])
    if curve not in {"P-256", "P-384"}:
        raise ValueError(f"the curve {curve[:20]!r}")
    return ECC.construct(curve=curve, point_x=_number(document, "x"), point_y=_number(document, "y"))


def keys_of(document: Mapping[str, Any]) -> list[Key]:
    """The usable keys of a JWK set; those of other kinds are left out. Raises BadToken: it is no key set."""
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise BadToken("the issuer's key set has no list of keys")
    found = []
    for one in listed[:100]:
        if isinstance(one, dict):
            try:
                found.append(Key(one))
            except BadToken:
                continue
    return found


def choose(token: Token, keys: Iterable[Key]) -> list[Key]:
    """Keys that may have signed the token: that of its id; without an id every one that fits the algorithm."""
    fitting = [key for key in keys if key.fits(token.algorithm)]
    return [key for key in fitting if key.id == token.key_id] if token.key_id else fitting[:10]
