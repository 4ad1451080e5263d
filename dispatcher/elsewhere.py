"""The S3 stores beside the product's own that a function's outputs go to: what the user said of them, made complete.

Only the sidecar that sends outputs gets to see the keys. Stores of other kinds are nothing that outputs can be sent to.
"""

from __future__ import annotations

from typing import Any

from penstock.model import Function, OtherStore
from penstock.model.function import SPEAKS_S3

_REGION = "us-east-1"


def other_stores(function: Function) -> dict[str, OtherStore]:
    """By provider reference. What cannot be used as the user wrote it is left out: its outputs are then refused one by
    one, by name. Pure.
    """
    found: dict[str, OtherStore] = {}
    for entry in function.outputs:
        if entry.own_store or entry.provider not in SPEAKS_S3 or entry.reference in found:
            continue
        fields = function.storage_providers.get(entry.provider, {}).get(entry.provider_id, {})
        store = _store(entry.provider, fields)
        if store is not None:
            found[entry.reference] = store
    return found


def _store(kind: str, fields: dict[str, Any]) -> OtherStore | None:
    access, secret = str(fields.get("access_key") or ""), str(fields.get("secret_key") or "")
    region = str(fields.get("region") or _REGION)
    endpoint = _amazon(region) if kind == "s3" else str(fields.get("endpoint") or "")
    if not (access and secret and endpoint):
        return None
    return OtherStore(
        endpoint=endpoint,
        region=region,
        access_key=access,
        secret_key=secret,
        virtual=kind == "s3",
        verify=fields.get("verify", True),
    )


def _amazon(region: str) -> str:
    """AWS's endpoint of a region (AWS General Reference, "Amazon S3 endpoints"); China has a domain of its own."""
    return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
