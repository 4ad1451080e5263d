"""The other S3 stores that outputs go to, as `output` sees them: the keys that the user supplied, from a Secret that is
mounted in this sidecar alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import msgspec

from dispatcher.sidecar.s3 import S3, Settings
from penstock.adapters.s3.endpoint import Style
from penstock.adapters.s3.sigv4 import Credentials
from penstock.errors import InvalidInput
from penstock.model import OtherStore

_decode = msgspec.json.Decoder(dict[str, OtherStore]).decode


class OtherStores:
    """Connections by provider reference (`s3.archive`), made when the first output goes there."""

    def __init__(self, told: Mapping[str, OtherStore], patience_s: float) -> None:
        self._told = told
        self._patience_s = patience_s
        self._open: dict[tuple[str, bool], S3] = {}

    @property
    def names(self) -> Collection[str]:
        return self._told.keys()

    def store(self, name: str, bucket: str) -> S3:
        """Raises InvalidInput: what the user said of the store cannot be used."""
        told = self._told[name]
        # A certificate for *.store is none for a.b.store.
        virtual = told.virtual and "." not in bucket
        if (name, virtual) not in self._open:
            self._open[name, virtual] = S3(self._settings(name, told, virtual=virtual))
        return self._open[name, virtual]

    def _settings(self, name: str, told: OtherStore, *, virtual: bool) -> Settings:
        authorities = told.verify if isinstance(told.verify, str) else ""
        if authorities and not authorities.lstrip().startswith("-----BEGIN") and not os.path.exists(authorities):  # noqa: PTH110 - pathlib is not imported here
            raise InvalidInput(
                f"the file {authorities} is not there where outputs are sent: give the authorities' text (PEM)",
                where=f"storage_providers.{name}.verify",
            )
        return Settings(
            endpoint=told.endpoint,
            account=lambda: Credentials(told.access_key, told.secret_key, None),
            region=told.region,
            style=Style.VIRTUAL if virtual else Style.PATH,
            ca=authorities,
            verified=told.verify is not False,
            patience_s=self._patience_s,
        )


def read_stores(folder: str) -> dict[str, OtherStore]:
    """What is mounted there; nothing when nothing is. Raises OSError, InvalidInput (never with a part of a key)."""
    try:
        with open(f"{folder}/stores.json", "rb", buffering=0) as stream:  # noqa: PTH123 - pathlib is not imported here
            return _decode(stream.readall())
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError:
        # Without the cause: its text could hold a part of a key.
        raise InvalidInput("the keys of other stores cannot be read; apply the function again", where=folder) from None
