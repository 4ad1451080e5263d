"""Settings of traces that leave the process. Its own module so that `penstock.settings` stays short."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TelemetryGroup(BaseModel):
    """Traces for a collector (OpenTelemetry over HTTP). Nothing is sent unless an endpoint is named."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    endpoint: str = ""
    """Base address of the collector, `http://HOST:4318`; spans are posted to its `/v1/traces`. Empty = no traces."""
    interval_s: float = Field(default=5.0, gt=0)
    """Seconds between two posts. 5: a trace is looked at later, and each post carries many."""
    buffer: int = Field(default=10_000, ge=1)
    """Ended invocations that wait for a collector that is away; more are dropped and counted."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Seconds that one post may take. 10: a collector answers in milliseconds; a hanging one must hold nothing up."""
