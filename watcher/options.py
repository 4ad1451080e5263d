"""What of the settings only the watcher can judge: whether they can work together, and the webhook's token."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from pathlib import Path

from penstock.errors import InvalidInput
from penstock.probes import split_address
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
    if notify.token_file is None:
        fixed = notify.token.get_secret_value()
        return lambda: fixed
    return _TokenFile(notify.token_file)


class _TokenFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = (0, 0)
        self._known = ""
        try:
            self._read()
        except OSError as error:
            raise InvalidInput(
                f"the token cannot be read from {path}: {error.strerror or error}", where="notify.token_file"
            ) from error
        if not self._known:
            raise InvalidInput(f"the file {path} is empty: put the token into it", where="notify.token_file")

    def __call__(self) -> str:
        with contextlib.suppress(OSError):  # between two versions of a mounted Secret
            self._read()
        return self._known

    def _read(self) -> None:
        state = self._path.stat()
        if (stamp := (state.st_mtime_ns, state.st_ino)) != self._stamp:
            # An empty file is one that is being written: without a token everybody would be let in.
            self._known = self._path.read_text(encoding="utf-8").strip() or self._known
            self._stamp = stamp
