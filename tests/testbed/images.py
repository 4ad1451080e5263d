"""The images that pods on the bed run: pause, a user's busybox, a Debian with Python, and the project's own.

The first two are written by hand (see `oci`). The Debian base comes from Debian's packages by mmdebstrap, and the
project's image is built on it by buildah from the very Dockerfile that users build, so what the tests run is what is
shipped. Nothing here needs a registry or a container engine.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.building import Job, Words, output_of, say
from tests.testbed.errors import BedError
from tests.testbed.oci import Entry, layer, write_image
from tests.testbed.paths import REPOSITORY
from tests.testbed.recipes import HERE, pip_of

PAUSE = "penstock.test/pause:1"
BUSYBOX = "penstock.test/busybox:1"
BASE = "penstock.test/python:1"
PROJECT = "penstock.test/penstock:1"
# As the example's FDL file names it; the container runtime adds the rest of the name to a short one.
DIGITS = "docker.io/penstock-examples/digits:latest"

IMAGE_FILE = "image.tar"
# What the Dockerfile can reach besides the repository: the project's wheel and all it depends on, built outside.
WHEELS = "wheels"
KEPT_VERSIONS = 3


@dataclass(frozen=True)
class PauseImage:
    """The image of the process that holds a pod's namespaces."""

    needs: tuple[str, ...] = ("cc",)

    def __call__(self, job: Job) -> None:
        program = job.folder / "pause"
        job.run(["cc", "-Os", "-static", "-s", "-o", program, HERE / "pause.c"])
        content = layer([Entry("pause", program.read_bytes())])
        write_image(job.folder / IMAGE_FILE, PAUSE, content, {"Entrypoint": ["/pause"]})


@dataclass(frozen=True)
class BusyboxImage:
    """A user's image of 2 MB with a POSIX shell and no bash, coreutils or Python."""

    needs: tuple[str, ...] = ("busybox",)

    def __call__(self, job: Job) -> None:
        busybox = shutil.which("busybox")
        if busybox is None:
            raise BedError("busybox was installed but is not on PATH.")
        applets = output_of([busybox, "--list"]).split()
        entries = [Entry(name, mode=mode, folder=True) for name, mode in (("bin", 0o755), ("tmp", 0o1777))]
        entries.append(Entry("bin/busybox", Path(busybox).read_bytes()))
        entries += [Entry(f"bin/{name}", link="busybox") for name in applets if name != "busybox"]
        users = b"root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n"
        entries += [Entry("etc", folder=True), Entry("etc/passwd", users, 0o644)]
        config = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}
        write_image(job.folder / IMAGE_FILE, BUSYBOX, layer(entries), config)


@dataclass(frozen=True)
class BaseImage:
    """Debian's smallest system with Python, standing in for the public Python image that the Dockerfile names."""

    needs: tuple[str, ...] = ("root", "mmdebstrap")

    def __call__(self, job: Job) -> None:
        system = job.folder / "system.tar"
        # Documentation and translations are a third of the size and nobody reads them in a test.
        lean = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
        job.run(["mmdebstrap", "--variant=minbase", packages, *lean, "bookworm", system])
        search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        config = {"Cmd": ["/usr/bin/python3"], "Env": [f"PATH={search}"]}
        write_image(job.folder / IMAGE_FILE, BASE, system.read_bytes(), config)
        system.unlink()


def dockerfile() -> Path | None:
    """The project's Dockerfile, once the repository has one."""
    found = REPOSITORY / "Dockerfile"
    return found if found.is_file() else None


def project_files() -> list[Path]:
    """What git would put into a clone, new files included; a copy without git is taken as it lies."""
    argv = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(argv, capture_output=True, text=True, check=False) if shutil.which("git") else None
    if told is not None and told.returncode == 0:
        names = [REPOSITORY / name for name in told.stdout.split("\0") if name]
    else:
        names = list(REPOSITORY.rglob("*"))
    # Neither tests nor texts go into the image: leaving them out spares a rebuild whenever one of them changes.
    apart = {REPOSITORY / name for name in ("tests", "docs", "benchmarks", ".git", ".venv", ".ci", "helm")}
    return sorted(name for name in names if name.is_file() and not apart & set(name.parents))


