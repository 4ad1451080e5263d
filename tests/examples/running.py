"""Run a function of an example exactly as a runner would, without Penstock.

The examples promise to know nothing of Penstock, so their tests use none of it either: the FDL file is
parsed as plain YAML, the script's text is taken from where the file says, and it is started with
`/bin/sh` in an empty working directory with nothing in its environment but OSCAR's variables and its own.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    code: int
    stdout: str
    stderr: str
    outputs: dict[str, bytes]


@dataclass(frozen=True)
class Example:
    """An example laid out in a folder of this machine."""

    home: Path
    services: dict[str, dict[str, Any]]

    @classmethod
    def install(cls, name: str, home: Path) -> "Example":
        """Lay the example out as a user does."""
        python(EXAMPLES / "install.py", name, "--home", home)
        document = yaml.safe_load((home / f"{name}.yaml").read_text(encoding="utf-8"))
        found = [service for entry in document["functions"]["oscar"] for service in entry.values()]
        return cls(home, {service["name"]: service for service in found})

    def run(
        self,
        function: str,
        picture: Path,
        key: str | None = None,
        volume: Path | None = None,
        modules: Path | None = None,
    ) -> Ran:
        """One run of one function on one input; `modules` is a folder that its Python looks into first."""
        service = self.services[function]
        with tempfile.TemporaryDirectory() as fresh:
            folders = {name: Path(fresh) / name for name in ("output", "cwd", "script")}
            for folder in folders.values():
                folder.mkdir()
            # The script travels with the function and is never beside the files it starts.
            script = folders["script"] / "script.sh"
            script.write_bytes((self.home / service["script"]).read_bytes())
            environment = {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "INPUT_FILE_PATH": str(picture),
                "TMP_OUTPUT_DIR": str(folders["output"]),
                **service["environment"]["variables"],
            }
            if key is not None:
                environment["STORAGE_OBJECT_KEY"] = key
            if volume is not None:
                environment["VOLUME_PATH"] = str(volume)
            if modules is not None:
                environment["PYTHONPATH"] = str(modules)
            ended = subprocess.run(
                ["/bin/sh", str(script)],
                env=environment,
                cwd=folders["cwd"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert not list(folders["cwd"].iterdir()), "a run leaves nothing in its working directory"
            outputs = {file.name: file.read_bytes() for file in folders["output"].iterdir()}
        return Ran(ended.returncode, ended.stdout, ended.stderr, outputs)

    def done(self, function: str, picture: Path, key: str | None = None, volume: Path | None = None) -> Ran:
        """A run that must succeed and say nothing on stderr."""
        ran = self.run(function, picture, key, volume)
        assert (ran.code, ran.stderr) == (0, "")
        return ran


def python(script: Path, *arguments: str | Path) -> str:
    """Run a set-up script as a user does, and return what it printed."""
    command = [sys.executable, "-W", "error", "-B", str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def refused_in_one_sentence(ran: Ran, start: str) -> None:
    """The run failed, wrote nothing, and said why in one line without a traceback."""
    assert ran.code != 0
    assert ran.outputs == {}
    assert ran.stderr.startswith(start)
    assert len(ran.stderr.splitlines()) == 1
