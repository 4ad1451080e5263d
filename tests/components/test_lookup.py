"""Where programs come from: the order of looking, one build at a time, and one clear line when something is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.testbed import building, lookup, recipes, versions
from tests.testbed.building import Job, build_into_cache
from tests.testbed.catalog import ARTIFACTS, PARTS, Artifact
from tests.testbed.errors import BedError, MissingPart


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing on PATH."""
    lookup.may_make_namespaces.cache_clear()
    folder = tmp_path / "cache"
    monkeypatch.setenv("PENSTOCK_TESTBED_CACHE", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(lookup, "SBIN", str(tmp_path / "sbin"))
    for name in ("KUBEBUILDER_ASSETS", *(artifact.variable for artifact in ARTIFACTS.values())):
        monkeypatch.delenv(name, raising=False)
    yield folder
    # What this process may do was asked without PATH.
    lookup.may_make_namespaces.cache_clear()


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def found(name: str) -> tuple[Path, str] | None:
    place = lookup.find(ARTIFACTS[name])
    return None if place is None else (place.path, place.source)


def test_the_order_is_variable_cache_path(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("minio") is None
    on_path = program(tmp_path / "bin" / "minio")
    assert found("minio") == (on_path, "PATH")
    cached = program(cache / ARTIFACTS["minio"].key / "minio")
    assert found("minio") == (cached, "cache")
    given = program(tmp_path / "given")
    monkeypatch.setenv("PENSTOCK_TEST_MINIO", str(given))
    assert found("minio") == (given, "PENSTOCK_TEST_MINIO")
    monkeypatch.setenv("PENSTOCK_TEST_MINIO", str(tmp_path / "nowhere"))
    with pytest.raises(BedError, match=r"PENSTOCK_TEST_MINIO is .*nowhere, which does not exist"):
        found("minio")


def test_envtests_folder_supplies_a_control_plane(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = program(tmp_path / "assets" / "kube-apiserver")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(server.parent))
    assert found("kube-apiserver") == (server, "KUBEBUILDER_ASSETS")
    assert found("etcd") is None


def test_without_go_a_part_says_so_in_one_line(cache: Path) -> None:
    with pytest.raises(MissingPart) as missing:
        lookup.require("minio")
    assert str(missing.value) == "minio: the Go toolchain is missing: install Go 1.26 or newer."


def test_without_root_a_debian_package_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    program(tmp_path / "bin" / "apt-get")
    with pytest.raises(MissingPart) as missing:
        lookup.require("kafka")
    assert str(missing.value) == (
        "kafka: Run as root: apt-get install --no-install-recommends default-jre-headless maven"
    )


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_missing_thing_says_how_to_get_it_in_one_line(cache: Path, name: str) -> None:
    line = lookup.how_to_get(ARTIFACTS[name])
    assert line
    assert "\n" not in line


def test_parts_name_artifacts_that_exist() -> None:
    for part in PARTS.values():
        assert set(part.artifacts) <= {*ARTIFACTS, *lookup.BUILT}
    for artifact in ARTIFACTS.values():
        assert set(artifact.needs) <= set(ARTIFACTS)


def test_what_is_missing_is_built_and_then_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(job: Job) -> None:
        program(job.folder / "minio")

    monkeypatch.setitem(ARTIFACTS, "minio", replace(ARTIFACTS["minio"], recipe=recipe, needs=()))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    path = lookup.obtain("minio")
    assert path == cache / ARTIFACTS["minio"].key / "minio"
    assert path.exists()


def test_two_runs_that_build_at_once_build_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun, go_on, builds = threading.Event(), threading.Event(), []

    def recipe(job: Job) -> None:
        builds.append(job.folder)
        begun.set()
        assert go_on.wait(10)
        (job.folder / "file").write_text("x")

    results: list[Path] = []
    runs = [
        threading.Thread(target=lambda: results.append(build_into_cache("thing-1", "a thing", 1, recipe)))
        for _ in range(2)
    ]
    runs[0].start()
    assert begun.wait(10)
    runs[1].start()
    deadline = time.monotonic() + 10
    while "waiting for it" not in (said := capsys.readouterr().err) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "another run is building thing-1" in said
    go_on.set()
    for run in runs:
        run.join()
    assert len(builds) == 1
    assert results == [cache / "thing-1"] * 2
    assert (cache / "thing-1" / "file").read_text() == "x"


def test_a_failed_build_leaves_nothing_and_shows_its_log(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    def recipe(job: Job) -> None:
        job.run(["sh", "-c", "echo the reason; exit 3"])

    with pytest.raises(BedError, match=r"(?s)sh ended with 3.*the reason"):
        build_into_cache("thing-1", "a thing", 1, recipe)
    assert not (cache / "thing-1").exists()
    assert not list(cache.glob(".draft-*"))


def test_a_module_with_another_checksum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"Dir": "/x", "GoMod": "/x/go.mod", "Sum": "h1:other="}'
    monkeypatch.setattr(recipes, "output_of", lambda _: answer)
    with pytest.raises(BedError, match=r"but h1:.* is pinned"):
        recipes.download_module(versions.MINIO)


def test_only_modules_inside_kubernetes_are_replaced() -> None:
    go_mod = """module k8s.io/kubernetes
require (
\tk8s.io/api v0.0.0
\tk8s.io/utils v0.0.0-20250604170112-4c0f3b243397
\tk8s.io/kubelet v0.0.0 // indirect
)
replace k8s.io/api => ./staging/src/k8s.io/api
"""
    assert recipes.staging_modules(go_mod) == ["k8s.io/api", "k8s.io/kubelet"]


def test_every_usual_time_belongs_to_something() -> None:
    known = {*ARTIFACTS, *lookup.BUILT, "kubernetes-module"}
    assert set(versions.SECONDS) <= known
    built = {one.name for one in ARTIFACTS.values() if one.version}
    assert built <= set(versions.SECONDS)


def test_progress_says_what_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    building.announce("a thing", 20)
    building.announce("a large thing", 290)
    assert capsys.readouterr().err.splitlines() == [
        "testbed: building a thing (about 20 s) ...",
        "testbed: building a large thing (about 5 min) ...",
    ]


def test_an_artifact_is_named_by_its_variable() -> None:
    assert Artifact("kube-proxy", "x").variable == "PENSTOCK_TEST_KUBE_PROXY"
