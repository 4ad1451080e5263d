"""Composes the adapters of the production profile from the settings. Only `*/__main__.py` and composition roots use it.

Each service opens just what it needs, in this module's order, and what is opened here is closed here in reverse. The
adapters' libraries are extras (`penstock[kafka,kubernetes,s3]`), so they are imported where they are used.
"""

from __future__ import annotations

import fcntl
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.adapters.sqlite import SqliteEventLog
from penstock.errors import AlreadyExists, InvalidInput, Unavailable, Unsupported
from penstock.model import TOPIC_COMMANDS, TOPIC_DEAD, TOPIC_DEMAND, TOPIC_EVENTS, TOPIC_RECORDS
from penstock.ports import EventLog
from penstock.probes import split_address
from penstock.rereading import Reread, text_of
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
    from penstock.adapters.kubernetes import Access, KubernetesClient
    from penstock.adapters.s3 import Credentials, S3Store

#: The one active writer of records; a successor of this name fences its predecessor.
WRITER = "dispatcher"
TOPICS = (TOPIC_EVENTS, TOPIC_RECORDS, TOPIC_DEAD, TOPIC_COMMANDS, TOPIC_DEMAND)
_NO_BROKER = (
    "names no broker: services that are processes of their own meet on Kafka; without it, run the edge profile "
    "(python -m gateway --edge), which is one process"
)
_NO_STORE = "names no object store: give http[s]://HOST[:PORT]"


def check_service(settings: Settings, *, store: bool = True, brokers: bool = True) -> None:
    """Refuse what no service of its own can ever work with. Reads the files that the settings name, opens nothing and
    asks nobody. `store`, `brokers` = this service needs the object store, Kafka. Raises InvalidInput, which names the
    setting.
    """
    split_address(settings.service.listen)
    if store:
        _check_store(settings)
    if brokers:
        if not settings.kafka.servers.strip():
            raise InvalidInput(_NO_BROKER, where="kafka.servers")
        kafka_settings(settings).client_options()
    if settings.kubernetes.kubeconfig is not None:
        try:
            _access(settings)
        except (InvalidInput, Unsupported) as error:
            raise InvalidInput(error.message, where="kubernetes.kubeconfig") from error


def _check_store(settings: Settings) -> None:
    from penstock.adapters.s3.endpoint import parse_endpoint  # noqa: PLC0415 - an extra

    group = settings.s3
    if not group.endpoint:
        raise InvalidInput(_NO_STORE, where="s3.endpoint")
    for name in ("endpoint", "pod_endpoint", "public_endpoint"):
        if address := getattr(group, name):
            try:
                parse_endpoint(address)
            except InvalidInput as error:
                raise InvalidInput(error.message.removeprefix(f"{error.where}: "), where=f"s3.{name}") from error
    s3_credentials(settings)
    if group.ca_file is not None:
        try:
            ssl.create_default_context(cafile=group.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"{group.ca_file} is not a readable PEM file of certificates", where="s3.ca_file"
            ) from error


@asynccontextmanager
async def s3_store(settings: Settings) -> AsyncIterator[S3Store]:
    """The object store with this service's own account. Raises InvalidInput."""
    from penstock.adapters.s3 import S3Config, S3Store, Style  # noqa: PLC0415 - an extra

    group = settings.s3
    if not group.endpoint:
        raise InvalidInput(_NO_STORE, where="s3.endpoint")
    store = S3Store(
        S3Config(
            endpoint=group.endpoint,
            credentials=s3_credentials(settings),
            region=group.region,
            style=Style(group.style),
            verify=group.ca_file or True,
            any_key=group.any_key,
            versioned=group.versioned,
        )
    )
    try:
        yield store
    finally:
        await store.close()


