"""Where each artifact is found, and what to do when it is nowhere: environment variable, cache, PATH, build.

The order lets a machine that has a program use it, and one that has none build it once. `status` answers the same
question without building, for `doctor`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.testbed import images
from tests.testbed.building import build_into_cache
from tests.testbed.catalog import ARTIFACTS, PARTS, Artifact, digits_image, envtest_folder, project_image
from tests.testbed.errors import BedError, MissingPart
from tests.testbed.paths import cache_folder
from tests.testbed.recipes import DebianPackage, install_debian

# Debian puts what only administrators run outside a normal user's PATH.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

# Images that are built on the base image, whose version is a digest of what they are made from.
BUILT = {"project-image": project_image, "digits-image": digits_image}


@dataclass(frozen=True)
class Found:
    """Where an artifact is, and by which of the ways."""

    path: Path
    source: str


def which(name: str) -> Path | None:
    """A program on PATH, or in the folders of system programs."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + os.pathsep + SBIN)
    return Path(found) if found else None


@cache
def may_make_namespaces() -> bool:
    """Whether this process may make the namespaces and links that a node lives in."""
    unshare = which("unshare")
    if os.geteuid() != 0 or unshare is None:
        return False
    trial = [str(unshare), "--net", "--mount", "--pid", "--fork", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def artifact_named(name: str) -> Artifact | None:
    """The artifact; None for the project's image while the repository has no Dockerfile."""
    if name not in BUILT:
        return ARTIFACTS[name]
    if name == "project-image" and images.dockerfile() is None:
        return None
    base = ARTIFACTS["base-image"]
    found = find(base)
    return BUILT[name](found.path if found is not None else cache_folder() / base.key / base.file)


def _given(artifact: Artifact) -> Found | None:
    """What the environment supplies."""
    given = os.environ.get(artifact.variable)
    if given:
        if not Path(given).exists():
            raise BedError(f"{artifact.variable} is {given}, which does not exist.")
        return Found(Path(given), artifact.variable)
    assets = envtest_folder() if artifact.envtest else None
    if assets is not None and (assets / artifact.name).exists():
        return Found(assets / artifact.name, "KUBEBUILDER_ASSETS")
    return None


def find(artifact: Artifact) -> Found | None:
    """Look without building."""
    if artifact.name == "root":
        return Found(Path("/"), "this process") if may_make_namespaces() else None
    given = _given(artifact)
    if given is not None:
        return given
    cached = cache_folder() / artifact.key / artifact.file
    if artifact.version and cached.exists():
        return Found(cached, "cache")
    on_path = next((place for name in artifact.names if (place := which(name)) is not None), None)
    if on_path is not None:
        return Found(on_path, "PATH")
    place = next((Path(place) for place in artifact.places if Path(place).exists()), None)
    return Found(place, "system") if place is not None else None


def how_to_get(artifact: Artifact) -> str:
    """One line that says what to do about a missing artifact."""
    if artifact.how:
        return artifact.how
    if isinstance(artifact.recipe, DebianPackage):
        return f"apt-get install {artifact.recipe.package} (as root), or set {artifact.variable}"
    lacking = [ARTIFACTS[need] for need in artifact.needs if find(ARTIFACTS[need]) is None]
    if lacking:
        return f"it is built once these are there: {'; '.join(f'{one.name} ({how_to_get(one)})' for one in lacking)}"
    return f"python -m tests.testbed build (about {artifact.seconds} s), or set {artifact.variable}"


def obtain(name: str) -> Path:
    """The artifact's path, after building it if it is nowhere."""
    artifact = artifact_named(name)
    if artifact is None:
        raise MissingPart("The repository has no Dockerfile yet, so there is no image of the project.")
    found = find(artifact)
    if found is not None:
        return found.path
    if artifact.recipe is None:
        raise MissingPart(f"{artifact.what} is missing: {how_to_get(artifact)}.")
    if isinstance(artifact.recipe, DebianPackage):
        install_debian([artifact.recipe.package])
    else:
        obtain_all(artifact.needs)
        build_into_cache(artifact.key, artifact.what, artifact.seconds, artifact.recipe)
        if name == "project-image":
            images.forget_old_versions(cache_folder())
    found = find(artifact)
    if found is None:
        raise BedError(f"{artifact.what} was made, but is still not found; set {artifact.variable}.")
    return found.path


def _missing(names: Iterable[str]) -> list[Artifact]:
    """What is not there of these, each after what its own build needs."""
    missing: dict[str, Artifact] = {}
    for name in names:
        artifact = artifact_named(name)
        if artifact is not None and find(artifact) is None:
            missing |= {one.name: one for one in _missing(artifact.needs)}
            missing[artifact.name] = artifact
    return list(missing.values())


def obtain_all(names: Iterable[str]) -> None:
    """Obtain several; Debian's packages in one go, since apt-get takes most of its time to start."""
    missing = _missing(names)
    install_debian(one.recipe.package for one in missing if isinstance(one.recipe, DebianPackage))
    for artifact in missing:
        obtain(artifact.name)


def require(part: str) -> None:
    """Everything that a part needs, built now if it must be; `MissingPart` says in one line what cannot be had."""
    try:
        obtain_all(PARTS[part].artifacts)
    except MissingPart as missing:
        raise MissingPart(f"{part}: {missing}") from missing
