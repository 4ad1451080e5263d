"""Lay an example out as a folder that works without a container image.

In an image the files of an example lie in /opt/<example>, and its FDL file says so. On a laptop there
is no image: the functions run as processes of the machine, so the files must be in a real folder and
the FDL file must name that folder and a Python that has the example's packages. This copies the example
and writes the two values into the copied FDL file, which then is what you `penstock apply`.

    python examples/install.py digits --home ~/digits

It changes nothing but the lines `<EXAMPLE>_HOME:` and `<EXAMPLE>_PYTHON:`, so the copy reads as the
original does.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent


def main() -> None:
    """Copy the example that the command line names."""
    parser = argparse.ArgumentParser(description="Lay an example out as a folder of this machine.")
    parser.add_argument("example", choices=sorted(p.parent.name for p in EXAMPLES.glob("*/*.yaml")))
    parser.add_argument("--home", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--python",
        type=Path,
        # Not resolved: following the link of a virtual environment would leave it.
        default=Path(sys.executable),
        help="the Python that has the example's packages (default: this one)",
    )
    options = parser.parse_args()
    print(install(options.example, options.home, options.python))


def install(example: str, home: Path, python: Path) -> Path:
    """Copy the example to `home` and return the path of the FDL file to apply."""
    home = home.expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    source = EXAMPLES / example
    for file in sorted(source.iterdir()):
        if file.suffix in {".py", ".sh"}:
            shutil.copy(file, home / file.name)
    fdl = (source / f"{example}.yaml").read_text(encoding="utf-8")
    for variable, value in (("HOME", home), ("PYTHON", python.expanduser().absolute())):
        # A JSON string is a YAML string too, whatever blanks or quotes the path has. A function as the
        # replacement keeps `re` from reading backslashes in it.
        text = json.dumps(str(value), ensure_ascii=False)
        name = f"{example.upper()}_{variable}"
        line = re.compile(rf"^( *{name}:) .*$", re.MULTILINE)
        fdl = line.sub(lambda found, text=text: f"{found[1]} {text}", fdl)  # type: ignore[misc]
    applied = home / f"{example}.yaml"
    applied.write_text(fdl, encoding="utf-8")
    return applied


if __name__ == "__main__":
    main()
