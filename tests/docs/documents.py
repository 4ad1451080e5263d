"""Checks blocks that are documents: each is read by the parser of the program that would read it."""

from __future__ import annotations

import ast
import configparser
import csv
import json
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from penstock.errors import PenstockError
from penstock.fdl import parse_document
from penstock.settings import Settings, load
from scaler.configuration import parse_fleet
from scaler.drivers.configuration import parse_configuration
from scaler.simulate.trace import read_trace
from tests.docs import command_lines
from tests.docs.pages import ROOT, Block

_VARIABLE = re.compile(r"\bPENSTOCK_[A-Z0-9]+_[A-Z0-9_]+\b")
#: Variables of sidecars, tests and programs started by us: not settings, each explained on the page that has it.
NOT_SETTINGS = re.compile(r"PENSTOCK_(TEST_\w+|TESTBED_\w+|POD_GRACE_S|S3_(STYLE|CA|PATIENCE_S))")


class BadDocument(Exception):
    """A document that its reader refuses; the sentence is the reader's."""


def check(block: Block) -> None:
    """Check one block by its language and kind. Raises BadDocument and BadCommand."""
    checks: Mapping[str, Callable[[Block], None]] = {
        "yaml": _yaml,
        "toml": _settings,
        "json": lambda block: json.loads(block.text),
        "ini": _ini,
        "csv": _csv,
        "python": _python,
        "sh": _shell,
        "dockerfile": _dockerfile,
        "text": _text,
    }
    try:
        checks[block.language](block)
    except (PenstockError, ValueError, SyntaxError, yaml.YAMLError) as error:
        raise BadDocument(f"{block.place}: {error}") from error


def _yaml(block: Block) -> None:
    document = yaml.safe_load(block.text)
    if not isinstance(document, dict):
        raise BadDocument(f"{block.place}: is no mapping")
    if "functions" in document:
        parsed = parse_document(block.text, read_script=lambda _: "true\n")
        if not parsed.functions:
            raise BadDocument(f"{block.place}: has no function")
    elif "pools" in document or "drivers" in document:
        _pools(document)
    elif document.get("apiVersion") == "penstock.dev/v1":
        _custom_resource(block, document)
    elif "apiVersion" in document:
        if not {"kind", "metadata"} <= document.keys():
            raise BadDocument(f"{block.place}: an object of Kubernetes needs kind and metadata")
    elif not {"scrape_configs"} & document.keys():
        _values(block, document)


def _pools(document: dict[str, Any]) -> None:
    """Pools of the scaler; drivers alone are read with a pool beside them, and pools alone without their drivers."""
    if "drivers" not in document:
        parse_fleet(document)
        return
    pools = document.get("pools") or [
        {
            "name": f"pool-{number}",
            "driver": name,
            "resources": {"cpu": 1, "memory": "1Gi"},
            "hosts": list(driver.get("hosts", ["one"])),
        }
        for number, (name, driver) in enumerate(document["drivers"].items())
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".dat") as authorization:
        authorization.write("id = im; type = InfrastructureManager; token = an-example\n")
        authorization.flush()
        for driver in document["drivers"].values():
            if "authorization_file" in driver:
                driver["authorization_file"] = authorization.name
        parse_configuration({**document, "pools": pools})


def _custom_resource(block: Block, document: dict[str, Any]) -> None:
    if document.get("kind") != "Function" or "spec" not in document:
        raise BadDocument(f"{block.place}: is no Function with a spec")


def _values(block: Block, document: dict[str, Any]) -> None:
    """Values of the chart: every name is in the chart's own file of values or its schema."""
    schema = json.loads((ROOT / "helm" / "penstock" / "values.schema.json").read_text(encoding="utf-8"))
    if unknown := document.keys() - schema["properties"].keys():
        raise BadDocument(f"{block.place}: neither functions, pools, Kubernetes nor values of the chart: {unknown}")


def _settings(block: Block) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "penstock.toml"
        file.write_text(block.text, encoding="utf-8")
        load(file)
    if not tomllib.loads(block.text):
        raise BadDocument(f"{block.place}: is empty")


def _ini(block: Block) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block.text)
    if not parser.sections():
        raise BadDocument(f"{block.place}: has no section")


def _csv(block: Block) -> None:
    rows = list(csv.reader(block.text.splitlines()))
    if len({len(row) for row in rows}) != 1:
        raise BadDocument(f"{block.place}: rows of different lengths")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs.csv"
        file.write_text(block.text, encoding="utf-8")
        read_trace(file)


def _python(block: Block) -> None:
    # Notebooks and the asyncio console take `await` at the top.
    compile(block.text, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def _shell(block: Block) -> None:
    for name in set(_VARIABLE.findall(block.text)):
        if not NOT_SETTINGS.fullmatch(name) and name not in known_variables():
            raise BadDocument(f"{block.place}: there is no setting {name}")
    if block.kind == "env":
        return
    if block.kind == "synopsis":
        for line in block.text.splitlines():
            command_lines.check_synopsis(line.split()[1:])
        return
    for words in command_lines.commands_of(block.text):
        if block.kind == "script":
            continue  # a program of the reader's: its syntax was checked
        try:
            command_lines.check(words)
        except command_lines.BadCommand as error:
            raise BadDocument(f"{block.place}: {error}") from error


def known_variables() -> set[str]:
    found = {"PENSTOCK_CONFIG"}
    for group, info in Settings.model_fields.items():
        fields = getattr(info.annotation, "model_fields", {})
        found |= {f"PENSTOCK_{group.upper()}_{name.upper()}" for name in fields}
    return found


_INSTRUCTIONS = {"FROM", "COPY", "RUN", "ENV", "ARG", "USER", "WORKDIR", "CMD", "ENTRYPOINT"}


def _dockerfile(block: Block) -> None:
    lines = re.sub(r"\\\n", " ", block.text).splitlines()
    firsts = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not firsts or firsts[0] not in {"FROM", "ARG"} or not set(firsts) <= _INSTRUCTIONS:
        raise BadDocument(f"{block.place}: is no Dockerfile: {firsts}")


def _text(block: Block) -> None:
    if not block.text.strip():
        raise BadDocument(f"{block.place}: is empty")
