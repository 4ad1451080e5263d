"""The tools that come without a server: each does the one thing it is needed for."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

pytestmark = pytest.mark.components

CHART = {
    "Chart.yaml": "apiVersion: v2\nname: tried\nversion: 0.1.0\n",
    "templates/map.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n",
}


async def told(name: str, *words: str | Path) -> str:
    try:
        program = await asyncio.to_thread(obtain, name)
    except MissingPart as missing:
        pytest.skip(str(missing))
    done = await asyncio.to_thread(subprocess.run, [program, *words], capture_output=True, text=True, check=True)
    return str(done.stdout)


async def test_helm_renders_a_chart(tmp_path: Path) -> None:
    for name, text in CHART.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert "name: my-release" in await told("helm", "template", "my-release", tmp_path)


async def test_kubeconform_refuses_what_its_schema_does_not_allow(tmp_path: Path) -> None:
    schema = tmp_path / "widget.json"
    schema.write_text('{"type": "object", "required": ["spec"]}')
    for name, text in (("good", "spec: {}\n"), ("bad", "other: {}\n")):
        (tmp_path / f"{name}.yaml").write_text(f"apiVersion: v1\nkind: Widget\n{text}")
    said = await told("kubeconform", "-summary", "-schema-location", schema, tmp_path / "good.yaml")
    assert "Valid: 1, Invalid: 0" in said
    with pytest.raises(subprocess.CalledProcessError):
        await told("kubeconform", "-schema-location", schema, tmp_path / "bad.yaml")


async def test_rclone_lists_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    assert await told("rclone", "lsf", tmp_path) == "file.txt\n"
