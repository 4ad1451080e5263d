"""How to reach an API server and prove who we are: inside a pod, or by a kubeconfig.

Tokens rotate while a process runs (the kubelet renews a projected token every hour), so a token that lies in a file is
read again now and then, and at once when the server refuses it. Credentials never appear in a `repr`.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from penstock.errors import InvalidInput, Unsupported

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: The kubelet writes the new token when a fifth of the old one's life is left: minutes. A read costs microseconds.
TOKEN_READ_EVERY_S = 30.0


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API server is and what it is shown. Files are preferred to text, since files can rotate."""

    server: str
    namespace: str = "default"
    ca_file: str = ""
    ca_pem: str = ""
    token: str = ""
    token_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    cert_pem: str = ""
    key_pem: str = ""

    def __repr__(self) -> str:
        return f"Access(server={self.server!r}, namespace={self.namespace!r})"


def in_cluster(environ: Mapping[str, str] | None = None, folder: Path = SERVICE_ACCOUNT) -> Access:
    """The pod's own service account. Raises InvalidInput when this is no pod or its token is not mounted."""
    variables = os.environ if environ is None else environ
    host, port = variables.get("KUBERNETES_SERVICE_HOST", ""), variables.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host or not token.is_file():
        raise InvalidInput(
            "this process runs in no Kubernetes pod with a service account token: name a kubeconfig",
            where="KUBERNETES_SERVICE_HOST",
        )
    namespace = folder / "namespace"
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace.read_text(encoding="utf-8").strip() if namespace.is_file() else "default",
        ca_file=str(folder / "ca.crt"),
        token_file=str(token),
    )


def from_kubeconfig(path: str | Path, *, context: str = "") -> Access:
    """A context of a kubeconfig, by default its current one. Raises InvalidInput, Unsupported (credential plugins)."""
    file = Path(path)
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"the kubeconfig cannot be read: {error.strerror or error}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput("the kubeconfig is not valid YAML", where=str(path)) from error
    if not isinstance(document, dict):
        raise InvalidInput("the kubeconfig is not a mapping", where=str(path))
    chosen = _named(document, "contexts", context or str(document.get("current-context", "")), "context", path)
    cluster = _named(document, "clusters", str(chosen.get("cluster", "")), "cluster", path)
    user = _named(document, "users", str(chosen.get("user", "")), "user", path)
    if "exec" in user or "auth-provider" in user:
        raise Unsupported(f"{path}: the user {chosen['user']} signs in by a plugin; use a token or client certificate")
    if not cluster.get("server"):
        raise InvalidInput("the cluster has no server", where=str(path))

    def near(name: str) -> str:
        return str(file.parent / name) if name else ""

    return Access(
        server=str(cluster["server"]).rstrip("/"),
        namespace=str(chosen.get("namespace") or "default"),
        ca_file=near(cluster.get("certificate-authority", "")),
        ca_pem=_decoded(cluster, "certificate-authority-data", path),
        token=str(user.get("token", "")),
        token_file=near(user.get("tokenFile", "")),
        cert_file=near(user.get("client-certificate", "")),
        key_file=near(user.get("client-key", "")),
        cert_pem=_decoded(user, "client-certificate-data", path),
        key_pem=_decoded(user, "client-key-data", path),
    )


def _named(document: dict[str, Any], section: str, name: str, key: str, path: str | Path) -> dict[str, Any]:
    for entry in document.get(section) or ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(key), dict):
            found: dict[str, Any] = entry[key]
            return found
    raise InvalidInput(f"the kubeconfig has no {key} named {name!r}", where=str(path))


def _decoded(section: dict[str, Any], name: str, path: str | Path) -> str:
    try:
        return base64.b64decode(section.get(name, ""), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, TypeError) as error:
        raise InvalidInput(f"{name} is not base64 of a PEM text", where=str(path)) from error


def tls(access: Access) -> ssl.SSLContext:
    """What connections are made with. Raises InvalidInput for files or texts that are no certificates."""
    try:
        context = ssl.create_default_context(cafile=access.ca_file or None, cadata=access.ca_pem or None)
        if access.cert_file:
            context.load_cert_chain(access.cert_file, access.key_file or None)
        elif access.cert_pem:
            # The standard library takes a certificate of one's own from files only.
            with tempfile.TemporaryDirectory() as folder:
                pair = Path(folder, "pair.pem")
                pair.touch(mode=0o600)
                pair.write_text(f"{access.cert_pem}\n{access.key_pem}\n", encoding="ascii")
                context.load_cert_chain(pair)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"the certificates for {access.server} cannot be used: {error}") from error
    return context


class Token:
    """The current bearer token; reads the file it lies in now and then. `clock` is monotonic, in seconds."""

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = access.token_file
        self._token = access.token
        self._clock = clock
        self._read_at: float | None = None

    def header(self) -> str:
        """Value of the Authorization header, "" = none."""
        if self._file and (self._read_at is None or self._clock() - self._read_at >= TOKEN_READ_EVERY_S):
            self.reload()
        return f"Bearer {self._token}" if self._token else ""

    def reload(self) -> bool:
        """Read again; True = it is another one now. A file that is away for a moment leaves the old one in use."""
        if not self._file:
            return False
        self._read_at = self._clock()
        try:
            fresh = Path(self._file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return False
        changed, self._token = fresh != self._token, fresh or self._token
        return changed
