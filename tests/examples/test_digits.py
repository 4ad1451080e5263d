"""The digits example does what its README says: real model, real pictures, real scripts."""

import csv
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.examples.running import EXAMPLES, Example, Ran, python, refused_in_one_sentence

pytestmark = pytest.mark.slow

COUNT = 60


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    # A blank and a quote in the path: a home may have them.
    installed = Example.install("digits", tmp_path_factory.mktemp("digits") / 'my "digits" home')
    printed = python(installed.home / "train.py", "--pictures", installed.home / "pictures", "--count", str(COUNT))
    accuracy = re.search(r"accuracy ([0-9.]+)%", printed)
    assert accuracy
    assert float(accuracy[1]) >= 95
    return installed


@pytest.fixture(scope="module")
def pictures(example: Example) -> list[Path]:
    return sorted((example.home / "pictures").iterdir())


@pytest.fixture(scope="module")
def predictions(example: Example, pictures: list[Path]) -> dict[str, bytes]:
    """Every picture classified, two at a time."""

    def classify(picture: Path) -> Ran:
        return example.done("digits-classify", picture, key=f"in/{picture.name}")

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(classify, pictures))
    assert all(len(ran.outputs) == 1 for ran in runs)
    return {name: content for ran in runs for name, content in ran.outputs.items()}


@pytest.fixture
def chart_of(example: Example, tmp_path: Path) -> "Chart":
    return Chart(example, tmp_path)


class Chart:
    """The chart function with a volume of its own."""

    def __init__(self, example: Example, folder: Path) -> None:
        self.example = example
        self.folder = folder
        self.volume = folder / "volume"

    def __call__(self, name: str, content: bytes, key: str | None = None) -> Ran:
        prediction = self.folder / name
        prediction.write_bytes(content)
        return self.example.done("digits-chart", prediction, key or f"predictions/{name}", self.volume)


def table_in(ran: Ran) -> list[list[int]]:
    rows = list(csv.reader(io.StringIO(ran.outputs["confusion.csv"].decode())))
    assert rows[0] == ["truth", *map(str, range(10))]
    assert [row[0] for row in rows[1:11]] == list(map(str, range(10)))
    return [list(map(int, row[1:])) for row in rows[1:]]


def test_the_fdl_files_chain_the_two_functions(example: Example) -> None:
    classify, chart = example.services["digits-classify"], example.services["digits-chart"]
    assert classify["output"] == chart["input"]
    assert chart["concurrency"] == 1
    assert chart["volume"] == {"name": "digits-chart", "size": "10Mi", "mount_path": "/state"}
    assert (EXAMPLES / "digits" / classify["script"]).read_text().startswith("#!/bin/sh\n")
    assert (EXAMPLES / "digits" / chart["script"]).read_text().startswith("#!/bin/sh\n")


def test_pictures_it_never_saw_are_classified(predictions: dict[str, bytes]) -> None:
    answers = [json.loads(content) for content in predictions.values()]
    right = sum(f"truth-{answer['predicted']}" in answer["file"] for answer in answers)
    assert len(answers) == COUNT
    assert right / COUNT >= 0.9


def test_a_prediction_tells_file_key_and_probabilities(predictions: dict[str, bytes], pictures: list[Path]) -> None:
    first = pictures[0]
    answer = json.loads(predictions[f"{first.stem}.json"])
    assert set(answer) == {"file", "key", "predicted", "confidence", "probabilities"}
    assert (answer["file"], answer["key"]) == (first.name, f"in/{first.name}")
    assert len(answer["probabilities"]) == 10
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=0.001)
    assert answer["confidence"] == answer["probabilities"][answer["predicted"]] == max(answer["probabilities"])


def test_pictures_and_model_are_the_same_every_time(example: Example, pictures: list[Path], tmp_path: Path) -> None:
    model = tmp_path / "again.npz"
    python(example.home / "train.py", "--model", model, "--pictures", tmp_path / "again", "--count", "7")
    again = sorted((tmp_path / "again").iterdir())
    assert [path.name for path in again] == [path.name for path in pictures[:7]]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in pictures[:7]]
    assert model.read_bytes() == (example.home / "digits.npz").read_bytes()


@pytest.mark.parametrize("name", ["my digit.png", "größe-数字.png", "a'b\"c $(d) *.png", "-n.png"])
def test_any_file_name_will_do(example: Example, pictures: list[Path], tmp_path: Path, name: str) -> None:
    picture = tmp_path / name
    picture.write_bytes(pictures[0].read_bytes())
    ran = example.done("digits-classify", picture, key=f"in/{name}")
    answer = json.loads(ran.outputs[f"{picture.stem}.json"])
    assert (answer["file"], answer["key"]) == (name, f"in/{name}")


