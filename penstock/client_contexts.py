"""The servers that a user has logged in to, by name, each with its credential: `~/.config/penstock/contexts.toml`.

One file, closed to others (0600), written whole or not at all, changed under a lock: renewing an OIDC login replaces
the refresh token, and two commands that did so at once would leave one of them with a dead one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from penstock.errors import InvalidInput, NotFound
from penstock.private_files import write_private

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, kw_only=True)
class Context:
    """One server and one credential: a token, a user with a password, or what an OIDC login brought.

    `expires_s` is when the access token ends, in seconds since the epoch. Secrets never show in `repr`.
    """

    name: str
    server: str
    ca: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    issuer: str = ""
    client_id: str = ""
    token_endpoint: str = ""
    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    expires_s: int = 0

    @property
    def kind(self) -> str:
        """How it proves who the user is: oidc, basic, token, or none."""
        if self.issuer:
            return "oidc"
        if self.password:
            return "basic"
        return "token" if self.token else "none"


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """All of them, and the name of the one in use ("" = none)."""

    current: str = ""
    by_name: Mapping[str, Context] = field(default_factory=dict)

    def get(self, name: str) -> Context:
        """Raises NotFound, naming those that there are."""
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none; 'penstock login SERVER' makes one"
            raise NotFound(f"there is no context '{name}'; there are: {known}")
        return self.by_name[name]

    def having(self, context: Context, *, use: bool) -> Contexts:
        """The same with one added or replaced."""
        current = context.name if use else self.current
        return Contexts(current=current, by_name={**self.by_name, context.name: context})

    def without(self, name: str) -> Contexts:
        """The same without one. Raises NotFound."""
        self.get(name)
        left = {other: context for other, context in self.by_name.items() if other != name}
        return Contexts(current="" if self.current == name else self.current, by_name=left)

    def using(self, name: str) -> Contexts:
        """The same, another one in use. Raises NotFound."""
        return replace(self, current=self.get(name).name)


def check_name(name: str) -> str:
    """Return the name of a context. Raises InvalidInput."""
    if not _NAME.match(name):
        raise InvalidInput(f"{name[:70]!r} is no name of a context: use letters, digits, dots, hyphens, underscores")
    return name


def path_of(environ: Mapping[str, str]) -> Path:
    """Return where the contexts are kept."""
    # XDG: a relative path is invalid and must be ignored.
    named = Path(environ.get("XDG_CONFIG_HOME", ""))
    home = Path(environ.get("HOME", "") or Path.home())
    return (named if named.is_absolute() else home / ".config") / "penstock" / "contexts.toml"


def load(path: Path) -> Contexts:
    """Read the contexts; none where there is no file. Raises InvalidInput when it cannot be read."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise InvalidInput(f"the contexts cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        # The parser's text may quote the file, and the file holds secrets.
        raise InvalidInput("the contexts are not valid TOML; repair the file or remove it", where=str(path)) from error
    known = {one.name for one in fields(Context)}
    found = {}
    for name, told in dict(document.get("contexts", {})).items():
        if isinstance(told, dict) and isinstance(told.get("server"), str):
            # What a newer version keeps is passed over here, and lost when this one writes.
            found[name] = Context(**{"name": name, **{key: told[key] for key in known & told.keys() - {"name"}}})
    current = str(document.get("current", ""))
    return Contexts(current=current if current in found else "", by_name=found)


def save(path: Path, contexts: Contexts) -> None:
    """Write the contexts. Raises InvalidInput when the folder cannot be written to."""
    lines = ["# Servers that this user has logged in to. Keep it secret.", f"current = {_quoted(contexts.current)}"]
    for name, context in sorted(contexts.by_name.items()):
        lines += ["", f"[contexts.{_quoted(name)}]"]
        values = {key: value for key, value in asdict(context).items() if value and key != "name"}
        lines += [f"{key} = {_quoted(value)}" for key, value in values.items()]
    try:
        write_private(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise InvalidInput(f"the contexts cannot be written: {error.strerror}", where=str(path)) from error


def _quoted(value: str | int) -> str:
    """A value as TOML has it: JSON's escapes are a subset of TOML's, which wants one more character escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the contexts during the block. Raises InvalidInput."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidInput(f"the contexts cannot be written: {error.strerror}", where=str(path)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
