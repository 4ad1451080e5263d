"""Opens single sign-on as the settings say, and closes it again."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.oidc.keys import IssuerKeys
from gateway.oidc.verifier import Verifier
from penstock.errors import InvalidInput
from penstock.settings_gateway import GatewayGroup


def make_verifier(settings: GatewayGroup) -> Verifier | None:
    """None without issuers. Raises InvalidInput: an issuer that is no HTTPS address, no audience, no library."""
    issuers = settings.words(settings.oidc_issuers)
    if not issuers:
        return None
    if importlib.util.find_spec("jwt") is None or importlib.util.find_spec("cryptography") is None:
        raise InvalidInput(
            "needs a library that is not installed: pip install 'penstock[oidc]'", where="gateway.oidc_issuers"
        )
    return Verifier(settings, {issuer: IssuerKeys(issuer) for issuer in issuers})


@asynccontextmanager
async def open_verifier(settings: GatewayGroup) -> AsyncIterator[Verifier | None]:
    """As `make_verifier`, and closed at the end."""
    verifier = make_verifier(settings)
    try:
        yield verifier
    finally:
        if verifier is not None:
            await verifier.close()
