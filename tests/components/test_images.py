"""Images: the shell of the busybox image, the Python of the base, and the project's own image from its Dockerfile."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.components.helpers import pod
from tests.testbed import images as recipes
from tests.testbed.node_images import Images
from tests.testbed.oci import Entry, layer, write_image
from tests.testbed.paths import REPOSITORY

PODS = "/api/v1/namespaces/default/pods"


@pytest.mark.components
async def test_the_user_image_has_a_posix_shell_and_little_else(images: Images) -> None:
    node = images.bed.node
    async with node.bed.kubernetes.api() as api:
        script = "for name in bash python3; do command -v $name && exit 1; done; id -u; cat /etc/passwd | wc -l"
        ended = await node.run_pod(api, pod("bare", images.busybox, script))
        said = await api.logs("default", "bare", "c0")
        await api.delete(f"{PODS}/bare", grace=0)
    assert ended["status"]["phase"] == "Succeeded"
    assert said == "0\n2\n"


@pytest.mark.components
async def test_the_projects_image_is_built_and_runs_the_project(images: Images) -> None:
    node = images.bed.node
    await images.project()
    document = pod("project", recipes.PROJECT, "")
    command = ["python3", "-c", "import penstock, dispatcher, aiokafka, minio; print('fine')"]
    document["spec"]["containers"][0]["command"] = command
    async with node.bed.kubernetes.api() as api:
        await node.run_pod(api, document)
        said = await api.logs("default", "project", "c0")
        await api.delete(f"{PODS}/project", grace=0)
    assert said == "fine\n"


def test_old_versions_of_the_projects_image_are_forgotten(tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / f"project-image-{number}"
        folder.mkdir()
        os.utime(folder, (number, number))
    (tmp_path / "base-image-1").mkdir()
    recipes.forget_old_versions(tmp_path)
    left = sorted(folder.name for folder in tmp_path.iterdir())
    assert left == ["base-image-1", "project-image-2", "project-image-3", "project-image-4"]


def test_the_same_content_makes_the_same_image(tmp_path: Path) -> None:
    content = layer([Entry("bin", folder=True), Entry("bin/a", b"x"), Entry("bin/b", link="a")])
    for name in ("one.tar", "two.tar"):
        write_image(tmp_path / name, "penstock.test/x:1", content, {"Cmd": ["/bin/a"]})
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        (manifest,) = index["manifests"]
        assert manifest["annotations"] == {"io.containerd.image.name": "penstock.test/x:1"}
        digest = manifest["digest"].removeprefix("sha256:")
        assert archive.getmember(f"blobs/sha256/{digest}").size == manifest["size"]


def test_the_projects_version_follows_its_source() -> None:
    first = recipes.project_version()
    assert first == recipes.project_version()
    assert not any("tests" in name.relative_to(REPOSITORY).parts for name in recipes.project_files())
