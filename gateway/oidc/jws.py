"""Signed tokens (RFC 7515, 7517, 7519): taking one apart and checking its signature, by PyJWT. Pure.

What stands here is what a library cannot decide for us: which algorithms count at all (asymmetric ones only), that a
key serves only the algorithms of its own kind, and how large a token or key may be. So a token cannot choose to be
judged by another rule than its issuer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from penstock.errors import PenstockError

#: Algorithms by the key type that they need, and the curve.
ALGORITHMS = {
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
}
#: The public half of a key. What else a document holds is left out: a private half has no business here.
_MEMBERS = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y")}
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
    text: str


def looks_like_token(text: str) -> bool:
    return text.count(".") == 2 and len(text) <= LONGEST_TOKEN


def take_apart(text: str) -> Token:
    """Raises BadToken for whatever is no compact JWS with a JSON object in it."""
    from jwt.api_jws import PyJWS  # noqa: PLC0415 - an extra
    from jwt.exceptions import PyJWTError  # noqa: PLC0415 - an extra

    if not looks_like_token(text) or not text.isascii():
        raise BadToken("it is no compact signed token")
    try:
        parts = PyJWS().decode_complete(text, options={"verify_signature": False})
    except PyJWTError as error:
        raise BadToken(f"it cannot be read: {error}") from error
    head: dict[str, Any] = parts["header"]
    algorithm = head.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise BadToken(f"its algorithm is {str(algorithm)[:20]!r}, not one of {', '.join(ALGORITHMS)}")
    if "crit" in head or "b64" in head:
        raise BadToken("it cannot be read: it demands extensions that are not understood here")
    try:
        claims = msgspec.json.decode(parts["payload"], type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadToken("its payload is not a JSON object") from error
    return Token(algorithm=algorithm, key_id=str(head.get("kid", "")), claims=claims, text=text)


class Key:
    """One public key of an issuer, as a JWK tells it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Raises BadToken for a key that cannot be used for signatures here."""
        self.kind = str(document.get("kty", ""))
        self.id = str(document.get("kid", ""))
        self.algorithm = str(document.get("alg", ""))
        self.curve = str(document.get("crv", "")) if self.kind == "EC" else ""
        if document.get("use", "sig") != "sig" or self.kind not in _MEMBERS:
            raise BadToken("the key is not one for signatures")
        self._key = _public_key(document, self.kind, self.curve)

    def fits(self, algorithm: str) -> bool:
        return ALGORITHMS[algorithm] == (self.kind, self.curve) and self.algorithm in {"", algorithm}

    def verify(self, token: Token) -> bool:
        """Whether this key signed the token, by the algorithm that the token names and that fits the key."""
        from jwt.api_jws import PyJWS  # noqa: PLC0415 - an extra
        from jwt.exceptions import PyJWTError  # noqa: PLC0415 - an extra

        if not self.fits(token.algorithm):
            return False
        try:
            PyJWS().decode_complete(token.text, self._key, algorithms=[token.algorithm])
        except PyJWTError:
            return False
        return True


def _public_key(document: Mapping[str, Any], kind: str, curve: str) -> Any:
    """The key as the library wants it. Raises BadToken."""
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm  # noqa: PLC0415 - an extra
    from jwt.exceptions import PyJWTError  # noqa: PLC0415 - an extra

    if kind == "EC" and ("EC", curve) not in ALGORITHMS.values():
        raise BadToken(f"the key cannot be used: its curve is {curve[:20]!r}")
    public = {name: str(document[name]) for name in _MEMBERS[kind] if name in document}
    try:
        key: Any = RSAAlgorithm.from_jwk(public) if kind == "RSA" else ECAlgorithm.from_jwk(public)
    except (PyJWTError, KeyError, ValueError, TypeError) as error:
        raise BadToken(f"the key cannot be used: {error}") from error
    if kind == "RSA" and not _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS:
        raise BadToken(f"the key cannot be used: an RSA key of {key.key_size} bits")
    return key


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
