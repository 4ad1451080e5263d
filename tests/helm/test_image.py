"""The image that users get, from the real Dockerfile: small, without root, precompiled, listed, the same each time."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image import sbom
from tests.components.helpers import pod
from tests.helm.rendering import ROOT
from tests.testbed import images as recipes
from tests.testbed.catalog import project_image
from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain
from tests.testbed.node_images import Images

#: What ours adds to its base, uncompressed. The base is not ours: the public one has some 125 MB, the test bed's 190.
OWN_LIMIT_MB = 90
HOME = "opt/penstock/"


@pytest.fixture(scope="session")
def saved() -> Path:
    try:
        return obtain("project-image")
    except MissingPart as missing:
        pytest.skip(str(missing))


def config_and_layers(saved: Path) -> tuple[dict[str, Any], list[bytes]]:
    with tarfile.open(saved) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (manifest,) = json.loads(read("manifest.json"))
        return json.loads(read(manifest["Config"])), [read(layer) for layer in manifest["Layers"]]


@pytest.fixture(scope="session")
def content(saved: Path) -> dict[str, bytes]:
    """Files of ours in the image by path."""
    with tarfile.open(fileobj=io.BytesIO(config_and_layers(saved)[1][-1])) as archive:
        return {
            one.name: (archive.extractfile(one) or io.BytesIO()).read()
            for one in archive.getmembers()
            if one.isfile() and one.name.startswith(HOME)
        }


@pytest.mark.components
def test_it_runs_as_nobody_and_says_what_it_is(saved: Path) -> None:
    config, _ = config_and_layers(saved)
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Entrypoint"] == ["penstock"]
    labels = config["config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    for name in ("title", "description", "version", "revision"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert not [one for one in config["config"]["Env"] if "TOKEN" in one or "PASSWORD" in one]


@pytest.mark.components
def test_what_ours_adds_is_small(saved: Path) -> None:
    size = len(config_and_layers(saved)[1][-1]) / 1e6
    assert size < OWN_LIMIT_MB


@pytest.mark.components
def test_nothing_has_to_be_compiled_at_start_and_nothing_can_be_installed(content: dict[str, bytes]) -> None:
    sources = [name for name in content if name.endswith(".py") and "/site-packages/" in name]
    assert len(sources) > 500
    for name in sources:
        folder, _, file = name.rpartition("/")
        compiled = content[f"{folder}/__pycache__/{file.removesuffix('.py')}.cpython-311.pyc"]
        # Flags 1: by the source's hash, and not to be compared with it.
        assert compiled[4:8] == b"\x01\0\0\0", name
    assert not [name for name in content if "/pip/" in name or "/setuptools/" in name]


@pytest.mark.components
def test_the_bill_of_materials_lists_what_is_there_with_the_hashes_of_the_lock_file(content: dict[str, bytes]) -> None:
    document = json.loads(content[HOME + "sbom.cdx.json"])
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["name"] == "penstock"
    there = {
        sbom.normalised(match[1])
        for name in content
        if (match := re.search(r"/site-packages/([\w.]+)-[^/]+\.dist-info/METADATA$", name))
    }
    listed = {one["name"]: one for one in document["components"]}
    assert set(listed) == there - {"penstock"}
    locked = (ROOT / "requirements" / "dev.txt").read_text()
    for name, one in listed.items():
        (digest,) = one["hashes"]
        assert one["purl"] == f"pkg:pypi/{name}@{one['version']}"
        if f"{name}=={one['version']} " in locked:
            assert digest["content"] in locked, name
        assert one.get("licenses"), name


def test_the_lock_file_of_the_image_agrees_with_that_of_the_tests() -> None:
    pins = [
        set(re.findall(r"^([\w.-]+==\S+)", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))
        for name in ("image", "dev")
    ]
    # `async-timeout` is for older Pythons: only the resolution for all of them and that for one differ there.
    assert {pin for pin in pins[0] - pins[1] if not pin.startswith("async-timeout")} == set()
    assert len(pins[0]) > 30


def wheel(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def installed(folder: Path, name: str, version: str, *lines: str) -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(
        "\n".join([f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}", *lines]) + "\n\n"
    )


def test_the_bill_of_materials_says_what_each_package_says(tmp_path: Path) -> None:
    site, wheels = tmp_path / "site", tmp_path / "wheels"
    site.mkdir()
    wheels.mkdir()
    installed(site, "penstock", "1.0", "License-Expression: Apache-2.0", "Requires-Dist: Some.Lib>=2; extra == 'x'")
    installed(site, "some_lib", "2.1", "Classifier: License :: OSI Approved :: MIT License", "Requires-Dist: absent")
    installed(site, "other", "3", "License: BSD\n        many\n        lines")
    digest = wheel(wheels, "some_lib-2.1-py3-none-any.whl", "content")
    made = sbom.document(site, wheels, 1_700_000_000)
    assert made == sbom.document(site, wheels, 1_700_000_000)
    assert made["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    by_name = {one["name"]: one for one in made["components"]}
    assert by_name["some-lib"]["licenses"] == [{"license": {"name": "MIT License"}}]
    assert by_name["some-lib"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert "hashes" not in by_name["other"]
    assert {"ref": "pkg:pypi/penstock@1.0", "dependsOn": ["pkg:pypi/some-lib@2.1"]} in made["dependencies"]
    assert {"ref": "pkg:pypi/some-lib@2.1", "dependsOn": []} in made["dependencies"]


@pytest.mark.components
async def test_every_program_starts_with_a_root_file_system_that_cannot_be_written(images: Images) -> None:
    node = images.bed.node
    name = await images.project()
    programs = "for one in watcher dispatcher scaler gateway; do python -m $one --help >/dev/null || exit 1; done"
    unwritable = "if touch /opt/penstock/x 2>/dev/null; then exit 1; fi"
    script = f"set -e; id -u; penstock --version >/dev/null; {programs}; {unwritable}; echo fine"
    document = pod("readonly", name, script)
    document["spec"]["securityContext"] = {"runAsNonRoot": True, "runAsUser": 65532}
    document["spec"]["containers"][0]["securityContext"] = {"readOnlyRootFilesystem": True}
    async with node.bed.kubernetes.api() as api:
        ended = await node.run_pod(api, document)
        said = await api.logs("default", "readonly", "c0")
        await api.delete("/api/v1/namespaces/default/pods/readonly", grace=0)
    assert (ended["status"]["phase"], said) == ("Succeeded", "65532\nfine\n")


def build(context: Path, base: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Build once more with a storage of its own; yields path and digest of each file of ours."""
    words = ["buildah", "--storage-driver", "vfs", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]

    def run(*more: str) -> str:
        done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("pull", f"oci-archive:{base}")
    run("tag", run("images", "--quiet").split()[0], recipes.BASE)
    given = ["--build-arg", f"BASE={recipes.BASE}", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"]
    run(
        "bud",
        "--isolation",
        "chroot",
        "--pull-never",
        "--timestamp",
        "1700000000",
        *given,
        "--tag",
        "x:1",
        str(context),
    )
    run("push", "x:1", f"docker-archive:{folder / 'image.tar'}:x:1")
    config, layers = config_and_layers(folder / "image.tar")
    yield "config", json.dumps(config, sort_keys=True)
    with tarfile.open(fileobj=io.BytesIO(layers[-1])) as archive:
        for one in archive.getmembers():
            data = (archive.extractfile(one) or io.BytesIO()).read() if one.isfile() else one.linkname.encode()
            yield one.name, f"{one.mode:o} {one.uid} {one.mtime} {hashlib.sha256(data).hexdigest()}"
    shutil.rmtree(folder / "storage")


@pytest.mark.components
@pytest.mark.slow
async def test_the_same_sources_give_the_same_image(saved: Path, tmp_path: Path) -> None:
    base = obtain("base-image")
    recipe = project_image(base).recipe
    assert isinstance(recipe, recipes.ProjectImage)
    context = tmp_path / "context"

    def work() -> tuple[dict[str, str], dict[str, str]]:
        from tests.testbed.building import Job  # noqa: PLC0415 - only the one who builds needs it

        recipe._collect(context)
        recipe._wheels(Job("wheels", tmp_path, tmp_path / "log"), context)
        found = []
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            found.append(dict(build(context, base, folder)))
        return found[0], found[1]

    first, second = await asyncio.to_thread(work)
    assert len(first) > 1000
    assert {name for name in first if first[name] != second.get(name)} == set()
    assert set(first) == set(second)
