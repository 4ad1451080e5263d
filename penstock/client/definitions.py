"""What a program may deploy: an FDL file, its text, definitions as plain mappings, or `Definition` objects.

All become one FDL text and the scripts that it names, which is what the server takes. Files are read here, as on the
command line: a script's path counts from the folder of its FDL file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from penstock.errors import InvalidInput, NotFound
from penstock.fdl import parse_document

#: No script comes near; a wrong path to a model or a disk image does.
SCRIPT_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One function. `inputs` and `outputs` are BUCKET/FOLDER of the server's own store; `script` is its text, or the
    path of its file; `options` are further keys of FDL (`concurrency`, `retries`, `memory`, ...).
    """

    name: str
    script: str | Path
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the function as FDL has it."""
        made: dict[str, Any] = {"name": self.name, "script": self.script, **self.options}
        if self.image:
            made["image"] = self.image
        if self.environment:
            made["environment"] = {"variables": dict(self.environment)}
        for key, places in (("input", self.inputs), ("output", self.outputs)):
            if places:
                made[key] = [{"storage_provider": "local", "path": place} for place in places]
        return made


Source = str | Path | Definition | Mapping[str, Any] | Iterable[Definition | Mapping[str, Any]]


class Order(NamedTuple):
    """What is sent: one FDL text, and each script by the path that stands in it."""

    fdl: str
    scripts: dict[str, str]


def order_of(source: Source) -> Order:
    """Read what is to be deployed. A text with a line break is FDL, one without is a path.

    Raises InvalidInput with the place of the mistake, NotFound for a missing file.
    """
    if isinstance(source, Path) or (isinstance(source, str) and "\n" not in source):
        return _of_file(Path(source))
    if isinstance(source, str):
        return _of_text(source, Path.cwd())
    if isinstance(source, Mapping) and "functions" in source:
        return _of_text(_yaml(source), Path.cwd())
    several = [source] if isinstance(source, (Mapping, Definition)) else list(source)
    return _of_objects(several)


def _of_file(path: Path) -> Order:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot be read: {_why(error)}", where=str(path)) from error
    try:
        return _of_text(text, path.parent)
    except InvalidInput as error:
        raise InvalidInput(error.message, where=str(path)) from error


def _of_text(text: str, folder: Path) -> Order:
    scripts: dict[str, str] = {}

    def script(named: str) -> str:
        found = folder / named
        if found.is_file() and found.stat().st_size > SCRIPT_LIMIT:
            raise InvalidInput(f"{found} has more than {SCRIPT_LIMIT // 2**20} MiB: is it a script?")
        scripts[named] = found.read_text(encoding="utf-8")
        return scripts[named]

    parse_document(text, read_script=script, require_image=False)
    return Order(text, scripts)


def _of_objects(several: Sequence[Definition | Mapping[str, Any]]) -> Order:
    scripts: dict[str, str] = {}
    services = []
    for index, one in enumerate(several):
        document = one.document() if isinstance(one, Definition) else dict(one)
        script = document.get("script")
        if script is not None:
            named = f"script-{index}"
            scripts[named] = _script(script)
            document["script"] = named
        services.append({"local": document})
    text = _yaml({"functions": {"oscar": services}})
    parse_document(text, read_script=scripts.__getitem__, require_image=False)
    return Order(text, scripts)


def _script(script: object) -> str:
    if isinstance(script, str) and "\n" in script:
        return script
    if not isinstance(script, (str, Path)):
        raise InvalidInput(f"a script is its text or the path of its file, not {type(script).__name__}", where="script")
    try:
        return Path(script).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        text = f"there is no file {str(script)!r}; to give the script's text itself, end it with a line break"
        raise NotFound(text) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the script cannot be read: {_why(error)}", where=str(script)) from error


def _yaml(document: Mapping[str, Any]) -> str:
    try:
        return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise InvalidInput("a definition holds plain values only: texts, numbers, lists and mappings") from error


def _why(error: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error)).lower()
