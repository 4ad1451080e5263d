"""Make a photographed page easy to read: the first half of the OCR chain.

Text recognition suffers from what a camera adds: uneven light, speckles, a tilt, small letters. All of
it can be taken away with Pillow alone, so this half starts fast and needs no model.

Like every script of the examples it knows nothing of Penstock, only OSCAR's contract:
`INPUT_FILE_PATH`, `TMP_OUTPUT_DIR`, an exit code, and one sentence on stderr when it cannot work.
"""

import os
import sys
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter, ImageOps

WHITE = 255
LARGEST_TILT = 8.0  # degrees; beyond that a page was turned on purpose
LEAST_WIDTH = 1000  # pixels; a narrower picture is doubled so that its letters are large enough
SPECKLE = 90  # a pixel that differs this much from the middle of its neighbours is dirt


class Refused(Exception):
    """The picture or the set-up is at fault; the text says how, in one sentence."""


def main() -> None:
    """Clean the picture that the environment names."""
    picture = Path(required("INPUT_FILE_PATH"))
    output = Path(required("TMP_OUTPUT_DIR"))
    grey = enlarged(despeckled(evenly_lit(read(picture))))
    tilt = tilt_of(grey)
    straight = grey.rotate(-tilt, Image.Resampling.BICUBIC, expand=True, fillcolor=WHITE)
    straight.save(output / f"{picture.stem}.png")
    print(f"{picture.name}: {straight.width} x {straight.height}, tilt {tilt:+.2f} degrees")


def required(variable: str) -> str:
    """The variable's value, or a sentence that names it."""
    value = os.environ.get(variable)
    if not value:
        raise Refused(f"the variable {variable} is not set: a platform that speaks OSCAR's contract sets it")
    return value


def read(picture: Path) -> Image.Image:
    """The picture in shades of grey, upright, dark letters on light paper."""
    try:
        with Image.open(picture) as opened:
            # A phone stores the picture as the sensor saw it, and in a tag which side is up.
            rgba = ImageOps.exif_transpose(opened).convert("RGBA")
    except FileNotFoundError as error:
        raise Refused(f"there is no file {picture}") from error
    # Pillow reports damage as any of these, depending on the format and on where the damage is.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise Refused(f"cannot read {picture.name} as a picture: {first_line(error)}") from error
    paper = Image.new("RGBA", rgba.size, "white")
    grey = Image.alpha_composite(paper, rgba).convert("L")
    # Most of a page is paper, so a picture that is mostly dark has light letters.
    mostly_dark = grey.resize((1, 1), Image.Resampling.BOX).tobytes()[0] < 100
    return ImageOps.invert(grey) if mostly_dark else grey


def evenly_lit(grey: Image.Image) -> Image.Image:
    """Without shadows: what differs from the paper around it is ink, however dark the paper is."""
    # Seen at an eighth of its size, and each spot taken as the lightest around it, the letters are gone
    # and the paper is left.
    small = grey.resize((max(1, grey.width // 8), max(1, grey.height // 8)), Image.Resampling.BOX)
    paper = small.filter(ImageFilter.MaxFilter(9)).filter(ImageFilter.GaussianBlur(4)).resize(grey.size)
    ink = ImageChops.subtract(paper, grey)
    return ImageOps.autocontrast(ImageOps.invert(ink), cutoff=(0.5, 0))


def despeckled(grey: Image.Image) -> Image.Image:
    """Lone pixels take the colour around them; all others stay, so that fine strokes are not blurred."""
    around = grey.filter(ImageFilter.MedianFilter(3))
    dirt = ImageChops.difference(grey, around).point(lambda difference: WHITE * (difference > SPECKLE))
    return Image.composite(around, grey, dirt)


def enlarged(grey: Image.Image) -> Image.Image:
    """Twice as large, when the picture is small."""
    if grey.width >= LEAST_WIDTH:
        return grey
    return grey.resize((grey.width * 2, grey.height * 2), Image.Resampling.LANCZOS)


def tilt_of(grey: Image.Image) -> float:
    """The angle in degrees by which the lines of text rise to the right.

    Turned right, lines of text and the gaps between them make the sharpest stripes: found first in whole
    degrees, then in quarters around the best.
    """
    sketch = grey.copy()
    sketch.thumbnail((500, 500), Image.Resampling.BOX)
    steps = round(LARGEST_TILT)
    coarse = max((float(step) for step in range(-steps, steps + 1)), key=lambda tilt: stripes(sketch, tilt))
    return max((coarse + step / 4 for step in range(-3, 4)), key=lambda tilt: stripes(sketch, tilt))


def stripes(sketch: Image.Image, tilt: float) -> float:
    """How sharply light and dark rows alternate once the tilt is taken out."""
    straight = sketch.rotate(-tilt, Image.Resampling.BILINEAR, fillcolor=WHITE)
    # One pixel per row holds the row's mean; 32-bit floats, since whole numbers would hide the difference
    # between neighbouring angles.
    rows = straight.convert("F").resize((1, straight.height), Image.Resampling.BOX)
    means = memoryview(rows.tobytes()).cast("f").tolist()
    return sum((upper - lower) ** 2 for upper, lower in pairwise(means))


def first_line(error: BaseException) -> str:
    """What went wrong, short enough for a log line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    try:
        main()
    except Refused as refusal:
        sys.exit(f"clean: {refusal}")
