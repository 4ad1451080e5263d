"""The site builds without a warning and without the network, and a reader without a network can search it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("zensical", reason="zensical is not installed (dev dependency): pip install zensical==0.0.73")

# Python imports a module of this name at its start; any look outside then ends the process.
WITHOUT_NETWORK = """
import os, sys

def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        os._exit(99)

sys.addaudithook(watch)
"""


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(WITHOUT_NETWORK)
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def copied(folder: Path) -> Path:
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(tmp_path_factory.mktemp("site"))
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_page_is_on_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix(".html")
        place = place.with_name("index.html") if place.name == "README.html" else place
        assert (site / place).is_file(), place


def test_every_page_is_in_the_navigation_and_nothing_else(site: Path) -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = re.findall(r"'([\w/-]+\.md)'", str(config["project"]["nav"]))
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(pages)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures come from the site itself."""
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=\"?(https?:[^\s\">]+)", text)
        assert not fetched, (file.name, fetched)
        assert "```" not in re.sub(r"<code>.*?</code>", "", text, flags=re.DOTALL), f"{file.name}: an unread block"
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\((?:\"|')?https?:", style.read_text(encoding="utf-8")), style.name


def test_search_knows_the_words_of_all_pages(site: Path) -> None:
    index = json.loads((site / "search.json").read_text(encoding="utf-8"))
    text = json.dumps(index)
    for word in ("dead letters", "Wake-on-LAN", "rolls back", "OSCAR_SERVICE_TOKEN"):
        assert word in text, word


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    page = folder / "docs" / "quick-start.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[lost](how-to/no-such-page.md)\n", encoding="utf-8")
    done = build(folder)
    assert done.returncode != 0
    assert "page does not exist" in done.stdout + done.stderr
