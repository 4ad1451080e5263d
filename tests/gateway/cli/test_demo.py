"""The demo: its parts with real files, and the whole of it where the example's packages are installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from gateway.cli.failures import WorkFailed
from gateway.demo import Report, showing
from gateway.demo.chain import Chain
from gateway.demo.report import Prediction, load_predictions, predictions_table
from gateway.demo.server import Server
from penstock.answers import Change, Invocation
from penstock.client import Client
from penstock.errors import InvalidInput
from tests.gateway.cli.conftest import COMMAND, ROOT


def prediction(number: int, truth: int, predicted: int) -> Prediction:
    return Prediction(file=f"digit-{number:04}-truth-{truth}.png", truth=truth, predicted=predicted, confidence=0.99)


def report(folder: Path, *, wrong: int = 0, succeeded: int = 20, failures: tuple[str, ...] = ()) -> Report:
    for name in ("chart.png", "table.csv"):
        (folder / name).touch()
    return Report(
        pictures=20,
        succeeded=succeeded,
        failures=failures,
        predictions=tuple(prediction(number, 5, 4 if number < wrong else 5) for number in range(20)),
        seconds=2.0,
        chart=str(folder / "chart.png"),
        table=str(folder / "table.csv"),
    )


def test_a_good_report_passes(tmp_path: Path) -> None:
    showing.check(report(tmp_path, wrong=2))


def test_whatever_is_missing_fails(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match=r"85\.0% is below 90%"):
        showing.check(report(tmp_path, wrong=3))
    with pytest.raises(WorkFailed, match="19 succeeded"):
        showing.check(report(tmp_path, succeeded=19))
    with pytest.raises(WorkFailed, match="the first: x failed"):
        showing.check(report(tmp_path, failures=("x failed",)))
    without = report(tmp_path)
    (tmp_path / "chart.png").unlink()
    with pytest.raises(WorkFailed, match=r"chart\.png was not made"):
        showing.check(without)


def test_predictions_stand_beside_the_truth_of_their_names(tmp_path: Path) -> None:
    answer = {"file": "digit-0007-truth-3.png", "predicted": 8, "confidence": 0.5}
    (tmp_path / "digit-0007-truth-3.json").write_text(json.dumps(answer))
    (found,) = load_predictions(tmp_path)
    assert (found.truth, found.predicted, found.right) == (3, 8, False)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 60])
def test_the_table_shows_each_picture_once_and_marks_the_wrong(count: int) -> None:
    table = predictions_table([prediction(number, 1, number % 2) for number in range(count)])
    assert all(table.count(f"digit-{number:04}") == 1 for number in range(count))
    assert table.count("WRONG") == (count + 1) // 2
    assert len(table.splitlines()) == -(-count // 3) + 1


def test_the_functions_learn_where_the_example_lies_and_nothing_else_changes(tmp_path: Path) -> None:
    original = (showing.example_folder() / "digits.yaml").read_text(encoding="utf-8")
    home = tmp_path / "a 'quoted' place: ñ"
    before, after = yaml.safe_load(original), yaml.safe_load(showing.with_home(original, home))
    for document, place, python in ((before, "X", "X"), (after, str(home), sys.executable)):
        for entry in document["functions"]["oscar"]:
            for service in entry.values():
                variables = service["environment"]["variables"]
                if document is after:
                    assert (variables["DIGITS_HOME"], variables["DIGITS_PYTHON"]) == (place, python)
                variables |= {"DIGITS_HOME": "X", "DIGITS_PYTHON": "X"}
    assert before == after


def test_the_data_folder_is_new_or_empty(tmp_path: Path) -> None:
    assert showing.data_folder(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "new" / "file").touch()
    with pytest.raises(InvalidInput, match="not empty"):
        showing.data_folder(tmp_path / "new")
    with pytest.raises(InvalidInput, match="--data"):
        showing.data_folder(tmp_path / "new" / "file" / "below")


def test_missing_packages_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "PACKAGES", ("no_such_package_of_anybody",))
    with pytest.raises(InvalidInput, match=r"pip install 'penstock\[examples\]'"):
        showing.require_packages()


def ended(function: str, number: int, phase: str = "succeeded", reason: str = "") -> Change:
    one = Invocation(id=f"{function}{number}", function=function, phase=phase, finished_ms=number, reason=reason)
    return Change(invocation=one)


async def feed(*changes: Change) -> AsyncIterator[Change]:
    for change in changes:
        yield change


async def followed(*changes: Change) -> tuple[Chain, list[str]]:
    said: list[str] = []
    chain = Chain(Client("http://unused", ""), ("a", "b"), 2, said.append)
    await chain.follow(feed(*changes))
    return chain, said


async def test_the_chain_is_followed_to_its_end() -> None:
    running = Change(invocation=Invocation(id="a1", function="a", phase="running"))
    chain, said = await followed(running, ended("a", 1), ended("a", 2), ended("b", 1), ended("b", 2))
    assert (chain.succeeded("a"), chain.succeeded("b"), chain.failures()) == (2, 2, ())
    assert chain.last("a") == "a2"
    assert said[-1] == "  b: 2 of 2"


async def test_a_failure_ends_the_chain_without_waiting_for_what_cannot_come() -> None:
    chain, _ = await followed(ended("a", 1, "failed", "code 3"), ended("a", 2), ended("b", 2))
    assert chain.failures() == ("a on (posted body) failed (code 3)",)


async def test_a_server_that_stops_is_told() -> None:
    with pytest.raises(WorkFailed, match="server stopped"):
        await followed(ended("a", 1))


async def test_the_server_runs_for_the_block_and_not_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    server = Server(tmp_path / "data", tmp_path / "log")
    async with server:
        process = server._process
        assert process is not None
        assert server.address.startswith("http://127.0.0.1:")
    assert process.returncode == 0


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(WorkFailed, match=f"did not come up: .*{tmp_path}/data"):
        async with Server(tmp_path / "data", tmp_path / "log"):
            pytest.fail("it must not start")


@pytest.mark.slow
def test_the_whole_demo_and_its_server_until_an_interrupt(tmp_path: Path) -> None:
    environ = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    arguments = ["demo", "--pictures", "20", "--data", str(tmp_path / "d"), "--keep", "--output", "json"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        told = ""
        while "until Ctrl-C" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
        status = subprocess.run([*COMMAND, "status"], env=environ, capture_output=True, text=True, check=True)
        process.send_signal(signal.SIGINT)
        document = json.loads(process.stdout.read())
        assert process.wait() == 0
    assert "digits-chart" in status.stdout
    assert "whole time:" in told
    assert document["succeeded"] == 20
    assert Path(document["chart"]).read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "state" / "penstock" / "servers").iterdir())
