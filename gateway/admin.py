"""The administrator's credential from a mounted Secret, and the certificate to serve with."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from gateway.datadir import Credentials
from penstock.errors import InvalidInput
from penstock.rereading import Reread, text_of
from penstock.settings_gateway import GatewayGroup

USER = "oscar"
#: A password is compared at full speed, so it must not be guessable: the chart generates one of 32 characters.
LEAST_LENGTH = 12


def admin_of(settings: GatewayGroup) -> Callable[[], Credentials]:
    """The administrator's credential, read again whenever its files change, so that the password is changed without a
    restart. Raises InvalidInput: no password, or one that is too short.
    """
    folder = settings.credentials_dir
    if folder is None:
        raise InvalidInput(
            "is not set: name the folder with the administrator's `password`", where="gateway.credentials_dir"
        )
    try:
        return Reread([folder / "password"], lambda: _read(folder))
    except OSError as error:
        raise InvalidInput(
            f"the administrator's password cannot be read from {folder}: {error.strerror or error}",
            where="gateway.credentials_dir",
        ) from error


def _read(folder: Path) -> Credentials:
    password = text_of(folder / "password")
    if len(password) < LEAST_LENGTH:
        raise InvalidInput(
            f"holds a password of fewer than {LEAST_LENGTH} characters; choose a longer one",
            where=str(folder / "password"),
        )
    named = folder / "username"
    user = text_of(named) if named.is_file() else ""
    return Credentials(user or USER, password)


def tls_of(settings: GatewayGroup) -> ssl.SSLContext | None:
    """None = plain HTTP. Raises InvalidInput."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise InvalidInput("certificate and key belong together: set both", where="gateway.tls_cert, gateway.tls_key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"the certificate or key cannot be used: {error}", where="gateway.tls_cert") from error
    return context
