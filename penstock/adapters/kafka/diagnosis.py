"""Why no broker lets us in: aiokafka tries each server, logs what it said, and raises only that none would do.

A wrong password or an untrusted certificate must not look like a broker that is away, for which one waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import errors as kafka  # type: ignore[import-untyped,unused-ignore]
from aiokafka.conn import collect_hosts, create_conn  # type: ignore[import-untyped,unused-ignore]

_OPTIONS = (
    "client_id",
    "request_timeout_ms",
    "security_protocol",
    "ssl_context",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
)


async def refusal(options: Mapping[str, Any]) -> kafka.KafkaError | OSError | None:
    """What the last of the servers says to a connection; None = one of them takes it after all. For clients' options;
    takes at most one request's time per server and step of the handshake.
    """
    given = {name: options[name] for name in _OPTIONS if name in options}
    said: kafka.KafkaError | OSError | None = None
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            connection = await create_conn(host, port, **given)
        except (kafka.KafkaError, OSError) as error:  # a timeout is an OSError
            said = error
        else:
            connection.close()
            return None
    return said
