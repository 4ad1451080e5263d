"""What the tests of the command line share: a real `penstock up`, and a way to run commands against it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.cli.app import run
from gateway.cli.servers import read_token

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "gateway.cli"]

FDL = """\
functions:
  oscar:
  - local:
      name: upper
      image: x
      script: upper.sh
      input:
      - storage_provider: local
        path: texts/in
      output:
      - storage_provider: local
        path: texts/out
  - local:
      name: gated
      image: x
      script: gated.sh
      input:
      - storage_provider: local
        path: texts/gate
"""
UPPER = """\
#!/bin/sh
if grep -q FAIL "$INPUT_FILE_PATH"; then echo "cannot shout this" >&2; exit 3; fi
tr a-z A-Z < "$INPUT_FILE_PATH" > "$TMP_OUTPUT_DIR/answer"
"""
#: Says that it has begun, then waits for a file: so that a test decides when it ends.
GATED = """\
#!/bin/sh
echo begun
while [ ! -e GATE ]; do sleep 0.05; done
echo ended
"""


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens (it was free a moment ago)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Up:
    """A server in a child process, its files, and the environment in which commands find it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.gate = root / "gate"
        self.fdl = root / "functions.yaml"
        self.fdl.write_text(FDL)
        (root / "upper.sh").write_text(UPPER)
        (root / "gated.sh").write_text(GATED.replace("GATE", f"'{self.gate}'"))
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.environ |= {"XDG_STATE_HOME": str(root / "state"), "PYTHONPATH": str(ROOT)}
        with (root / "up.log").open("wb") as log:
            self.process = self.child("up", "--data", self.data, "--listen", "127.0.0.1:0", stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(b"Penstock is up at http://127.0.0.1:"), (root / "up.log").read_text()
        self.address = line.split()[4].decode().rstrip(",")
        self.token = read_token(self.data / "credentials")

    def child(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command as a process of its own."""
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.Popen(command, env=self.environ, cwd=self.root, stdout=subprocess.PIPE, **options)

    def stop(self) -> int:
        assert self.process.stdout is not None
        self.gate.touch()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    server = Up(tmp_path_factory.mktemp("up"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_STATE_HOME", server.environ["XDG_STATE_HOME"])
            assert run(["apply", str(server.fdl)]) == 0
        yield server
    finally:
        server.stop()


class Cli:
    """Runs commands in this process, which spares each of them a second of imports."""

    def __init__(self, up: Up, capture: pytest.CaptureFixture[str]) -> None:
        self.up = up
        self._capture = capture

    def __call__(self, *arguments: str | Path, code: int = 0) -> Done:
        self._capture.readouterr()
        got = run([str(argument) for argument in arguments])
        done = Done(got, *self._capture.readouterr())
        assert done.code == code, done
        assert "Traceback" not in done.err
        return done

    def json(self, *arguments: str | Path) -> Any:
        return self("--output", "json", *arguments).json

    def submitted(self, function: str, text: str) -> str:
        """Queue a text for a function and return the id of its invocation."""
        path = self.up.root / "body"
        path.write_text(text)
        return str(self.json("submit", function, path)["invocation"])


@pytest.fixture
def cli(up: Up, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    for name in ("PENSTOCK_SERVER", "PENSTOCK_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", up.environ["XDG_STATE_HOME"])
    monkeypatch.chdir(tmp_path)
    return Cli(up, capfd)
