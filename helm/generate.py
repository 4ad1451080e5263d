"""Writes the chart's generated files: `python -m helm.generate`. With `--check` it only says which are out of date.

They are in the repository because Helm and Grafana read nothing else, and generated because their sources are
elsewhere: the settings in `penstock.settings`, the panels in `helm.boards`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from helm.boards import function, nodes, overview, pipeline
from helm.chart_schema import document
from helm.panels import build

CHART = Path(__file__).parent / "penstock"


def files() -> dict[Path, str]:
    """Each generated file and what it should hold."""
    made = {CHART / "values.schema.json": _json(document())}
    for board in (function, nodes, overview, pipeline):
        name = board.__name__.rpartition(".")[2]
        made[CHART / "files" / "dashboards" / f"{name}.json"] = _json(build(board.dashboard()))
    return made


def outdated() -> list[Path]:
    return [path for path, text in files().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    stale = outdated()
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path} is out of date: python -m helm.generate\n")
        return 1 if stale else 0
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
