"""What of the settings only the watcher can judge: whether they can work together, and the webhook's token."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from penstock.errors import InvalidInput
from penstock.probes import split_address
from penstock.rereading import Reread, text_of
from penstock.settings import Settings


def check(settings: Settings) -> None:
    """Refuse what cannot work, or would let anybody start jobs. Raises InvalidInput."""
    notify = settings.notify
    if notify.kafka and not settings.kafka.servers:
        raise InvalidInput("needs a Kafka: set kafka.servers, or turn this off", where="notify.kafka")
    if not (notify.webhook or notify.kafka or notify.hint):
        raise InvalidInput("is off and so are notify.kafka and notify.hint: turn one on", where="notify.webhook")
    if not notify.webhook:
        return
    if not notify.path.startswith("/"):
        raise InvalidInput(f"{notify.path!r} is not the path of a URL, for example /events", where="notify.path")
    host, _ = split_address(notify.listen, where="notify.listen")
    if not _loopback(host) and not webhook_token(settings)():
        raise InvalidInput(
            f"is needed because notify.listen ({notify.listen}) can be reached by others: give the file of the token "
            "that the object store's target sends",
            where="notify.token_file",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def webhook_token(settings: Settings) -> Callable[[], str]:
    """What the store has to send, read again whenever its file changes. Raises InvalidInput: it cannot be read."""
    notify = settings.notify
    if (file := notify.token_file) is None:
        fixed = notify.token.get_secret_value()
        return lambda: fixed
    known = ""

    def read() -> str:
        # An empty file is one that is being written: without a token everybody would be let in.
        nonlocal known
        known = text_of(file) or known
        return known

    try:
        token = Reread([file], read)
    except OSError as error:
        raise InvalidInput(
            f"the token cannot be read from {file}: {error.strerror or error}", where="notify.token_file"
        ) from error
    if not token():
        raise InvalidInput(f"the file {file} is empty: put the token into it", where="notify.token_file")
    return token
