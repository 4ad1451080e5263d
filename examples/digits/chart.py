"""Keep a confusion table and a chart over all predictions seen so far.

The second function of the chain. It shows how a function keeps state between runs: one small file per
input key on its volume, and every run rebuilds the whole report from those files. So the same input run
twice changes nothing, a run killed half-way leaves nothing half done, and no counter can drift.

The chart is drawn with Pillow alone, since a plotting library takes longer to import than this takes to
run, and it runs once for every picture.
"""

import csv
import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DIGITS = 10
TRUTH = re.compile(r"truth-(\d)(?!\d)")  # train.py writes it into the names of its pictures

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WIDTH, HEIGHT = 900, 870
LEFT, TOP, CELL, GAP = 116, 134, 58, 2
GRID = DIGITS * CELL
WHITE: Colour = (255, 255, 255)
TEXT: Colour = (31, 41, 55)
MUTED: Colour = (107, 114, 128)
EMPTY: Colour = (243, 244, 246)
# From "one" to "most": blue for right answers, orange for wrong ones, so that errors stand out however
# few they are; grey where nobody told the truth.
RIGHT: tuple[Colour, Colour] = ((204, 224, 245), (8, 69, 148))
WRONG: tuple[Colour, Colour] = ((254, 217, 178), (204, 76, 2))
UNKNOWN: tuple[Colour, Colour] = ((222, 226, 230), (90, 98, 110))


class Refused(Exception):
    """The input or the set-up is at fault; the text says how, in one sentence."""


@dataclass(frozen=True)
class Table:
    """How often each truth (a row; the last one is for pictures without a known truth) got each answer."""

    counts: tuple[tuple[int, ...], ...]

    @property
    def known(self) -> int:
        """Predictions whose truth is known."""
        return sum(map(sum, self.counts[:DIGITS]))

    @property
    def right(self) -> int:
        """Predictions that are true."""
        return sum(self.counts[digit][digit] for digit in range(DIGITS))

    @property
    def unknown(self) -> int:
        """Predictions that nobody can judge, as for a picture that a user drew."""
        return sum(self.counts[DIGITS])

    def summary(self) -> str:
        """The table in one sentence."""
        words = "no picture with a known truth yet"
        if self.known:
            words = f"{self.right} of {self.known} right: accuracy {percent(self.right, self.known, 1)}"
        return words + (f" ({self.unknown} without a known truth)" if self.unknown else "")


def percent(part: int, whole: int, places: int) -> str:
    """The share as people write it, but 100 % only when nothing is missing."""
    highest = 100.0 if part == whole else 100.0 - 10.0**-places
    return f"{min(100.0 * part / whole, highest):.{places}f}%"


def main() -> None:
    """Take in the prediction that the environment names, and rewrite the report."""
    prediction = Path(required("INPUT_FILE_PATH"))
    output = Path(required("TMP_OUTPUT_DIR"))
    state = Path(os.environ.get("VOLUME_PATH") or "/state")
    key = os.environ.get("STORAGE_OBJECT_KEY", prediction.name)
    remember(state, key, *read(prediction))
    table = tabulate(state)
    write_csv(table, output / "confusion.csv")
    draw(table).save(output / "confusion.png")
    print(table.summary())


def required(variable: str) -> str:
    """The variable's value, or a sentence that names it."""
    value = os.environ.get(variable)
    if not value:
        raise Refused(f"the variable {variable} is not set: a platform that speaks OSCAR's contract sets it")
    return value


def read(prediction: Path) -> tuple[int | None, int]:
    """The truth, if the picture's name has it, and the digit that was predicted."""
    try:
        answer = json.loads(prediction.read_bytes())
        # Looked up and not merely taken: this refuses what is no digit.
        file, predicted = str(answer["file"]), range(DIGITS).index(answer["predicted"])
    except FileNotFoundError as error:
        raise Refused(f"there is no file {prediction}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{prediction.name} is not a prediction of digits-classify") from error
    found = TRUTH.search(file)
    return (int(found[1]) if found else None), predicted


def remember(state: Path, key: str, truth: int | None, predicted: int) -> None:
    """Keep this key's answer in its own file; the name is a digest because a key may have slashes."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        # Renamed into place, so that a run killed while it writes leaves no torn file to count.
        fresh = state / f".{digest}.{os.getpid()}"
        fresh.write_text(json.dumps({"key": key, "truth": truth, "predicted": predicted}), encoding="utf-8")
        fresh.replace(state / f"{digest}.json")
    except OSError as error:
        raise Refused(f"cannot keep state in {state}: {error.strerror}") from error


def tabulate(state: Path) -> Table:
    """Count all that the volume remembers."""
    counts = [[0] * DIGITS for _ in range(DIGITS + 1)]
    for file in state.glob("[!.]*.json"):
        try:
            entry = json.loads(file.read_bytes())
            row = DIGITS if entry["truth"] is None else entry["truth"]
            counts[row][entry["predicted"]] += 1
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise Refused(f"the state file {file} is damaged: remove it and replay its input") from error
    return Table(tuple(map(tuple, counts)))


def write_csv(table: Table, path: Path) -> None:
    """One row per truth, one column per answer; the row `unknown` only when there is something in it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["truth", *range(DIGITS)])
        writer.writerows([digit, *table.counts[digit]] for digit in range(DIGITS))
        if table.unknown:
            writer.writerow(["unknown", *table.counts[DIGITS]])


