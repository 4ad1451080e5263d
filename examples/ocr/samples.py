"""Make pictures to try the OCR chain on: known text, made hard to read as a phone would.

The text is known, so what the chain reads can be compared with what was drawn. Everything is seeded: the
same call makes the same pictures. The font is the one that Pillow carries inside.

    python samples.py --pictures samples --truths samples.json
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

SEED = 20
NOTES = (
    "Meeting on Thursday\nroom 204, at half past nine\nbring the blue folder",
    "Invoice 2041\nTwelve boxes of paper\nTotal: 118.50 EUR",
    "Platform 3\nTrain to Valencia\ndeparts 17:45",
    "Sample 88-B\nkeep below 4 degrees\nopened on 12 May 2026",
    "Fresh bread, apples\nolive oil and coffee\nsoap, two light bulbs",
    "Please close the gate\nThe dog is friendly\nbut very curious",
)


def main() -> None:
    """Write the samples and, when asked, what they say."""
    parser = argparse.ArgumentParser(description="Make noisy pictures of known text.")
    parser.add_argument("--pictures", type=Path, required=True, help="folder to write pictures to")
    parser.add_argument("--truths", type=Path, help="JSON file to write: what each picture says")
    parser.add_argument("--count", type=int, default=len(NOTES), help=f"how many (default {len(NOTES)})")
    options = parser.parse_args()
    truths = write_pictures(options.pictures, options.count)
    if options.truths:
        options.truths.write_text(json.dumps(truths, indent=2) + "\n", encoding="utf-8")
    print(f"pictures: {len(truths)} in {options.pictures}")


def write_pictures(folder: Path, count: int) -> dict[str, str]:
    """Write pictures of the notes, over and over with other noise, and return what each file says."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(SEED)  # noqa: S311 - noise, not a secret
    truths = {}
    for number in range(count):
        text = NOTES[number % len(NOTES)]
        name = f"note-{number + 1:03d}.png"
        photographed(written(text, chance.choice((34, 40, 46))), chance).save(folder / name)
        truths[name] = text
    return truths


def written(text: str, size: int) -> Image.Image:
    """The text on white paper, with a margin."""
    font = ImageFont.load_default(size)
    spacing = size // 2
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = ruler.multiline_textbbox((0, 0), text, font, spacing=spacing)
    margin = 2 * size
    paper = Image.new("L", (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin), 255)
    ImageDraw.Draw(paper).multiline_text((margin - left, margin - top), text, 40, font, spacing=spacing)
    return paper


def photographed(page: Image.Image, chance: random.Random) -> Image.Image:
    """The page as a phone sees it: tilted, a little out of focus, in uneven light, with dirt on it."""
    tilted = page.rotate(chance.uniform(-4, 4), Image.Resampling.BICUBIC, fillcolor=255)
    blurred = tilted.filter(ImageFilter.GaussianBlur(chance.uniform(0.4, 0.9)))
    # A shadow that falls across the page: from full light on one side to about half on the other.
    shadow = Image.linear_gradient("L").rotate(chance.choice((0, 90, 180, 270))).resize(page.size)
    shadow = shadow.point(lambda value: 130 + value * 125 // 255)
    dim = ImageChops.multiply(blurred, shadow)
    grain = Image.frombytes("L", page.size, chance.randbytes(page.width * page.height))
    dirty = ImageChops.add(dim, grain.point(lambda value: value // 5), 1, -25)
    pixels = ImageDraw.Draw(dirty)
    for _ in range(page.width * page.height // 400):
        spot = (chance.randrange(page.width), chance.randrange(page.height))
        pixels.point(spot, chance.choice((0, 255)))
    return dirty


if __name__ == "__main__":
    main()
