"""Settings: what an operator may tune, read once at start and frozen from then on.

One group per subject, the same names everywhere: `[http] keepalive_s = 75` in the TOML file is
`PENSTOCK_HTTP_KEEPALIVE_S` in the environment. The environment wins over the file, the command line over both. An
unknown name in a known group is refused by name, wherever it stands, because a misspelt limit that silently stays at
its default is worse than a process that does not start. Each field says its unit and why its default is what it is;
`docs/reference/settings.md` repeats them for readers, and a test fails when a field is missing there.

This module imports pydantic-settings, which takes a fifth of a second: nothing on the path of `penstock --help` may
import it at module level.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from penstock.errors import InvalidInput
from penstock.settings_gateway import GatewayGroup
from penstock.settings_hooks import HooksGroup
from penstock.settings_jobs import JobsGroup
from penstock.settings_notify import NotifyGroup
from penstock.settings_production import KafkaGroup, KubernetesGroup, S3Group, ServiceGroup, StateGroup
from penstock.settings_scaler import ScalerGroup
from penstock.settings_sync import SyncGroup
from penstock.settings_telemetry import TelemetryGroup

PREFIX = "PENSTOCK_"
CONFIG_VARIABLE = "PENSTOCK_CONFIG"


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class HttpSettings(_Group):
    """The HTTP interface."""

    listen: str = "127.0.0.1:8080"
    """Host and port. Loopback, because the credential travels in clear without TLS; port 0 = any free one."""
    allow_remote: bool = False
    """Permit a listen address that other machines can reach. Off, so that exposing the server is a decision."""
    max_object_bytes: int = Field(default=0, ge=0)
    """Bytes of one uploaded object, 0 = no limit but the disk. Uploads are streamed, so size costs no memory."""
    max_payload_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """Bytes of one body posted to a function. 64 MiB: it is held in memory until it is stored; larger inputs are put
    into a bucket."""
    max_document_bytes: int = Field(default=8 * 1024 * 1024, ge=1)
    """Bytes of one JSON or FDL document. 8 MiB holds a thousand functions with their scripts."""
    max_header_bytes: int = Field(default=16 * 1024, ge=1024)
    """Bytes of the request line, and of one header. 16 KiB: the longest key of a bucket, percent-encoded, is 3 KiB."""
    max_connections: int = Field(default=512, ge=1)
    """Connections at once; further ones get 503. 512 leaves room for files and pipes within the usual 1,024 handles."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds a new connection may take to send its first request's head. A local client needs milliseconds."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds without a single byte before a body, or a reader of an answer, is given up. Long enough for a hiccup of a
    wireless network, short enough that stalled clients cannot pile up."""
    keepalive_s: float = Field(default=75.0, ge=0)
    """Seconds an idle connection stays open. 75: what common proxies and clients expect."""
    run_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds a synchronous run is waited for unless the caller says otherwise. After that the work goes on and its
    invocation can be followed."""
    changes_buffer: int = Field(default=1000, ge=1)
    """Changes kept per listening client before it gets a gap. 1,000 are about a second of full speed, 1 MB."""


class LogSettings(_Group):
    """What Penstock itself writes to standard error."""

    format: Literal["auto", "console", "json"] = "auto"
    """auto = coloured text on a terminal, JSON lines otherwise."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written. Nothing at info is written per item."""


class HistorySettings(_Group):
    """How long finished work is remembered."""

    keep_days: float = Field(default=90.0, gt=0)
    """Days after its end that an invocation, its log and its stored body stay. 90: a quarter of a year can be
    explained."""
    events_keep_days: float = Field(default=7.0, gt=0)
    """Days that accepted events stay after they were queued. 7: a week to look into a routing question; they are not
    needed for recovery."""
    answers_keep_days: float = Field(default=1.0, gt=0)
    """Days that an answer nobody fetched stays (the caller of a synchronous run left before the end)."""
    interval_s: float = Field(default=3600.0, gt=0)
    """Seconds between two rounds of housekeeping. Hourly: each round takes little, and nothing depends on it."""


class WatcherSettings(_Group):
    """How files that land in a bucket are noticed."""

    settle_s: float = Field(default=2.0, ge=0)
    """Seconds that a file which another program wrote must be unchanged before a listing takes it. Events at
    close-after-write do not wait for this; it protects against programs that write in bursts."""
    listing_share: float = Field(default=0.02, gt=0, le=1)
    """Part of the time that may go into listing buckets for files whose event was lost. 2 %: not felt by anything."""
    listing_min_s: float = Field(default=60.0, gt=0)
    """Seconds between two full listings of one input at least. A minute: losses are rare, and a known loss (a queue
    overflow, a restart) is listed at once."""
    listing_max_s: float = Field(default=86400.0, gt=0)
    """Seconds between two full listings of one input at most, whatever they cost: each file is found within a day."""


