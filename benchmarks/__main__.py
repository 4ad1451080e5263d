"""Runs every benchmark, or those named, and rewrites RESULTS.md: figures, targets, what they are held against.

    python -m benchmarks [--small] [NAME...]

What a benchmark that was not run said last stays. Notes by hand (why a target is missed, what would mend it) are kept
in `benchmarks/notes/NAME.md` and copied under its table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, verdict

HERE = Path(__file__).parent
NAMES = (
    "embedded",
    "crash",
    "dispatch",
    "latency",
    "batch",
    "sidecar",
    "chaos",
    "scaler",
    "api",
    "footprint",
)
INTRODUCTION = """# Results

Written by `python -m benchmarks`; each figure by the command in its section, on the machine named there. The limit or
peer beside a figure was measured in the same run: machines are shared and noisy, so trust ratios before milliseconds.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--small", action="store_true", help="quick runs, printed and not written down")
    parser.add_argument("--skip-million", action="store_true", help="leave out the figures with a million items")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    results = _kept()
    for name in options.names or NAMES:
        flags = ["--small"] * options.small + ["--skip-million"] * options.skip_million
        results[name] = _run(name, flags)
    if not options.small:
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (HERE / "RESULTS.md").write_text(_document(results), encoding="utf-8")


def _kept() -> dict[str, Any]:
    file = HERE / "results.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return kept


def _run(name: str, flags: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            if not line.startswith('{"benchmark"'):
                print(line, end="", flush=True)
            last = line
    if process.returncode != 0:
        sys.exit(f"the benchmark {name} ended with code {process.returncode}")
    result: dict[str, Any] = json.loads(last)
    result["date"] = datetime.now(UTC).strftime("%Y-%m-%d")
    return result


def _document(results: dict[str, Any]) -> str:
    return "\n".join([INTRODUCTION, *(_section(results[name]) for name in NAMES if name in results)])


def _section(result: dict[str, Any]) -> str:
    name = result["benchmark"]
    lines = [
        f"## {name}",
        "",
        f"`python -m benchmarks.{name}`, {result['date']}, {_machine(result['machine'])}",
        "",
        "| figure | value | target | beside |",
        "|---|---|---|---|",
    ]
    for key, value in result["figures"].items():
        figure = Figure(key, value, result["units"].get(key, ""), result["targets"].get(key, ""))
        told = verdict(figure)
        beside = result["beside"].get(key, "")
        lines.append(f"| `{key}` | {value:g} {figure.unit} | {told} | {beside} |".replace("  ", " "))
    lines += ["", *(f"- {note}" for note in result["notes"])]
    notes = HERE / "notes" / f"{name}.md"
    if notes.exists():
        lines += ["", notes.read_text(encoding="utf-8").rstrip()]
    return "\n".join(lines) + "\n"


def _machine(told: dict[str, Any]) -> str:
    return (
        f"{told['processors']} processors ({told['model']}), {told['memory_gib']} GiB, {told['system']}, "
        f"Python {told['python']}"
    )


if __name__ == "__main__":
    main()
