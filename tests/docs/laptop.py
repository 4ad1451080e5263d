"""Runs a page as its reader would: its blocks in order, in one folder, against a real `penstock up`.

The reader's patience is a condition: where a block says `ended=N`, the next one begins once N invocations have ended,
and no earlier. The addresses 127.0.0.1:8080 and :9000 of the pages become free ports, and back again in what is shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.docs.pages import ROOT, Block, Page

DEADLINE_S = 120.0
#: What a page may use by the path that it has in a checkout.
LINKED = ("examples", "helm", "docs", "benchmarks", "Makefile")
FINAL = ("succeeded", "failed", "dead", "cancelled", "superseded", "skipped")


class Mismatch(AssertionError):
    """A block did not do what the page says."""


class Laptop:
    """One reader's machine: a folder, a home, free ports. Use as a context manager, so that nothing stays running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir(parents=True)
        for name in LINKED:
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / ".venv").symlink_to(Path(sys.prefix))
        self._ports = {"127.0.0.1:8080": _free(), "127.0.0.1:9000": _free()}
        self._environment = _environment(folder, self._ports)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, page: Page) -> int:
        """Do every block that can be done and return how many ran. Raises Mismatch with the place."""
        ran, said = 0, ""
        for block in page.blocks:
            if "file" in block.attributes:
                self._write(block)
            elif block.kind == "up":
                self._up(block)
            elif block.kind in {"run", "down"}:
                if block.kind == "down":
                    self._stack.close()  # the reader has stopped the server
                said = self._run(block)
                ran += 1
            elif block.kind == "watch":
                self._watch(block)
                ran += 1
            elif block.kind == "output":
                check_output(block, said)
            if wanted := block.attributes.get("ended"):
                self._wait_for_ended(block, int(wanted))
        return ran

    def _here(self, text: str) -> str:
        for told, real in self._ports.items():
            text = text.replace(told, real)
        return text

    def _told(self, text: str) -> str:
        for told, real in self._ports.items():
            text = text.replace(real, told)
        return text.replace(str(self.folder), "/home/you/work")

    def _write(self, block: Block) -> None:
        path = self.folder / block.attributes["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(block.text), encoding="utf-8")
        if block.text.startswith("#!"):
            path.chmod(0o755)

    def _command(self, block: Block) -> list[str]:
        text = self._here(block.text)
        return [sys.executable, "-W", "error", "-c", text] if block.language == "python" else ["sh", "-euc", text]

    def _run(self, block: Block) -> str:
        done = subprocess.run(
            self._command(block),
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S * (3 if block.slow else 1),
            check=False,
        )
        wanted = int(block.attributes.get("exit", "0"))
        if done.returncode != wanted:
            raise Mismatch(f"{block.place}: ended with {done.returncode} and not {wanted}:\n{done.stdout}")
        return self._told(done.stdout)

    def _up(self, block: Block) -> None:
        """Start the server, in place of the one that this page had started before."""
        self._stack.close()
        process = self._stack.enter_context(self._started(block))
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("Penstock is up at "):
            raise Mismatch(f"{block.place}: does not come up: {line!r}; {(self.folder.parent / 'up.log').read_text()}")

    @contextmanager
    def _started(self, block: Block) -> Iterator[subprocess.Popen[str]]:
        with (self.folder.parent / "up.log").open("a") as errors:
            process = subprocess.Popen(
                ["sh", "-euc", self._here(block.text)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.communicate(timeout=DEADLINE_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
                    raise

    def _watch(self, block: Block) -> None:
        """Look on until nothing waits or runs, and leave with Ctrl-C."""
        process = subprocess.Popen(
            ["sh", "-euc", "exec " + self._here(block.text)],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self._until(block, lambda: not self._counts("queued", "running"), "there is work left")
            # Not before it is connected: a Ctrl-C that meets a Python which is still starting proves nothing.
            self._until(block, lambda: _sockets(process.pid) >= 3, "it listens to no server")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode not in {0, 130} or "Traceback" in errors:
            raise Mismatch(f"{block.place}: ended with {process.returncode}: {errors}")

    def _counts(self, *phases: str) -> int:
        token = tomllib.loads((self.folder / "penstock-data" / "credentials").read_text(encoding="utf-8"))["token"]
        address = f"http://{self._ports['127.0.0.1:8080']}/v1/status"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            functions = json.load(answer)["functions"]
        return sum(one[phase] for one in functions for phase in phases)

    def _wait_for_ended(self, block: Block, wanted: int) -> None:
        """Wait for so many ends, and see that no more work than that came about."""
        self._until(block, lambda: self._counts(*FINAL) >= wanted, f"not {wanted} invocations have ended")
        if (ended := self._counts(*FINAL)) != wanted:
            raise Mismatch(f"{block.place}: {ended} invocations have ended and not {wanted}")

    def _until(self, block: Block, done: Callable[[], bool], trouble: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            if time.monotonic() > deadline:
                raise Mismatch(f"{block.place}: after {DEADLINE_S:.0f} s {trouble}")
            time.sleep(0.05)


def check_output(block: Block, said: str) -> None:
    """Compare what a page shows with what was said; `...` stands for anything, runs of blanks for one.

    Raises Mismatch.
    """
    shown = [_plain(line) for line in block.text.strip("\n").splitlines()]
    pattern = "".join(
        # A line of nothing but `...` is any number of lines.
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
        for line in shown
    )
    got = "".join(_plain(line) + "\n" for line in said.strip("\n").splitlines())
    if re.fullmatch(pattern, got) is None:
        raise Mismatch(f"{block.place}: the page shows\n{chr(10).join(shown)}\n\nand the commands said\n{got}")


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()


def _sockets(pid: int) -> int:
    """Open sockets of a process: two of its event loop, and its connections."""
    found = 0
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(handle.readlink()).startswith("socket:")
    return found


def _free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def _environment(folder: Path, ports: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "PYTEST_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PENSTOCK_HTTP_LISTEN": ports["127.0.0.1:8080"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
