"""`make kind`, as far as it goes without Docker: the scripts are POSIX sh, and a dry run says what would be done.

The dry run prints the very words that would be run. What they do to a cluster is tried elsewhere: the image is built by
the test bed from the same Dockerfile, and the same chart is installed on a real node in `test_install`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helm.rendering import CHART, ROOT

UP = ROOT / "helm" / "kind" / "up.sh"
BUILD = ROOT / "helm" / "kind" / "build.sh"
SHELLS = [shell for shell in ("sh", "dash", "bash --posix", "busybox sh") if shutil.which(shell.split()[0])]


def run(*words: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"PATH": path} if path else {})}
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=env)


def commands(*words: str) -> list[str]:
    done = run(UP, "--dry-run", *words)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("+ ") for line in done.stdout.splitlines() if line.startswith("+ ")]


@pytest.mark.parametrize("script", [UP, BUILD], ids=lambda script: script.name)
@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_can_read_the_scripts(shell: str, script: Path) -> None:
    done = run(*shell.split(), "-n", script)
    assert done.returncode == 0, done.stderr
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck (apt install shellcheck)")
@pytest.mark.parametrize("script", [UP, BUILD], ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = run("shellcheck", "--severity=info", script)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("cluster", ["kind", "k3d"])
def test_a_cluster_is_made_the_image_built_and_loaded_the_chart_installed_and_tested(cluster: str, shell: str) -> None:
    done = run(*shell.split(), UP, "--dry-run", "--cluster", cluster)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("+ ") for line in done.stdout.splitlines()]
    order = [" ".join(line.split()[:3]) for line in lines]
    load = {"kind": "kind load docker-image", "k3d": "k3d image import"}[cluster]
    assert order[0].startswith(f"{cluster} c")
    for earlier, later in (
        ("docker build --build-arg", load),
        (load, "helm upgrade --install"),
        ("helm upgrade --install", "helm test penstock"),
    ):
        assert order.index(earlier) < order.index(later)
    (install,) = (line for line in lines if line.startswith("helm upgrade"))
    assert f"--kube-context {cluster}-penstock" in install
    assert str(CHART / "values-trial.yaml") in install
    (loaded,) = (line for line in lines if line.startswith(load))
    tag = install.split("image.tag=")[1].split()[0]
    assert f"penstock/penstock:{tag}" in loaded


def test_the_current_cluster_gets_an_image_that_it_can_pull() -> None:
    tagged = commands("--cluster", "current", "--image", "registry.example.org:5000/penstock:7", "--profile", "edge")
    assert [line.split()[0] for line in tagged] == ["helm", "helm"]
    assert "--set image.repository=registry.example.org:5000/penstock --set-string image.tag=7" in tagged[0]
    assert "values-edge.yaml" in tagged[0]
    digest = commands("--cluster", "current", "--image", f"a/b@sha256:{'0' * 64}")
    assert f"--set image.repository=a/b --set image.digest=sha256:{'0' * 64}" in digest[0]


def test_it_is_taken_down_again() -> None:
    assert commands("--cluster", "kind", "--down") == ["kind delete cluster --name penstock"]
    assert commands("--cluster", "current", "--down") == ["helm uninstall penstock --namespace penstock --wait"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--cluster", "minikube"), "--cluster is minikube; it may be kind, k3d or current"),
        (("--cluster", "current"), "give --image"),
        (("--cluster", "current", "--image", "penstock"), "it needs a tag or a digest"),
        (("--profile", "production"), "--profile is production; it may be trial or edge"),
        (("--cluster",), "--cluster needs a value"),
        (("--nonsense",), "there is no option --nonsense"),
    ],
)
def test_a_mistake_gets_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    done = run(UP, "--dry-run", *words)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_a_machine_without_the_tools_is_told_which_are_missing(tmp_path: Path) -> None:
    for tool in ("sh", "dirname", "cat", "sed", "grep"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    done = run(UP, "--cluster", "kind", path=str(tmp_path))
    assert done.returncode == 1
    assert "needs kubectl" in done.stderr


def test_several_processors_need_buildx_and_get_wheels_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORMS", "linux/amd64,linux/arm64")
    monkeypatch.setenv("ENGINE", "docker")
    done = run(BUILD, "--dry-run", "a/b:1")
    assert done.returncode == 0, done.stderr
    assert "manylinux_2_28_x86_64" in done.stdout
    assert "manylinux_2_28_aarch64" in done.stdout
    assert "docker buildx build --platform linux/amd64,linux/arm64" in done.stdout
    monkeypatch.setenv("ENGINE", "podman")
    assert "PLATFORMS needs docker with buildx" in run(BUILD, "--dry-run", "a/b:1").stderr
