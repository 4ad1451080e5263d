"""`python -m watcher|dispatcher|scaler|gateway` as a user meets them: one product, one way to say what is wrong."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest

from penstock import version_text
from tests.services.programs import PROGRAMS, environment, run, usable

pytestmark = pytest.mark.parametrize("module", PROGRAMS)


def test_help_has_the_shared_options_examples_and_exit_codes(module: str) -> None:
    told = run(module, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    for option in ("--config FILE", "--check", "--version", "--help"):
        assert option in told.stdout
    assert f"examples:\n  python -m {module} --config /etc/penstock/penstock.toml\n" in told.stdout
    assert "exit codes: 0 stopped by a signal, 1 a part failed, 2 the settings cannot work\n" in told.stdout


def test_the_version_is_that_of_the_command_line(module: str) -> None:
    told = run(module, "--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"{version_text()}\n", "")


def test_unknown_words_are_one_sentence(module: str) -> None:
    told = run(module, "--nonsense", "settings.toml", "--conf=x.toml")
    assert (told.returncode, told.stdout) == (2, "")
    words = "--nonsense settings.toml --conf=x.toml"
    assert told.stderr == f"error: unrecognized arguments: {words}; 'python -m {module} --help' lists the options\n"


def test_a_settings_file_that_is_missing_is_one_sentence(module: str, tmp_path: Path) -> None:
    told = run(module, "--config", str(tmp_path / "x.toml"), "--check")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == f"error: {tmp_path}/x.toml: the settings file cannot be read: No such file or directory\n"


def test_settings_that_can_work(module: str, tmp_path: Path) -> None:
    told = run(module, "--check", **usable(tmp_path))
    pools = ": pools main (1 to 2)" if module == "scaler" else ""
    assert (told.returncode, told.stdout, told.stderr) == (0, f"the settings can be used{pools}\n", "")
    assert not (tmp_path / "state").exists(), "a check makes nothing"


def test_the_check_reads_the_settings_file(module: str, tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('[service]\nlisten = "nowhere"\n')
    variables = usable(tmp_path)
    del variables["PENSTOCK_SERVICE_LISTEN"]
    told = run(module, "--config", str(tmp_path / "penstock.toml"), "--check", **variables)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "error: service.listen: 'nowhere' is not HOST:PORT, for example 127.0.0.1:9090\n"


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_what_the_check_refuses_does_not_start_either(module: str, check: tuple[str, ...], tmp_path: Path) -> None:
    wrong = str(tmp_path / "no-kubeconfig")
    told = run(module, *check, **usable(tmp_path) | {"PENSTOCK_KUBERNETES_KUBECONFIG": wrong})
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == (
        f"error: kubernetes.kubeconfig: {wrong}: the kubeconfig cannot be read: No such file or directory\n"
    )


def test_a_part_that_fails_ends_it_with_one_sentence(module: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = run(module, **usable(tmp_path) | {"PENSTOCK_SERVICE_LISTEN": address})
    assert told.returncode == 1, told.stderr
    assert told.stderr.splitlines()[-1] == (
        f"error: the address {address} is in use by another program (service.listen)"
    )
    assert "Traceback" not in told.stderr


async def test_a_signal_ends_it_well(module: str, tmp_path: Path) -> None:
    """Nothing that it needs is there: it waits, and can be stopped while it does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env=environment(usable(tmp_path)), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(90):
            while b'"action": "start"' not in said:
                line = await process.stderr.readline()
                assert line, said.decode()
                said += line
            process.send_signal(signal.SIGTERM)
            said += await process.stderr.read()
            assert await process.wait() == 0, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert b"Traceback" not in said
    assert b"error: " not in said
    assert b'"action": "stopped"' in said.splitlines()[-1]
