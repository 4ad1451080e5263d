"""FDL files and the scripts that they name, read from this machine's disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from penstock.errors import InvalidInput, NotFound
from penstock.fdl import Document, cycles, parse_document

#: No script comes near; a wrong path to a model or a disk image does.
SCRIPT_LIMIT = 4 * 1024 * 1024


class FdlFile(NamedTuple):
    """One file: its text as it stands, the scripts by their paths in it, and what it means."""

    path: Path
    text: str
    scripts: dict[str, str]
    document: Document

    @property
    def names(self) -> list[str]:
        return [draft.function.name for draft in self.document.functions]


def read(path: Path) -> FdlFile:
    """Read and check one FDL file. Raises InvalidInput with the file, field and line, NotFound when it is missing."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise InvalidInput("this is not UTF-8 text, which an FDL file is", where=str(path)) from error
    scripts: dict[str, str] = {}

    def script(named: str) -> str:
        # As in OSCAR's tools, a script's path counts from the folder of the FDL file.
        found = path.parent / named
        if found.is_file() and found.stat().st_size > SCRIPT_LIMIT:
            raise InvalidInput(f"{found} has more than {SCRIPT_LIMIT // 2**20} MiB: is it a script?")
        scripts[named] = found.read_text(encoding="utf-8")
        return scripts[named]

    try:
        document = parse_document(text, read_script=script, require_image=False)
    except InvalidInput as error:
        raise InvalidInput(error.message, where=str(path)) from error
    return FdlFile(path, text, scripts, document)


def read_all(paths: Iterable[Path]) -> list[FdlFile]:
    """Read and check several files. Raises as `read`, and InvalidInput when two of them define the same function."""
    files = [read(path) for path in paths]
    owner: dict[str, Path] = {}
    for file in files:
        for name in file.names:
            if owner.setdefault(name, file.path) != file.path:
                raise InvalidInput(f"{owner[name]} and {file.path} both define a function '{name}'")
    return files


def warnings(files: Iterable[FdlFile]) -> list[str]:
    """Return what the files deserve a word about: unknown keys and the like, outputs near inputs, rings."""
    files = list(files)
    found = [f"{file.path}: {text}" for file in files for text in file.document.warnings]
    functions = [draft.function for file in files for draft in file.document.functions]
    rings = cycles(functions)
    return found + [f"these functions start each other in a ring: {' -> '.join([*ring, ring[0]])}" for ring in rings]
