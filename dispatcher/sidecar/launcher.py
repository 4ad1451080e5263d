"""The launcher's text, for whoever mounts it into a pod or starts it as a process."""

from __future__ import annotations

from pathlib import Path

PATH = Path(__file__).with_name("launcher.sh")


def launcher_text() -> str:
    """The script that `KubernetesSettings.launcher` is given. Raises OSError."""
    return PATH.read_text(encoding="utf-8")
