"""The suite's own runner: parts side by side, nothing left out, a failure of any part is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.together import INSTALLED, LANES, SERVICES, Part, run, together


def test_a_failure_in_one_part_fails_the_whole_and_all_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.together.HERE", tmp_path / "tests")
    for folder, text in (("good", "def test_a(): pass\ndef test_b(): pass\n"), ("bad", "def test_c(): assert 0\n")):
        place = tmp_path / "tests" / folder
        place.mkdir(parents=True)
        (place / f"test_{folder}.py").write_text(text)
    code = run([[Part("one", "not x", ("good",))], [Part("two", "not x", ("bad",))]], ["-p", "no:asyncio"])
    told = capsys.readouterr().out
    assert code == 1
    assert "==== 1 failed, 2 passed in " in told
    assert "two | " in told
    assert "two : FAILED TWICE tests/bad/test_bad.py::test_c" in told


def test_what_fails_in_company_only_is_named_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.together.HERE", tmp_path / "tests")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_once.py").write_text(
        "from pathlib import Path\n"
        "def test_later():\n    seen = Path(__file__).with_name('seen')\n    known = seen.exists()\n"
        "    seen.touch()\n    assert known\n"
        "def test_fine(): pass\n"
    )
    code = run([[Part("one", "not x")]], ["-p", "no:asyncio"])
    told = capsys.readouterr().out
    assert code == 0
    assert "one : 1 passed" in told, "only what had failed"
    assert "one : passed alone tests/test_once.py::test_later" in told
    monkeypatch.setattr("tests.together.AGAIN", 0)
    (tmp_path / "tests" / "seen").unlink()
    assert run([[Part("one", "not x")]], ["-p", "no:asyncio"]) == 1, "too many to be an accident"


def test_summaries_are_added_up() -> None:
    lines = ["1 failed, 20 passed, 2 skipped in 1.00s", "3 passed, 1 error in 2.0s", "2 errors in 0.1s", "said nothing"]
    assert together(lines) == "1 failed, 3 error, 23 passed, 2 skipped"


def test_the_parts_leave_no_folder_out_and_share_none() -> None:
    assert not set(INSTALLED) & set(SERVICES)
    parts = [part for lane in LANES for part in lane]
    with_servers = [part for part in parts if not part.marks.startswith("not components")]
    (rest,) = (part for part in with_servers if not part.folders)
    named = [folder for part in with_servers for folder in part.folders]
    assert sorted(named) == sorted(rest.apart) == sorted(set(named))
    (fast,) = (part for part in parts if part.marks.startswith("not components"))
    assert not fast.folders
    assert not fast.apart
    assert all(part.marks.endswith("not endurance") for part in parts)
