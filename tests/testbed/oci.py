"""Container images written by hand: an OCI layout in one tar, which containerd imports without a registry.

An image of one layer is four small documents around a tar, so no image tool is needed for the two images that every
pod on the bed uses. Everything is fixed (times, owners, order), so the same input gives the same digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Entry:
    """One thing in a layer: a file with its content, or a symbolic link."""

    path: str
    content: bytes = b""
    mode: int = 0o755
    link: str | None = None
    folder: bool = False


def architecture() -> str:
    """This machine's architecture by the name that images use."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    if entry.folder:
        info.type = tarfile.DIRTYPE
    elif entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    else:
        info.size = len(entry.content)
    archive.addfile(info, io.BytesIO(entry.content))


def layer(entries: Sequence[Entry]) -> bytes:
    """An uncompressed layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            _add(archive, entry)
    return buffer.getvalue()


def _described(kind: str, content: bytes) -> dict[str, Any]:
    return {
        "mediaType": f"{OCI}.{kind}",
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "size": len(content),
    }


def _document(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write_image(target: Path, name: str, content: bytes, config: dict[str, Any]) -> None:
    """Write an image of one layer as an OCI layout in a tar; `config` is the runtime part (Cmd, Env, User)."""
    layer_entry = _described("layer.v1.tar", content)
    image = {
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer_entry["digest"]]},
    }
    image_document = _document(image)
    image_entry = _described("config.v1+json", image_document)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": image_entry,
        "layers": [layer_entry],
    }
    manifest_document = _document(manifest)
    manifest_entry = _described("manifest.v1+json", manifest_document)
    # containerd takes the image's full name from this annotation.
    manifest_entry["annotations"] = {"io.containerd.image.name": name}
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [manifest_entry]}
    blobs = [(layer_entry, content), (image_entry, image_document), (manifest_entry, manifest_document)]
    with tarfile.open(target, "w") as archive:
        _add(archive, Entry("oci-layout", _document({"imageLayoutVersion": "1.0.0"}), 0o644))
        _add(archive, Entry("index.json", _document(index), 0o644))
        for entry, blob in blobs:
            _add(archive, Entry("blobs/sha256/" + entry["digest"].removeprefix("sha256:"), blob, 0o644))