class RunnerSettings(_Group):
    """How scripts are run as processes."""

    grace_s: float = Field(default=5.0, ge=0)
    """Seconds between the polite and the forced end of a script (deadline, cancel): time to remove temporary files."""
    log_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Bytes of output kept per item; beyond that some goes and the item says so. 64 MiB: the log of a long training,
    while an endless loop of prints cannot fill the disk."""


class DispatcherGroup(_Group):
    """How work is queued, started and retried. Maps field by field onto `dispatcher.settings.DispatcherSettings`."""

    intake_batch: int = Field(default=1000, ge=1)
    """Events read, routed and recorded in one turn. 1,000: more gains little, less costs one disk sync each."""
    window: int = Field(default=256, ge=1)
    """Queued items held in memory per function; the rest stays on disk, so a backlog of a million costs none."""
    ahead: int = Field(default=4, ge=0)
    """Jobs of one function written as planned before there is room. 4: a freed slot never waits for the disk; of short
    Jobs on one machine up to eight times as many, by what its slots do while the disk takes plans."""
    ahead_total: int = Field(default=64, ge=1)
    """Jobs planned ahead over all functions. 64 bounds what is written for nothing when a limit or a pause changes."""
    platform_retries: int = Field(default=5, ge=0)
    """Retries of platform errors (stage-in, publish, lost), beside the function's own `retries`. With the delays below
    five of them outlast a restart of the store."""
    retry_base_s: float = Field(default=1.0, gt=0)
    """Seconds before the first retry, about; each further one waits twice as long."""
    retry_limit_s: float = Field(default=300.0, gt=0)
    """Longest wait between two retries, in seconds: five minutes after a repair everything moves again."""
    running_record_after_s: float = Field(default=0.5, ge=0)
    """Seconds after which an item gets a `running` record of its own; shorter ones are only in their final one, which
    saves a write per item."""
    auto_overhead: float = Field(default=0.1, gt=0, lt=1)
    """Share of a list's time that may be start-up when `batch: auto` chooses its size."""
    auto_max_items: int = Field(default=200, ge=1)
    """Most items in one list of `batch: auto`: what a crash may have to run again."""
    auto_max_s: float = Field(default=30.0, gt=0)
    """Most seconds of work in one list of `batch: auto`, so that functions still take turns."""
    ready_intake_s: float = Field(default=3.0, ge=0)
    """Seconds that becoming ready waits until what was accepted before a crash is recorded and so listed. 3 records
    some 10,000; a longer backlog is taken in afterwards."""


class UpSettings(_Group):
    """Embedded mode, `penstock up`."""

    data: Path = Path("penstock-data")
    """The data folder, made if it is missing. Below the current folder, so that trying Penstock leaves one folder."""
    drain_s: float = Field(default=30.0, ge=0)
    """Seconds that running items get at a stop before they are killed and run again at the next start."""
    s3: bool = False
    """Serve the buckets as S3 too, through rclone (the extra `penstock[s3]`). Off, because most need it not."""
    s3_listen: str = "127.0.0.1:9000"
    """Host and port of S3, with `s3`. Loopback as above, and the port that MinIO has; port 0 = any free one."""


class Settings(BaseSettings):
    """All groups. Use `load`, which turns what pydantic complains about into one sentence."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
    )

    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    history: HistorySettings = HistorySettings()
    watcher: WatcherSettings = WatcherSettings()
    runner: RunnerSettings = RunnerSettings()
    dispatcher: DispatcherGroup = DispatcherGroup()
    up: UpSettings = UpSettings()
    s3: S3Group = S3Group()
    kafka: KafkaGroup = KafkaGroup()
    kubernetes: KubernetesGroup = KubernetesGroup()
    state: StateGroup = StateGroup()
    service: ServiceGroup = ServiceGroup()
    jobs: JobsGroup = JobsGroup()
    notify: NotifyGroup = NotifyGroup()
    gateway: GatewayGroup = GatewayGroup()
    scaler: ScalerGroup = ScalerGroup()
    hooks: HooksGroup = HooksGroup()
    sync: SyncGroup = SyncGroup()
    telemetry: TelemetryGroup = TelemetryGroup()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the base class calls this by keyword
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: the file arrives as init arguments, the command line is laid over the result."""
        return env_settings, init_settings


def load(config: Path | None = None) -> Settings:
    """Read the TOML file (`config`, else the one that PENSTOCK_CONFIG names, else none) and the environment.

    Raises InvalidInput naming the file or variable and the setting: not readable, not TOML, unknown name, bad value.
    """
    if config is None and (named := os.environ.get(CONFIG_VARIABLE)):
        config = Path(named)
    _check_environment()
    document = _read(config) if config is not None else {}
    try:
        return Settings(**document)
    except ValidationError as error:
        raise _translated(error, document, config) from error


def override(settings: Settings, group: str, **values: object) -> Settings:
    """A copy with values from the command line laid over one group; None = not given. Raises InvalidInput."""
    given = {name: value for name, value in values.items() if value is not None}
    current: BaseModel = getattr(settings, group)
    try:
        changed = type(current).model_validate(current.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(_say(first), where=f"--{'.'.join(map(str, first['loc'])).replace('_', '-')}") from error
    return settings.model_copy(update={group: changed})


def _check_environment() -> None:
    """Bytes that are no text would pass as one here, and break whatever signs or sends them."""
    for name, value in os.environ.items():
        if name.upper().startswith(PREFIX) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InvalidInput("is not UTF-8 text; give it as plain text", where=name)


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"the settings file cannot be read: {error.strerror or error}", where=str(config)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the settings file is not valid TOML: {error}", where=str(config)) from error


def _translated(error: ValidationError, document: dict[str, Any], config: Path | None) -> InvalidInput:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    variable = PREFIX + "_".join(path).upper()
    if variable in os.environ or not _holds(document, path):
        return InvalidInput(_say(first), where=variable)
    return InvalidInput(_say(first), where=f"{config}: {'.'.join(path)}")


def _holds(document: dict[str, Any], path: list[str]) -> bool:
    value: Any = document
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _say(detail: Any) -> str:
    """One sentence: what is wrong and, for a name, which names there are."""
    path = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        known = _known(path[:-1])
        return f"there is no setting of this name; {'known here are ' if known else 'nothing belongs here'}{known}"
    text = str(detail["msg"])
    # A secret could stand in a misplaced value, so the value itself is not repeated.
    return text[:1].lower() + text[1:]


def _known(path: list[str]) -> str:
    model: type[BaseModel] = Settings
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ""
        model = inner
    return ", ".join(model.model_fields)
