"""The image of the digits example, made as examples/digits/README.md says, of parts that lie on this machine.

The bed has no registry to pull a Python image from and a build has no network, so the layer of the bed's Debian gets
the example's files, its trained model, and the two libraries that reading a digit takes.
"""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.helm.rendering import ROOT
from tests.testbed.lookup import obtain
from tests.testbed.oci import write_image

NAME = "penstock.test/digits:1"
#: Where Debian's Python looks.
PACKAGES = "usr/lib/python3/dist-packages"
EXAMPLE = ROOT / "examples" / "digits"


def make(folder: Path, *, pictures: int) -> tuple[Path, Path]:
    """Write the image; returns its file and a folder with pictures that the model never saw."""
    model, shown = folder / "digits.npz", folder / "pictures"
    program = [sys.executable, str(EXAMPLE / "train.py")]
    argv = [*program, "--model", str(model), "--pictures", str(shown), "--count", str(pictures)]
    subprocess.run(argv, check=True, capture_output=True, timeout=300)
    content = io.BytesIO(_base())
    with tarfile.open(fileobj=content, mode="a") as archive:
        for name in ("classify.py", "chart.py"):
            archive.add(EXAMPLE / name, f"opt/digits/{name}")
        archive.add(model, "opt/digits/digits.npz")
        for package in ("numpy", "PIL"):
            for place in _places(package):
                archive.add(place, f"{PACKAGES}/{place.name}", filter=_no_tests)
    target = folder / "digits.tar"
    config = {"Cmd": ["/usr/bin/python3"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
    write_image(target, NAME, content.getvalue(), config)
    return target, shown


def _base() -> bytes:
    """The one layer of the bed's Debian with Python."""
    with tarfile.open(obtain("base-image")) as archive:
        (described,) = json.load(archive.extractfile("index.json") or io.BytesIO())["manifests"]
        manifest = json.load(archive.extractfile(_blob(described["digest"])) or io.BytesIO())
        (layer,) = manifest["layers"]
        return (archive.extractfile(_blob(layer["digest"])) or io.BytesIO()).read()


def _blob(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def _places(package: str) -> list[Path]:
    """A package's folder and the folder of shared libraries that its wheel brings along."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    home = Path(found.origin).parent
    beside = {"numpy": "numpy.libs", "PIL": "pillow.libs"}[package]
    return [home, *([home.parent / beside] if (home.parent / beside).is_dir() else [])]


def _no_tests(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    info.uid = info.gid = 0
    return None if "/tests" in info.name or "__pycache__" in info.name else info