def s3_credentials(settings: Settings) -> Callable[[], Credentials]:
    """The store account of this service, read again whenever its files change. Raises InvalidInput: there is none."""
    from penstock.adapters.s3 import Credentials  # noqa: PLC0415 - an extra

    group = settings.s3
    if group.credentials_dir is None:
        if not group.access_key or not group.secret_key.get_secret_value():
            raise InvalidInput("gives no account of the object store: set it", where="s3.credentials_dir")
        fixed = Credentials(group.access_key, group.secret_key.get_secret_value())
        return lambda: fixed
    access, secret, token = (group.credentials_dir / name for name in ("access_key", "secret_key", "session_token"))

    def read() -> Credentials:
        return Credentials(text_of(access), text_of(secret), (text_of(token) if token.is_file() else "") or None)

    try:
        return Reread((access, secret), read)
    except OSError as error:
        raise InvalidInput(
            f"the store account cannot be read from {group.credentials_dir}: {error.strerror or error}",
            where="s3.credentials_dir",
        ) from error


@asynccontextmanager
async def kubernetes_client(settings: Settings) -> AsyncIterator[KubernetesClient]:
    """One session to the API server, shared by all parts of the process. Raises InvalidInput, Unsupported."""
    from penstock.adapters.kubernetes import ClientSettings, KubernetesClient  # noqa: PLC0415 - an extra

    client = KubernetesClient(_access(settings), ClientSettings(in_flight=settings.kubernetes.in_flight))
    try:
        yield client
    finally:
        await client.close()


def _access(settings: Settings) -> Access:
    from penstock.adapters.kubernetes import from_kubeconfig, in_cluster  # noqa: PLC0415 - an extra

    group = settings.kubernetes
    return in_cluster() if group.kubeconfig is None else from_kubeconfig(group.kubeconfig, context=group.context)


def kafka_settings(settings: Settings, *, writer: bool = False) -> KafkaSettings:
    """`writer` = the fenced writer of the active dispatcher. Raises InvalidInput."""
    from penstock.adapters.kafka import KafkaSettings  # noqa: PLC0415 - an extra

    group = settings.kafka
    password = group.password.get_secret_value()
    if group.password_file is not None:
        try:
            password = text_of(group.password_file)
        except OSError as error:
            raise InvalidInput(
                f"the password cannot be read from {group.password_file}: {error.strerror or error}",
                where="kafka.password_file",
            ) from error
    return KafkaSettings(
        servers=group.servers,
        prefix=group.prefix,
        partitions=group.partitions,
        replication=group.replication,
        tls=group.tls,
        ca_file=group.ca_file,
        mechanism=group.mechanism,
        username=group.username or None,
        password=password or None,
        transactional_id=WRITER if writer else None,
    )


@asynccontextmanager
async def kafka_log(settings: Settings, *, writer: bool = False) -> AsyncIterator[KafkaEventLog]:
    """The log in Kafka, with all topics there. Raises InvalidInput, Unavailable, Forbidden."""
    from penstock.adapters.kafka import KafkaEventLog  # noqa: PLC0415 - an extra

    log = KafkaEventLog(kafka_settings(settings, writer=writer))
    try:
        await log.ensure_topics(TOPICS)
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def file_log(settings: Settings) -> AsyncIterator[SqliteEventLog]:
    """The log in a file, for the edge profile: one process, whose folder is locked. Raises AlreadyExists,
    Unavailable, Corrupt.
    """
    folder = state_folder(settings)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyExists(
                f"{folder} is in use by another process: the edge profile is one process with a folder of its own"
            ) from error
        log = await SqliteEventLog.open(folder / "log.sqlite")
        try:
            yield log
        finally:
            await log.close()
    finally:
        os.close(lock)


def state_folder(settings: Settings) -> Path:
    """The folder of local views, made if it is missing. Raises Unavailable."""
    folder = settings.state.data
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the folder {folder} (state.data) cannot be made: {error.strerror or error}") from error
    return folder


@asynccontextmanager
async def shared_log(settings: Settings) -> AsyncIterator[EventLog]:
    """The log of a service that is a process of its own. Raises InvalidInput where there is no Kafka."""
    if not settings.kafka.servers:
        raise InvalidInput(_NO_BROKER, where="kafka.servers")
    async with kafka_log(settings) as log:
        yield log
