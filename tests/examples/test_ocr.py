"""The OCR example reads what was drawn: real model, real pictures, real scripts, and no network."""

import json
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from PIL import Image

from tests.examples.running import EXAMPLES, Example, Ran, python, refused_in_one_sentence

pytestmark = pytest.mark.slow

NOTES = 6
# Python imports a module of this name at its start; any use of the network then ends the process.
WITHOUT_NETWORK = """
import os, sys

def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        os._exit(99)

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    installed = Example.install("ocr", tmp_path_factory.mktemp("ocr") / "home")
    truths = installed.home / "truths.json"
    python(installed.home / "samples.py", "--pictures", installed.home / "samples", "--truths", truths)
    return installed


@pytest.fixture(scope="module")
def truths(example: Example) -> dict[str, str]:
    found: dict[str, str] = json.loads((example.home / "truths.json").read_text())
    assert len(found) == NOTES
    return found


def chain(example: Example, picture: Path, folder: Path) -> Ran:
    """Both functions, the second on what the first left."""
    ((name, content),) = example.done("ocr-clean", picture, key=f"in/{picture.name}").outputs.items()
    clean = folder / name
    clean.write_bytes(content)
    return example.done("ocr-read", clean, key=f"clean/{name}")


def test_the_fdl_file_chains_the_two_functions(example: Example) -> None:
    clean, read = example.services["ocr-clean"], example.services["ocr-read"]
    assert clean["output"] == read["input"]
    assert (EXAMPLES / "ocr" / clean["script"]).read_text().startswith("#!/bin/sh\n")
    assert (EXAMPLES / "ocr" / read["script"]).read_text().startswith("#!/bin/sh\n")


def test_samples_are_the_same_every_time(example: Example, truths: dict[str, str], tmp_path: Path) -> None:
    python(example.home / "samples.py", "--pictures", tmp_path)
    for name in truths:
        assert (tmp_path / name).read_bytes() == (example.home / "samples" / name).read_bytes()


@pytest.mark.parametrize("number", range(NOTES))
def test_what_was_drawn_is_read(example: Example, truths: dict[str, str], tmp_path: Path, number: int) -> None:
    name, truth = list(truths.items())[number]
    ran = chain(example, example.home / "samples" / name, tmp_path)
    stem = Path(name).stem
    assert set(ran.outputs) == {f"{stem}.txt", f"{stem}.json"}
    text = ran.outputs[f"{stem}.txt"].decode().strip()
    assert SequenceMatcher(None, text, truth).ratio() >= 0.8, f"read {text!r}, drawn was {truth!r}"


def test_boxes_and_confidences_come_with_the_text(example: Example, truths: dict[str, str], tmp_path: Path) -> None:
    name = next(iter(truths))
    picture = tmp_path / "straight.png"
    picture.write_bytes((example.home / "samples" / name).read_bytes())
    ran = chain(example, picture, tmp_path)
    answer = json.loads(ran.outputs["straight.json"])
    assert set(answer) == {"file", "key", "text", "lines"}
    assert (answer["file"], answer["key"]) == ("straight.png", "clean/straight.png")
    assert answer["text"] == ran.outputs["straight.txt"].decode().removesuffix("\n")
    with Image.open(tmp_path / "straight.png") as image:
        width, height = image.size
    for line in answer["lines"]:
        assert 0.5 <= line["confidence"] <= 1
        assert len(line["box"]) == 4
        assert all(0 <= x <= width and 0 <= y <= height for x, y in line["box"])


def test_reading_needs_no_network(example: Example, truths: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_NETWORK)
    ran = example.run("ocr-read", example.home / "samples" / next(iter(truths)), modules=tmp_path)
    assert (ran.code, ran.stderr) == (0, "")

    # The guard does guard.
    reach_out = [sys.executable, "-c", "import socket; socket.create_connection(('localhost', 9))"]
    guarded = subprocess.run(reach_out, env={"PYTHONPATH": str(tmp_path)}, check=False, timeout=60)
    assert guarded.returncode == 99


@pytest.mark.parametrize("name", ["my page.png", "straße-文.png", "a'b\"c $(d) *.png"])
def test_any_file_name_will_do(example: Example, truths: dict[str, str], tmp_path: Path, name: str) -> None:
    picture = tmp_path / name
    picture.write_bytes((example.home / "samples" / next(iter(truths))).read_bytes())
    assert set(chain(example, picture, tmp_path).outputs) == {f"{picture.stem}.txt", f"{picture.stem}.json"}


def test_an_empty_page_has_no_text(example: Example, tmp_path: Path) -> None:
    page = tmp_path / "empty.png"
    Image.new("L", (400, 300), 240).save(page)
    ran = chain(example, page, tmp_path)
    assert ran.outputs["empty.txt"] == b"\n"
    assert json.loads(ran.outputs["empty.json"])["lines"] == []


@pytest.mark.parametrize(("function", "who"), [("ocr-clean", "clean"), ("ocr-read", "read")])
@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_broken_picture_is_refused(example: Example, tmp_path: Path, function: str, who: str, content: bytes) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(content)
    refused_in_one_sentence(example.run(function, broken), f"{who}: cannot read broken.png as a picture: ")
