"""The four service programs as processes of their own, with settings that can work and need no server to be checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("watcher", "dispatcher", "scaler", "gateway")

#: Token, certificates and names are complete, and nobody listens on the port.
KUBECONFIG = """
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: me, user: {token: word}}]
"""
POOLS = """
pools:
  - {name: main, driver: kwok, min: 1, max: 2, resources: {cpu: 2, memory: 4Gi}}
"""


def usable(folder: Path) -> dict[str, str]:
    """Variables with which each of the four can work as far as can be told without asking anybody."""
    (folder / "kubeconfig").write_text(KUBECONFIG)
    (folder / "pools.yaml").write_text(POOLS)
    for name, text in (
        ("admin/password", "long enough a word"),
        ("store/access_key", "key"),
        ("store/secret_key", "s"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return {
        "PENSTOCK_S3_ENDPOINT": "http://127.0.0.1:9",
        "PENSTOCK_S3_CREDENTIALS_DIR": str(folder / "store"),
        "PENSTOCK_KAFKA_SERVERS": "127.0.0.1:9",
        "PENSTOCK_KUBERNETES_KUBECONFIG": str(folder / "kubeconfig"),
        "PENSTOCK_STATE_DATA": str(folder / "state"),
        "PENSTOCK_SERVICE_LISTEN": "127.0.0.1:0",
        "PENSTOCK_NOTIFY_LISTEN": "127.0.0.1:0",
        "PENSTOCK_HTTP_LISTEN": "127.0.0.1:0",
        "PENSTOCK_GATEWAY_CREDENTIALS_DIR": str(folder / "admin"),
        "PENSTOCK_SCALER_POOLS": str(folder / "pools.yaml"),
        # The scaler says that it starts once it has the log.
        "PENSTOCK_SCALER_BACKLOG": "false",
    }


def environment(variables: dict[str, str]) -> dict[str, str]:
    """These variables and nothing of the tests' own settings."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}, **variables}


def run(module: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, env=environment(variables), capture_output=True, text=True, check=False, timeout=120)
