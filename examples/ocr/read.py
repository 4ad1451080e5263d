"""Read the text of a clean picture with a pretrained model: the second half of the OCR chain.

The model is PP-OCRv6 (Apache-2.0) as the package `rapidocr` carries it inside its wheel. Its files are
named here one by one although the package would find them itself: when one is missing the package would
try to download it, and a function must not depend on a network that its node may not have.

Like every script of the examples it knows nothing of Penstock, only OSCAR's contract:
`INPUT_FILE_PATH`, `STORAGE_OBJECT_KEY`, `TMP_OUTPUT_DIR`, an exit code, and one sentence on stderr.
"""

import importlib.util
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LONGEST_SIDE = 1280  # pixels at which text is looked for; letters are read at full size
FINDER = "PP-OCRv6_det_small.onnx"
READER = "PP-OCRv6_rec_small.onnx"


class Refused(Exception):
    """The picture or the set-up is at fault; the text says how, in one sentence."""


@dataclass(frozen=True)
class Line:
    """A piece of text that stands together."""

    text: str
    confidence: float
    box: list[list[int]]  # its four corners, from the upper left one clockwise, in pixels

    @property
    def middle(self) -> float:
        """Its height on the page."""
        return sum(y for _, y in self.box) / len(self.box)

    @property
    def height(self) -> float:
        """From its upper to its lower edge, along its left side."""
        return abs(self.box[3][1] - self.box[0][1])


def main() -> None:
    """Read the picture that the environment names."""
    picture = Path(required("INPUT_FILE_PATH"))
    output = Path(required("TMP_OUTPUT_DIR"))
    rows = by_row(recognise(load(picture)))
    text = "\n".join(" ".join(line.text for line in row) for row in rows)
    answer = {
        "file": picture.name,
        # A run that no stored object started (a synchronous call) has no key.
        "key": os.environ.get("STORAGE_OBJECT_KEY", picture.name),
        "text": text,
        "lines": [asdict(line) for row in rows for line in row],
    }
    (output / f"{picture.stem}.txt").write_text(text + "\n", encoding="utf-8")
    (output / f"{picture.stem}.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    print(f"{picture.name}: {len(rows)} lines of text")


def required(variable: str) -> str:
    """The variable's value, or a sentence that names it."""
    value = os.environ.get(variable)
    if not value:
        raise Refused(f"the variable {variable} is not set: a platform that speaks OSCAR's contract sets it")
    return value


def load(picture: Path) -> Image.Image:
    """The picture in the colours that the model expects."""
    try:
        with Image.open(picture) as opened:
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise Refused(f"there is no file {picture}") from error
    # Pillow reports damage as any of these, depending on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Refused(f"cannot read {picture.name} as a picture: {first_line(error)}") from error


def recognise(picture: Image.Image) -> list[Line]:
    """All text in the picture, in no order that one should rely on."""
    finder, reader = model_file(FINDER), model_file(READER)
    # Imported only now: it is most of the run's time, and a broken picture should not cost it.
    from rapidocr import RapidOCR  # type: ignore[import-untyped,unused-ignore] # noqa: PLC0415

    engine: Any = RapidOCR(
        params={
            "Global.log_level": "error",
            # Pages come upright from the clean-up, so the model that looks for upside-down lines rests.
            "Global.use_cls": False,
            # As shipped, a wide picture would be enlarged until its short side is 736 pixels, which can
            # take ten times as long and finds no more.
            "Det.limit_type": "max",
            "Det.limit_side_len": LONGEST_SIDE,
            "Det.model_path": str(finder),
            "Rec.model_path": str(reader),
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        },
    )
    found = engine(np.asarray(picture))
    if found.boxes is None:
        return []
    return [
        Line(str(text), round(float(score), 4), [[round(float(x)), round(float(y))] for x, y in box])
        for text, score, box in zip(found.txts, found.scores, found.boxes, strict=True)
    ]


def model_file(name: str) -> Path:
    """Where the package keeps a model, looked up without importing the package."""
    package = importlib.util.find_spec("rapidocr")
    if package is None or package.origin is None:
        raise Refused(f"the package rapidocr is not installed in {sys.executable}")
    file = Path(package.origin).parent / "models" / name
    if not file.is_file():
        raise Refused(f"this version of the package rapidocr does not carry the model {name}")
    return file


def by_row(lines: list[Line]) -> list[list[Line]]:
    """The lines as a person reads them: rows from the top, each row from the left."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.middle):
        # Pieces are of one row when their middles are closer than half a letter's height.
        if rows and line.middle - rows[-1][0].middle < max(line.height, rows[-1][0].height) / 2:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.box[0][0]) for row in rows]


def first_line(error: BaseException) -> str:
    """What went wrong, short enough for a log line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    try:
        main()
    except Refused as refusal:
        sys.exit(f"read: {refusal}")