def test_light_pen_on_dark_paper_and_other_sizes_and_formats(
    example: Example, pictures: list[Path], tmp_path: Path
) -> None:
    def predicted(picture: Path) -> int:
        (output,) = example.done("digits-classify", picture).outputs.values()
        return int(json.loads(output)["predicted"])

    with Image.open(pictures[0]) as original:
        ImageOps.invert(original.convert("L")).save(tmp_path / "blackboard.png")
        original.convert("RGB").resize((300, 300)).save(tmp_path / "large.jpg")
        transparent = Image.new("RGBA", original.size, (0, 0, 0, 0))
        transparent.putalpha(ImageOps.invert(original.convert("L")))
        transparent.save(tmp_path / "transparent.png")
    expected = predicted(pictures[0])
    assert {predicted(tmp_path / name) for name in ("blackboard.png", "large.jpg", "transparent.png")} == {expected}


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_broken_picture_is_refused(example: Example, tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(content)
    ran = example.run("digits-classify", broken)
    refused_in_one_sentence(ran, "classify: cannot read broken.png as a picture: ")


def test_a_picture_cut_short_is_refused(example: Example, pictures: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(pictures[0].read_bytes()[:-200])
    refused_in_one_sentence(example.run("digits-classify", cut), "classify: cannot read cut.png as a picture: ")


def test_a_missing_model_is_named(pictures: list[Path], tmp_path: Path) -> None:
    untrained = Example.install("digits", tmp_path / "untrained")
    refused_in_one_sentence(untrained.run("digits-classify", pictures[0]), "classify: there is no usable model at ")


def test_the_table_counts_every_prediction_once(predictions: dict[str, bytes], chart_of: Chart) -> None:
    runs = [chart_of(name, content) for name, content in predictions.items()]
    table = table_in(runs[-1])
    assert sum(map(sum, table)) == COUNT
    right = sum(table[digit][digit] for digit in range(10))
    assert f"{right} of {COUNT} right" in runs[-1].stdout
    for truth, row in enumerate(table):
        assert sum(row) == sum(f"truth-{truth}" in name for name in predictions)

    # The same input again, as after a crash or a replay, changes not one byte.
    name, content = next(iter(predictions.items()))
    assert chart_of(name, content).outputs == runs[-1].outputs
    assert len(list(chart_of.volume.iterdir())) == COUNT


def test_an_input_that_was_replaced_counts_as_its_new_self(chart_of: Chart) -> None:
    chart_of("a-truth-3.json", b'{"file": "a-truth-3.png", "predicted": 5}')
    table = table_in(chart_of("a-truth-3.json", b'{"file": "a-truth-3.png", "predicted": 3}'))
    assert (sum(map(sum, table)), table[3][3]) == (1, 1)


def test_the_chart_is_a_picture_of_the_promised_size(predictions: dict[str, bytes], chart_of: Chart) -> None:
    name, content = next(iter(predictions.items()))
    with Image.open(io.BytesIO(chart_of(name, content).outputs["confusion.png"])) as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (900, 870))
        colours = image.getcolors(maxcolors=1 << 20)
    assert colours
    assert len(colours) > 50, "text and colour scales leave many shades"


def test_a_picture_without_truth_gets_a_row_of_its_own(chart_of: Chart) -> None:
    judged = chart_of("a-truth-3.json", b'{"file": "a-truth-3.png", "predicted": 3}')
    both = chart_of("mine.json", b'{"file": "mine.png", "predicted": 7}')
    assert len(table_in(judged)) == 10
    assert table_in(both)[10] == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert "1 of 1 right" in both.stdout
    assert "1 without a known truth" in both.stdout


def test_keys_in_other_folders_are_other_inputs(chart_of: Chart) -> None:
    content = b'{"file": "a-truth-3.png", "predicted": 3}'
    chart_of("a.json", content, key="predictions/one/a.json")
    assert sum(map(sum, table_in(chart_of("a.json", content, key="predictions/two/a.json")))) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"file": "x", "predicted": 12}', b"\xff\xfe"])
def test_what_is_no_prediction_is_refused(example: Example, tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken one.json"
    broken.write_bytes(content)
    ran = example.run("digits-chart", broken, volume=tmp_path / "volume")
    refused_in_one_sentence(ran, "chart: broken one.json is not a prediction of digits-classify")


def test_a_volume_that_cannot_be_written_is_named(example: Example, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    prediction = tmp_path / "a.json"
    prediction.write_bytes(b'{"file": "a-truth-3.png", "predicted": 3}')
    ran = example.run("digits-chart", prediction, volume=tmp_path / "file" / "volume")
    refused_in_one_sentence(ran, "chart: cannot keep state in ")
