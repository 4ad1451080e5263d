"""User scripts of the benchmarks, and their bare baselines: the same script without the product around it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

#: Runs the same under the product (variables) and under xargs (one argument, TMP_OUTPUT_DIR in the environment).
TRIVIAL = 'cp "${1:-$INPUT_FILE_PATH}" "$TMP_OUTPUT_DIR/"\n'
_LOOP = "i=0; while [ $i -lt {turns} ]; do i=$((i+1)); done\n"


def busy(milliseconds: float) -> str:
    """A script that uses this much processor time in plain sh, then copies its input; calibrated on this machine."""
    turns = 20_000
    for _ in range(4):
        spent = _cpu_s(_LOOP.format(turns=turns)) - _cpu_s(":\n")
        turns = max(1000, int(turns * milliseconds / 1000 / max(spent, 1e-4)))
    return _LOOP.format(turns=turns) + TRIVIAL


def _cpu_s(script: str) -> float:
    """Processor seconds of one `sh` run, the best of five."""
    best = 10.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["/bin/sh", "-c", script], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def make_inputs(folder: Path, count: int, size: int = 100) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"file-{number:07d}.txt" for number in range(count)]
    for file in files:
        file.write_bytes(os.urandom(size // 2).hex().encode())
    return files


def xargs_s(script: str, files: list[Path], processes: int) -> float:
    """Seconds that `xargs -P` needs for the script on every file, one file per call."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.sh").write_text(script, encoding="utf-8")
        (folder / "out").mkdir()
        (folder / "list").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
        environment = os.environ | {"TMP_OUTPUT_DIR": str(folder / "out")}
        began = time.perf_counter()
        with (folder / "list").open("rb") as names:
            subprocess.run(
                ["xargs", f"-P{processes}", "-n1", "/bin/sh", str(folder / "script.sh")],
                stdin=names,
                env=environment,
                check=True,
            )
        took = time.perf_counter() - began
        assert sum(1 for _ in (folder / "out").iterdir()) == len(files)
    return took


def bare_s(script: str, file: Path) -> float:
    """Seconds of one plain `sh script` with its input and output folder ready."""
    folder = Path(tempfile.mkdtemp())
    (folder / "script.sh").write_text(script, encoding="utf-8")
    began = time.perf_counter()
    subprocess.run(
        ["/bin/sh", str(folder / "script.sh"), str(file)], env=os.environ | {"TMP_OUTPUT_DIR": str(folder)}, check=True
    )
    took = time.perf_counter() - began
    shutil.rmtree(folder)
    return took
