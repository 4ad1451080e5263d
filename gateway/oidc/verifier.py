"""Whose token is this? Signature, issuer, audience, times and groups, with what was found kept for a while.

A refusal is the same short sentence for every cause, so that nothing can be learned by trying; the log tells the cause.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from gateway.oidc import claims as judged
from gateway.oidc.claims import Identity
from gateway.oidc.jws import BadToken, choose, take_apart
from gateway.oidc.keys import IssuerKeys
from penstock.client_errors import Unauthenticated
from penstock.errors import Forbidden, InvalidInput
from penstock.settings_gateway import GatewayGroup

log = structlog.get_logger("gateway.oidc")

#: Verified tokens that are remembered, by their digest; a token is good for minutes and used many times.
REMEMBERED = 10_000


class Verifier:
    def __init__(
        self,
        settings: GatewayGroup,
        keys: Mapping[str, IssuerKeys],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`keys` by issuer, the first one being the home of those users who go by their subject alone.

        Raises InvalidInput: no audience.
        """
        words = settings.words
        self.issuers = tuple(keys)
        self.audiences = frozenset(words(settings.oidc_audience))
        if not self.audiences:
            raise InvalidInput(
                "is needed with gateway.oidc_issuers: the audience that tokens for this service name",
                where="gateway.oidc_audience",
            )
        self.groups = words(settings.oidc_groups)
        self.admins = frozenset(words(settings.oidc_admins))
        self._claims = words(settings.oidc_group_claims)
        self._leeway_s = settings.oidc_leeway_s
        self._keys = keys
        self._clock = clock
        self._known: dict[bytes, Identity] = {}

    async def identify(self, text: str) -> Identity:
        """Raises Unauthenticated, Forbidden (in none of the groups), Unavailable (the issuer does not answer)."""
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        known = self._known.get(digest)
        if known is not None and known.expires_s + self._leeway_s > self._clock():
            return known
        self._known.pop(digest, None)
        try:
            identity = await self._judge(text)
        except BadToken as error:
            log.info("a token was refused", action="token_refused", reason=error.message)
            raise Unauthenticated("this token is not accepted: sign in again") from error
        if len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[digest] = identity
        return identity

    async def _judge(self, text: str) -> Identity:
        token = take_apart(text)
        issuer = token.claims.get("iss")
        keys = self._keys.get(issuer) if isinstance(issuer, str) else None
        if keys is None or not isinstance(issuer, str):
            raise BadToken(f"its issuer {str(issuer)[:200]!r} is not trusted here")
        # Cheap tests first; they decide nothing that the signature would not have to confirm.
        expires_s = judged.check_times(token.claims, now_s=self._clock(), leeway_s=self._leeway_s)
        judged.check_audience(token.claims, self.audiences)
        subject = judged.subject_of(token.claims)
        candidates = choose(token, await keys.current())
        if not candidates:
            # A key that is not known yet: the issuer may have changed it a moment ago.
            candidates = choose(token, await keys.renewed())
        if not any(key.verify(token) for key in candidates):
            raise BadToken("its signature is wrong")
        groups, told = judged.groups_of(token.claims, self._claims), token.claims
        if groups is None and self.groups:
            told = {**token.claims, **await self._user_info(keys, text, subject)}
            groups = judged.groups_of(told, self._claims)
        groups = groups or frozenset()
        if self.groups and groups.isdisjoint(self.groups):
            raise Forbidden(f"you are in none of the groups that may use this service: {', '.join(self.groups)}")
        home = issuer == self.issuers[0]
        return Identity(
            subject=subject if home else f"{subject}@{issuer}",
            issuer=issuer,
            name=judged.display_of(told, subject),
            groups=groups,
            expires_s=expires_s,
        )

    async def _user_info(self, keys: IssuerKeys, text: str, subject: str) -> dict[str, Any]:
        """What the issuer says of the token's holder. Raises BadToken."""
        told = await keys.user_info(text)
        if told.get("sub") != subject:
            raise BadToken("the issuer speaks of another user than the token")
        return told

    async def close(self) -> None:
        for keys in self._keys.values():
            await keys.close()