def project_version() -> str:
    """A digest of everything that the project's image is made from: a change of the source makes a new image."""
    digest = hashlib.sha256()
    for name in project_files():
        digest.update(f"{name.relative_to(REPOSITORY)}\0{name.stat().st_size}\0".encode())
        digest.update(name.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class ProjectImage:
    """The project's image from its real Dockerfile, on the local base (`--build-arg BASE`).

    Inside the build there is no network: the wheels of the project and of all it depends on lie in the context's folder
    `wheels`, for the base's Python, and the Dockerfile installs from there (`pip install --no-index --find-links`).
    """

    base: Path
    needs: tuple[str, ...] = ("root", "buildah")

    def __call__(self, job: Job) -> None:
        context = job.folder / "context"
        self._collect(context)
        self._wheels(job, context)
        build_image(job, self.base, PROJECT, [context])
        shutil.rmtree(context)

    @staticmethod
    def _collect(context: Path) -> None:
        for name in project_files():
            target = context / name.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, target)

    @staticmethod
    def _wheels(job: Job, context: Path) -> None:
        wheels = context / WHEELS
        pip = pip_of(job)
        job.run([*pip, "wheel", "--no-deps", "-w", wheels, context])
        (project,) = wheels.glob("*.whl")
        wanted = f"penstock[kafka,kubernetes,oidc,s3] @ {project.as_uri()}"
        target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
        job.run([*pip, "download", *target, "-d", wheels, wanted])


DIGITS_FILES = REPOSITORY / "examples" / "digits"


def digits_version() -> str:
    """A digest of what the example's image is made from."""
    digest = hashlib.sha256()
    for name in sorted(name for name in DIGITS_FILES.iterdir() if name.suffix in {"", ".py", ".in"} and name.is_file()):
        digest.update(f"{name.name}\0".encode() + name.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class DigitsImage:
    """The image of the digits example from its own Dockerfile, with the model trained during the build.

    The wheels are fetched outside and mounted, and pip is told so by the two variables that it reads.
    """

    base: Path
    needs: tuple[str, ...] = ("root", "buildah")

    def __call__(self, job: Job) -> None:
        wheels = job.folder / WHEELS
        target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
        job.run([*pip_of(job), "download", *target, "-d", wheels, "-r", DIGITS_FILES / "requirements.in"])
        offline = ["--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels"]
        build_image(job, self.base, DIGITS, ["--volume", f"{wheels}:/wheels:ro", *offline, DIGITS_FILES])
        shutil.rmtree(wheels)


def build_image(job: Job, base: Path, name: str, words: Words) -> None:
    """Build a Dockerfile on the local base with buildah, without a network; leaves the archive in the job's folder."""
    # vfs and chroot isolation need neither overlayfs nor a network namespace of their own.
    storage: Words = ["--storage-driver", "vfs", "--root", job.folder / "storage", "--runroot", job.folder / "run"]
    buildah: Words = ["buildah", *storage]
    job.run([*buildah, "pull", f"oci-archive:{base}"])
    named = output_of([*buildah, "images", "--quiet"]).split()[0]
    job.run([*buildah, "tag", named, BASE])
    build = ["bud", "--isolation", "chroot", "--pull-never", "--build-arg", f"BASE={BASE}", "--tag", name]
    job.run([*buildah, *build, *words])
    job.run([*buildah, "push", name, f"docker-archive:{job.folder / IMAGE_FILE}:{name}"])
    for leftover in ("storage", "run"):
        shutil.rmtree(job.folder / leftover)


def forget_old_versions(cache: Path) -> None:
    """Each change of the source leaves an image of some 300 MB behind; only the newest few are worth keeping."""
    versions = sorted(cache.glob("project-image-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in versions[KEPT_VERSIONS:]:
        shutil.rmtree(folder, ignore_errors=True)


def without_dockerfile() -> None:
    """Say in one line why there is no image of the project."""
    say("the repository has no Dockerfile yet, so there is no image of the project to build")
