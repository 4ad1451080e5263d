"""The notebook of the examples, its cells run in order in a process of their own, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from gateway.embedded import Embedded

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook" / "penstock.ipynb"

#: As a notebook runs them: one namespace, a loop that runs already, the last expression shown.
DRIVER = """
import ast, asyncio, json, sys
cells = json.load(open(sys.argv[1]))["cells"]
async def main():
    names = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            print("Out:", eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        print("--- end of cell")
asyncio.run(main())
"""


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


async def _run(platform: Embedded) -> str:
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": "/nonexistent",
        "PENSTOCK_SERVER": platform.address,
        "PENSTOCK_TOKEN": platform.services.credentials.token,
    }
    command = [sys.executable, "-W", "error", "-c", DRIVER, str(NOTEBOOK)]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_every_cell_runs_and_says_what_it_promises(platform: Embedded) -> None:
    out = await _run(platform)
    assert out.count("--- end of cell") == len([one for one in cells() if one["cell_type"] == "code"])
    assert "Out: created" in out
    for number in range(12):
        assert f"text-{number:02}.txt {number} \n" in out
    assert "(known)" not in out
    assert "succeeded ['counting " in out


def test_it_is_kept_without_outputs_and_in_the_format_of_notebooks() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    for cell in document["cells"]:
        assert cell["id"]
        assert cell["cell_type"] in {"code", "markdown"}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
