"""Read one handwritten digit, once per picture.

This is the part a user writes: it knows nothing of Penstock. It runs afresh for every picture, so it
loads nothing but numpy and Pillow and does the two matrix products itself: importing the library that
trained the model would take ten times as long as the answer. What it gets and gives is OSCAR's contract:
`INPUT_FILE_PATH`, `STORAGE_OBJECT_KEY` and `TMP_OUTPUT_DIR`, an exit code, and one sentence on stderr
when it cannot do its work.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Floats = npt.NDArray[np.float64]

SIDE = 8  # the model's pictures are 8 x 8, 1.0 where the pen was


class Refused(Exception):
    """The picture or the set-up is at fault; the text says how, in one sentence."""


def main() -> None:
    """Classify the picture that the environment names."""
    picture = Path(required("INPUT_FILE_PATH"))
    output = Path(required("TMP_OUTPUT_DIR"))
    probabilities = classify(ink(read(picture)), Path(__file__).with_name("digits.npz"))
    predicted = int(probabilities.argmax())
    answer = {
        "file": picture.name,
        # A run that no stored object started (a synchronous call) has no key.
        "key": os.environ.get("STORAGE_OBJECT_KEY", picture.name),
        "predicted": predicted,
        "confidence": round(float(probabilities[predicted]), 4),
        "probabilities": [round(float(p), 4) for p in probabilities],
    }
    (output / f"{picture.stem}.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    print(f"{picture.name}: {predicted} ({answer['confidence']:.1%})")


def required(variable: str) -> str:
    """The variable's value, or a sentence that names it."""
    value = os.environ.get(variable)
    if not value:
        raise Refused(f"the variable {variable} is not set: a platform that speaks OSCAR's contract sets it")
    return value


def read(picture: Path) -> Image.Image:
    """The picture in shades of grey, on white paper where it is transparent."""
    try:
        with Image.open(picture) as opened:
            rgba = opened.convert("RGBA")
    except FileNotFoundError as error:
        raise Refused(f"there is no file {picture}") from error
    # Pillow reports damage as any of these, depending on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Refused(f"cannot read {picture.name} as a picture: {first_line(error)}") from error
    paper = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(paper, rgba).convert("L")


def ink(grey: Image.Image) -> Floats:
    """The picture as the model knows pictures: 64 numbers, 0.0 for paper and 1.0 for pen.

    train.py calls this too, so that the model learns from what it will later see.
    """
    # Padding to a square, in the colour of a corner, keeps a narrow crop from being stretched into another
    # digit.
    side = max(grey.size)
    square = ImageOps.pad(grey, (side, side), color=grey.tobytes()[0])
    small = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255.0
    # The corners are paper: when they are dark the pen was light, as on a blackboard.
    corners = small[[0, 0, -1, -1], [0, -1, 0, -1]]
    light_paper = corners.mean() > 0.5
    return (1.0 - small if light_paper else small).ravel()


def classify(pixels: Floats, model: Path) -> Floats:
    """The probability of each of the ten digits."""
    try:
        with np.load(model) as weights:
            hidden = np.maximum(pixels @ weights["w1"] + weights["b1"], 0.0)
            scores = hidden @ weights["w2"] + weights["b2"]
    except (OSError, KeyError, ValueError) as error:
        raise Refused(f"there is no usable model at {model}: train.py makes it") from error
    grown = np.exp(scores - scores.max())
    probabilities: Floats = grown / grown.sum()
    return probabilities


def first_line(error: BaseException) -> str:
    """What went wrong, short enough for a log line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    try:
        main()
    except Refused as refusal:
        sys.exit(f"classify: {refusal}")