def draw(table: Table) -> Image.Image:
    """The table as a picture."""
    image = Image.new("RGB", (WIDTH, HEIGHT), WHITE)
    pen = ImageDraw.Draw(image)
    pen.text((LEFT, 30), "Handwritten digits: written and read", TEXT, font(30))
    pen.text((LEFT, 74), table.summary(), MUTED, font(19))
    draw_axes(image, pen, table)
    for row in range(DIGITS):
        draw_row(pen, table, row, TOP + row * CELL, str(row))
    if table.unknown:
        draw_row(pen, table, DIGITS, TOP + GRID + 6, "?")
    draw_scales(pen, table)
    return image


def draw_axes(image: Image.Image, pen: ImageDraw.ImageDraw, table: Table) -> None:
    """Both axis labels, and the digits below the last row."""
    below = TOP + GRID + (CELL + 6 if table.unknown else 0) + 12
    for digit in range(DIGITS):
        pen.text((LEFT + digit * CELL + CELL / 2, below + 10), str(digit), TEXT, font(20), anchor="mm")
    pen.text((LEFT + GRID / 2, below + 42), "digit that was read (predicted)", MUTED, font(19), anchor="mm")
    pen.text((LEFT + GRID + 38, TOP - 14), "recall", MUTED, font(17), anchor="mm")
    # Pillow writes from left to right only, so the label of the vertical axis is turned after writing.
    label = Image.new("RGB", (GRID, 30), WHITE)
    ImageDraw.Draw(label).text((GRID / 2, 15), "digit that was written (truth)", MUTED, font(19), anchor="mm")
    image.paste(label.rotate(90, expand=True), (34, TOP))


def draw_row(pen: ImageDraw.ImageDraw, table: Table, row: int, top: int, name: str) -> None:
    """The ten cells of one truth, its name before them and its share of right answers behind."""
    middle = top + CELL / 2
    pen.text((LEFT - 20, middle), name, TEXT, font(20), anchor="mm")
    for column, count in enumerate(table.counts[row]):
        colour = cell_colour(table, row, column)
        left = LEFT + column * CELL
        pen.rounded_rectangle((left, top, left + CELL - GAP, top + CELL - GAP), 5, colour)
        if count:
            # White on dark, dark on light: by the luminance that an eye sees.
            dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 150
            centre = (left + CELL / 2 - 1, middle - 1)
            pen.text(centre, str(count), WHITE if dark else TEXT, font(19), anchor="mm")
    total = sum(table.counts[row])
    if row < DIGITS and total:
        recall = percent(table.counts[row][row], total, 0)
        pen.text((LEFT + GRID + 38, middle), recall, MUTED, font(17), anchor="mm")


def cell_colour(table: Table, row: int, column: int) -> Colour:
    """The cell's place on the scale it belongs to."""
    count = table.counts[row][column]
    if not count:
        return EMPTY
    ends = UNKNOWN if row == DIGITS else RIGHT if row == column else WRONG
    return shade(ends, count, *limits(table)[ends])


def limits(table: Table) -> dict[tuple[Colour, Colour], tuple[int, int]]:
    """For each scale the counts of its two ends: 1 and the largest count it has to show."""
    right = max(table.counts[digit][digit] for digit in range(DIGITS))
    wrong = max(table.counts[row][column] for row in range(DIGITS) for column in range(DIGITS) if row != column)
    return {RIGHT: (1, right), WRONG: (1, wrong), UNKNOWN: (1, max(table.counts[DIGITS]))}


def shade(ends: tuple[Colour, Colour], count: int, least: int, most: int) -> Colour:
    """The colour of a count; when there is one count only it gets the middle of the scale."""
    share = (count - least) / (most - least) if most > least else 0.5
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(*ends, strict=True))
    return red, green, blue


def draw_scales(pen: ImageDraw.ImageDraw, table: Table) -> None:
    """A bar for each scale, with the counts of its ends."""
    left, length = LEFT + GRID + 92, 200
    for name, ends, top in (("right", RIGHT, TOP + 22), ("wrong", WRONG, TOP + 312)):
        least, most = limits(table)[ends]
        pen.text((left, top - 20), name, MUTED, font(17), anchor="lm")
        for step in range(length):
            pen.line((left, top + step, left + 20, top + step), shade(ends, length - step, 1, length))
        if most == 0:
            pen.text((left + 30, top + length / 2), "none", TEXT, font(17), anchor="lm")
        elif most == least:
            pen.text((left + 30, top + length / 2), str(most), TEXT, font(17), anchor="lm")
        else:
            pen.text((left + 30, top + 6), str(most), TEXT, font(17), anchor="lm")
            pen.text((left + 30, top + length - 6), str(least), TEXT, font(17), anchor="lm")


_fonts: dict[int, Font] = {}


def font(size: int) -> Font:
    """Pillow's own scalable font: no font of the machine is needed. Unpacking it is the slow part."""
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]


if __name__ == "__main__":
    try:
        main()
    except Refused as refusal:
        sys.exit(f"chart: {refusal}")
