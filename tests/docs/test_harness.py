"""What the tests of the pages would find: each mistake that they are there for, made on purpose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs import cluster_lines, command_lines, documents
from tests.docs.laptop import Laptop, Mismatch, check_output
from tests.docs.pages import BadPage, Block, read_page, slug_of
from tests.testbed.errors import MissingPart


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text.replace("~~~", "```"), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("~~~\nhello world\n~~~\n", "say what this block is"),
        ("~~~ruby\nputs 1\n~~~\n", "blocks of 'ruby' are not known"),
        ("~~~sh fly\ntrue\n~~~\n", "'sh' has no kind 'fly'"),
        ("~~~sh run colour=red\ntrue\n~~~\n", "'colour=red' means nothing"),
        ("~~~sh\ntrue\n", "the block is never closed"),
    ],
)
def test_a_block_of_an_unknown_kind_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadPage, match=sentence):
        read_page(page(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("penstock ls digits\n", ("sh", "check")),
        ("MINIO_SYNC_BOOT=on   # why\n", ("sh", "env")),
        ("upload ──> bucket\n", ("text", "picture")),
        ("submit,runtime,cpu,memory\n", ("csv", "check")),
    ],
)
def test_a_bare_block_is_known_by_what_stands_in_it(tmp_path: Path, text: str, kind: tuple[str, str]) -> None:
    (block,) = read_page(page(tmp_path, f"~~~\n{text}~~~\n")).blocks
    assert (block.language, block.kind) == kind


@pytest.mark.parametrize(
    "block",
    [
        "~~~sh\npenstock aply file.yaml\n~~~",
        "~~~sh\npenstock apply --dri file.yaml\n~~~",
        "~~~\npenstock node off NODE... [--hard]\n~~~",
        "~~~sh\nexport X=1; pensock ls\n~~~",
        "~~~sh\nif true; then\n~~~",
        "~~~sh\nmake tests\n~~~",
        "~~~sh\npip install 'penstock[gpu]'\n~~~",
        "~~~sh\npython -m watcher --speed 3\n~~~",
        "~~~sh\nPENSTOCK_HTTP_LISTN=x penstock up\n~~~",
        "~~~yaml\nfunctions: {oscar: [{a: {name: UPPER, image: x, script: s.sh}}]}\n~~~",
        "~~~yaml\npools: [{name: cpu, max: 2}]\n~~~",
        "~~~yaml\nnonsense: 1\n~~~",
        '~~~toml\n[http]\nlisten_on = "x"\n~~~',
        "~~~json\n{1}\n~~~",
        "~~~csv\nsubmit,runtime,cpu,memory\n1,2,3\n~~~",
        "~~~python\nawait = 1\n~~~",
        "~~~dockerfile\nRUN true\n~~~",
    ],
)
def test_a_mistake_in_a_block_is_found(tmp_path: Path, block: str) -> None:
    (read,) = read_page(page(tmp_path, block + "\n")).blocks
    with pytest.raises((documents.BadDocument, command_lines.BadCommand)):
        documents.check(read)


@pytest.mark.components
@pytest.mark.parametrize(
    "line",
    [
        "helm install penstock helm/penstock --set no.such=value -f helm/penstock/values-trial.yaml",
        "helm install penstock helm/penstock --hurry",
        "helm instal penstock helm/penstock",
        "kubectl get pods --everything",
        "kubectl fetch pods",
    ],
)
def test_a_mistake_in_a_cluster_command_is_found(line: str) -> None:
    try:
        with pytest.raises(command_lines.BadCommand):
            cluster_lines.check(line.split())
    except MissingPart as error:
        pytest.skip(str(error))


def shown(text: str) -> Block:
    return Block(Path("page.md"), 1, "text", "output", text)


def test_what_is_shown_is_compared() -> None:
    check_output(shown("FUNCTION   QUEUED\n...\nwords ... 3\n"), "FUNCTION QUEUED\na\nb\nwords   1 2 3\n")
    check_output(shown("a\n...\n"), "a\n")
    with pytest.raises(Mismatch, match="the page shows"):
        check_output(shown("3 words\n"), "4 words\n")
    with pytest.raises(Mismatch):
        check_output(shown("one\n"), "one\ntwo\n")


def test_a_command_that_fails_or_works_against_the_page_is_found(tmp_path: Path) -> None:
    with Laptop(tmp_path / "a") as laptop, pytest.raises(Mismatch, match="ended with 3 and not 0"):
        laptop.play(read_page(page(tmp_path, "~~~sh run\nexit 3\n~~~\n")))
    with Laptop(tmp_path / "b") as laptop, pytest.raises(Mismatch, match="ended with 0 and not 7"):
        laptop.play(read_page(page(tmp_path, "~~~sh run exit=7\ntrue\n~~~\n")))


def test_files_are_written_and_addresses_are_put_in_and_taken_out(tmp_path: Path) -> None:
    text = (
        "~~~sh script file=bin/say.sh\n#!/bin/sh\necho at 127.0.0.1:8080\n~~~\n"
        "~~~sh run\nbin/say.sh; grep -c 8080 bin/say.sh || true\n~~~\n~~~text output\nat 127.0.0.1:8080\n...\n~~~\n"
    )
    with Laptop(tmp_path) as laptop:
        assert laptop.play(read_page(page(tmp_path, text))) == 1
        assert os.access(laptop.folder / "bin" / "say.sh", os.X_OK)


def test_headings_become_anchors_as_the_site_makes_them() -> None:
    assert slug_of("What `list` prints, and [why](x.md)") == "what-list-prints-and-why"
