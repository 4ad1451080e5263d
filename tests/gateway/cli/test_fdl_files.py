"""FDL files and their scripts on this machine, and `penstock validate` over them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import fdl_files
from gateway.cli.app import run
from penstock.errors import InvalidInput, NotFound

FDL = """\
functions:
  oscar:
  - local:
      name: {name}
      image: x
      script: scripts/{script}
      input:
      - storage_provider: local
        path: {source}
      output:
      - storage_provider: local
        path: {target}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "s.sh").write_text("echo hi\n")
    write(tmp_path)
    return tmp_path


def write(folder: Path, file: str = "f.yaml", **changes: str) -> Path:
    values = {"name": "first", "script": "s.sh", "source": "pictures/in", "target": "words/out"} | changes
    path = folder / file
    path.write_text(FDL.format(**values))
    return path


def test_scripts_are_read_from_the_folder_of_the_file(folder: Path) -> None:
    file = fdl_files.read(folder / "f.yaml")
    assert file.scripts == {"scripts/s.sh": "echo hi\n"}
    assert file.names == ["first"]


def test_a_missing_script_is_named_with_the_line(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"f\.yaml: .*script"):
        fdl_files.read(write(folder, script="other.sh"))


def test_a_script_that_is_none_is_refused(folder: Path) -> None:
    with (folder / "scripts" / "model.bin").open("wb") as model:
        model.truncate(fdl_files.SCRIPT_LIMIT + 1)
    with pytest.raises(InvalidInput, match="is it a script"):
        fdl_files.read(write(folder, script="model.bin"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"functions: [", "f.yaml"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"", "empty"),
        (b"kind: Job\napiVersion: v1\n", "kubectl"),
    ],
)
def test_what_is_no_fdl_is_told_with_the_file(folder: Path, text: bytes, told: str) -> None:
    (folder / "f.yaml").write_bytes(text)
    with pytest.raises(InvalidInput, match=told) as caught:
        fdl_files.read(folder / "f.yaml")
    assert "f.yaml" in caught.value.message


def test_a_missing_file_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFound, match=r"no\.yaml"):
        fdl_files.read(folder / "no.yaml")


def test_two_files_that_define_the_same_function_are_refused(folder: Path) -> None:
    write(folder, "g.yaml", source="other")
    with pytest.raises(InvalidInput, match=r"f\.yaml and .*g\.yaml both define a function 'first'"):
        fdl_files.read_all([folder / "f.yaml", folder / "g.yaml"])


def test_a_ring_over_several_files_is_a_warning(folder: Path) -> None:
    other = write(folder, "g.yaml", name="second", source="words/out", target="pictures/in")
    warnings = fdl_files.warnings(fdl_files.read_all([folder / "f.yaml", other]))
    assert any("first -> second -> first" in text for text in warnings)


def test_validate_needs_no_server(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(folder / "f.yaml"), "--output", "json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"functions": ["first"], "warnings": []}


def test_validate_tells_output_into_own_input_and_exits_7(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder, target="pictures/in/done")
    assert run(["validate", str(folder / "f.yaml")]) == 7
    told = capfd.readouterr()
    assert told.out == ""
    assert "f.yaml" in told.err
    assert "own input" in told.err
    assert len(told.err.strip().splitlines()) == 1
