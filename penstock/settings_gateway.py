"""The settings of the gateway: who its administrator is, whose tokens it trusts, and what one user may take.

The same group serves embedded mode, where the administrator's credential lies in the data folder instead.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.settings_production import ProductionGroup


class GatewayGroup(ProductionGroup):
    """The gateway: its administrator, single sign-on, and the limits of one user."""

    credentials_dir: Path | None = None
    """Folder with the files `username` (default `oscar`) and `password` of the administrator, as a mounted Secret has
    them; read again when they change. Embedded mode makes its own credential and ignores this."""
    tls_cert: Path | None = None
    """Certificate chain (PEM) to serve HTTPS with. None = plain HTTP, for an ingress that ends TLS."""
    tls_key: Path | None = None
    """Private key (PEM) of that certificate; readable by this process alone, and never sent."""
    allowed_origins: str = "*"
    """Web pages that may call the interface from a browser: origins with commas between, `*` = all. Safe as it is,
    because a page has to bring a credential of its own; cookies are never used."""
    oidc_issuers: str = ""
    """Issuers (URLs) whose tokens are accepted, with commas between. Empty = no single sign-on. Users of the first one
    go by their subject alone, those of the others by `subject@issuer`."""
    oidc_audience: str = ""
    """What a token's `aud` must name (several: commas). Needed with `oidc_issuers`: a token that was made for another
    service must not open this one."""
    oidc_groups: str = ""
    """Groups, with commas between, of which a user must be in one. Empty = every user of the issuers."""
    oidc_group_claims: str = "groups,eduperson_entitlement,entitlements,group_membership"
    """Claims that hold a user's groups: plain names, or entitlements as AARC-G002 and EGI Check-In write them."""
    oidc_admins: str = ""
    """Users (as they are known here, see `oidc_issuers`) with the administrator's rights, with commas between."""
    oidc_leeway_s: float = Field(default=30.0, ge=0, le=300)
    """Seconds by which clocks may differ when a token's expiry and not-before are judged."""
    job_listing_limit: int = Field(default=70, ge=1, le=1000)
    """Jobs, and objects of a bucket, on one page of OSCAR's listings. 70 is OSCAR's."""
    allowed_images: str = ""
    """Beginnings of image references that services may use, with commas between. Empty = any image."""
    user_functions: int = Field(default=0, ge=0)
    """Functions that one user may have, 0 = no limit. The administrator has none."""
    user_buckets: int = Field(default=0, ge=0)
    """Buckets that one user may have, 0 = no limit."""
    function_queued: int = Field(default=0, ge=0)
    """Invocations that may wait per function before a posted body is refused with 429, 0 = no limit."""
    scaler: str = ""
    """Address of the scaler's interface for nodes, like `http://HOST:9092`, which is served on as `/v1/nodes`. Empty =
    there is no scaler, which those addresses then say."""
    scaler_token_file: Path | None = None
    """File with the word that the scaler wants (`scaler.token_file`). Read again whenever the scaler is asked."""

    @staticmethod
    def words(value: str) -> tuple[str, ...]:
        """A setting with commas as its parts."""
        return tuple(word for part in value.split(",") if (word := part.strip()))
