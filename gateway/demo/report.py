"""What the demo found: predictions beside the truth, as data and as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.cli import formats

#: Pictures beside each other in one line of the table.
COLUMNS = 3


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What the classifier said about one picture, beside the truth that its name carries."""

    file: str
    truth: int
    predicted: int
    confidence: float

    @property
    def right(self) -> bool:
        return self.truth == self.predicted


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo showed."""

    pictures: int
    succeeded: int
    #: One sentence for each invocation, of either function, that ended otherwise.
    failures: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    #: From the first copy to the last chart.
    seconds: float
    chart: str
    table: str

    @property
    def accuracy(self) -> float:
        return sum(one.right for one in self.predictions) / max(len(self.predictions), 1)


def load_predictions(folder: Path) -> tuple[Prediction, ...]:
    """Read the classifier's answers; the truth is in the picture's name (`digit-0007-truth-3.png`) and nowhere else."""
    found = []
    for path in sorted(folder.glob("*.json")):
        answer = json.loads(path.read_text(encoding="utf-8"))
        truth = int(Path(answer["file"]).stem.rsplit("-truth-", 1)[1])
        found.append(
            Prediction(file=answer["file"], truth=truth, predicted=answer["predicted"], confidence=answer["confidence"])
        )
    return tuple(found)


def predictions_table(predictions: Sequence[Prediction]) -> str:
    """Return predictions beside truths, several a line, the wrong ones marked."""
    cells = [
        (
            one.file.split("-truth-")[0],
            str(one.truth),
            str(one.predicted),
            f"{one.confidence:.0%}",
            "" if one.right else "WRONG",
        )
        for one in predictions
    ]
    height = -(-len(cells) // COLUMNS)
    head = ("PICTURE", "TRUTH", "SAYS", "SURE", " " * len("WRONG")) * COLUMNS
    empty = ("",) * 5
    rows = []
    for line in range(height):
        row: tuple[str, ...] = ()
        for column in range(COLUMNS):
            index = column * height + line
            row += cells[index] if index < len(cells) else empty
        rows.append(row)
    return formats.table(head, rows, right=[5 * column + cell for column in range(COLUMNS) for cell in (1, 2, 3)])
