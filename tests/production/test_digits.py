"""The digits example and its chain on a real node, as a user has them: its image from its own Dockerfile, its FDL as
custom resources for `kubectl apply`, pictures uploaded by a stock S3 client.

The second function keeps its state on a volume, which here is a folder of the node.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from PIL import Image

from penstock.fdl import parse_document
from penstock.model import Function, Phase
from tests.production.node import kubectl, on_the_node
from tests.production.platform import Json, Platform
from tests.testbed.bed import Bed
from tests.testbed.paths import REPOSITORY

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

DIGITS = REPOSITORY / "examples" / "digits"
PICTURES = 20
WORST_ACCURACY = 0.9


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with on_the_node(bed, tmp_path_factory.mktemp("digits")) as made:
        await bed.images.digits()
        yield made


def documents() -> list[Json]:
    """The functions of digits.yaml as custom resources; pictures share a pod, as the file recommends for a cluster."""
    text = (DIGITS / "digits.yaml").read_text(encoding="utf-8").replace("# batch: {max", "batch: {max")
    parsed = parse_document(text, read_script=lambda name: (DIGITS / name).read_text(encoding="utf-8"))
    return [custom_resource(draft.function) for draft in parsed.functions]


def custom_resource(function: Function) -> Json:
    """What one writes by hand: no identity, no times, nothing that has its default."""
    plain = msgspec.to_builtins(Function(name=function.name))
    given = msgspec.to_builtins(function)
    spec = {name: value for name, value in given.items() if name != "definition" and value != plain[name]}
    return {
        "apiVersion": "penstock.dev/v1",
        "kind": "Function",
        "metadata": {"name": function.name},
        "spec": spec,
    }


def pictures(folder: Path) -> list[Path]:
    """Pictures that the model never saw, with the truth in their names."""
    words = ["--model", f"{folder}/model.npz", "--pictures", f"{folder}/pictures", "--count", str(PICTURES)]
    subprocess.run([sys.executable, DIGITS / "train.py", *words], check=True, capture_output=True, timeout=300)
    return sorted((folder / "pictures").iterdir())


async def volume(platform: Platform, folder: Path) -> None:
    """The bed has no storage class, so the volume for the chart's state is made by hand."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
        "claimRef": {"namespace": platform.namespace, "name": "digits-chart"},
    }
    await platform.api.send("POST", "/api/v1/persistentvolumes", {"metadata": {"name": platform.mark}, "spec": spec})


async def test_pictures_become_predictions_and_a_chart(
    platform: Platform, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    await volume(platform, tmp_path / "state")
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents()})
    assert (await kubectl(platform, "apply", "-f-", text=text)).count("created") == 2

    names = ("digits-classify", "digits-chart")
    for name in names:
        await platform.ready(name)
    files = pictures(tmp_path)
    for file in files:
        await platform.put("digits", f"in/{file.name}", file.read_bytes())
    classified = await platform.ended("digits", [f"in/{file.name}" for file in files])
    assert {(record.function, record.phase) for record in classified.values()} == {(names[0], Phase.SUCCEEDED)}
    predictions = [f"predictions/{file.stem}.json" for file in files]
    charted = await platform.ended("digits", predictions)
    assert {(record.function, record.phase) for record in charted.values()} == {(names[1], Phase.SUCCEEDED)}

    right = 0
    for key in predictions:
        answer = json.loads(await platform.get("digits", key))
        assert answer["key"].startswith("in/")
        truth = re.search(r"truth-(\d)", key)
        assert truth is not None
        right += answer["predicted"] == int(truth[1])
    record_property("accuracy", right / len(files))
    sys.stdout.write(f"digits on the node: {right} of {len(files)} right, accuracy {right / len(files):.1%}\n")
    assert right / len(files) >= WORST_ACCURACY

    assert sorted(await platform.keys("digits", "report/")) == ["report/confusion.csv", "report/confusion.png"]
    table = list(csv.DictReader((await platform.get("digits", "report/confusion.csv")).decode().splitlines()))
    assert sum(int(row[str(digit)]) for row in table for digit in range(10)) == len(files)
    with Image.open(io.BytesIO(await platform.get("digits", "report/confusion.png"))) as chart:
        assert chart.size[0] > 500
    successes = platform.history.successes()
    assert set(successes.values()) == {1}
    assert len(successes) == 2 * len(files)
