"""Make what the digits example needs before its first run: a trained model, and pictures it never saw.

Both come from the 1,797 handwritten digits that scikit-learn carries inside, so nothing is downloaded.
They are made together in one module because they must agree on one thing: which digits are held out.
The model learns from the others only, and every picture written here is a held-out one, so the accuracy
that the demo shows is honest. The seed is fixed: the same digits are held out every time.

The model learns from pictures, not from the bundled numbers: each digit is drawn as a picture, also moved
and turned a little, and read back by the same code that classify.py runs. It leaves as plain arrays
(.npz): whoever uses it needs numpy and not scikit-learn.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from classify import ink  # type: ignore[import-not-found,unused-ignore]
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped,unused-ignore]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped,unused-ignore]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SEED = 20
HELD_OUT = 450  # of 1,797
FULL_INK = 16.0  # scikit-learn's digits count the inked pixels of each 4 x 4 block
PICTURE_SIDE = 64
WORST_ACCURACY = 0.95
# Each digit is learnt as it is, moved by half a pixel of its 8 x 8 to each side (x, y in picture pixels),
# and turned (degrees): nobody writes in the exact middle. It takes the errors from 2.3 % to 1.1 %.
VARIANTS = ((0, 0, 0), (4, 0, 0), (-4, 0, 0), (0, 4, 0), (0, -4, 0), (0, 0, 8), (0, 0, -8))


def main() -> None:
    """Train the model and, when asked, write pictures to drop into the bucket."""
    beside = Path(__file__).with_name("digits.npz")
    parser = argparse.ArgumentParser(description="Train the digits model and write held-out pictures.")
    parser.add_argument("--model", type=Path, default=beside, help="file to write (default: beside train.py)")
    parser.add_argument("--pictures", type=Path, help="folder to write held-out pictures to")
    parser.add_argument("--count", type=int, default=60, help=f"how many, at most {HELD_OUT} (default 60)")
    options = parser.parse_args()
    if not 0 < options.count <= HELD_OUT:
        parser.error(f"--count must be between 1 and {HELD_OUT}, the number of held-out digits")
    accuracy = train(options.model)
    print(f"model: {options.model}, accuracy {accuracy:.1%} on {HELD_OUT} held-out digits")
    if options.pictures:
        written = write_pictures(options.pictures, options.count)
        print(f"pictures: {len(written)} in {options.pictures}")


def train(model: Path) -> float:
    """Train, write the model file, and return the accuracy on the held-out digits."""
    learned, held_out, learned_truths, truths = split()
    examples = np.array([ink(varied(draw(digit), *how)) for how in VARIANTS for digit in learned])
    classifier = MLPClassifier(
        (128,),
        alpha=0.05,
        learning_rate_init=0.003,
        tol=0.001,
        n_iter_no_change=4,
        random_state=SEED,
    )
    # Threads help no matrix this small, and on a busy machine they fight: 2 s become 20.
    with threadpool_limits(1):
        classifier.fit(examples, np.tile(learned_truths, len(VARIANTS)))
        accuracy = float(classifier.score(np.array([ink(draw(digit)) for digit in held_out]), truths))
    if accuracy < WORST_ACCURACY:
        raise SystemExit(f"train: accuracy {accuracy:.1%} is below {WORST_ACCURACY:.0%}: model not written")
    (w1, w2), (b1, b2) = classifier.coefs_, classifier.intercepts_
    model.parent.mkdir(parents=True, exist_ok=True)
    np.savez(model, w1=w1, b1=b1, w2=w2, b2=b2)
    return accuracy


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write held-out digits as PNG files whose names carry the truth, and return their paths.

    The truth is in the name and nowhere else, so the classifier could only cheat by reading it there.
    """
    _, held_out, _, truths = split()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (digit, truth) in enumerate(zip(held_out[:count], truths[:count], strict=True), start=1):
        path = folder / f"digit-{number:04d}-truth-{truth}.png"
        draw(digit).save(path)
        paths.append(path)
    return paths


def draw(digit: Floats) -> Image.Image:
    """One bundled digit as a picture that a person can read: dark pen on white paper."""
    paper = np.round(255.0 * (1.0 - digit.reshape(8, 8))).astype(np.uint8)
    return Image.fromarray(paper).resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC)


def varied(picture: Image.Image, right: int, down: int, degrees: int) -> Image.Image:
    """The picture moved and turned; what comes into view is paper."""
    return picture.rotate(degrees, Image.Resampling.BILINEAR, translate=(right, down), fillcolor=255)


def split() -> tuple[Floats, Floats, Ints, Ints]:
    """Digits to learn from, held-out digits, and the truths of both; each of the ten in fair share."""
    bundled = load_digits()
    learned, held_out, learned_truths, truths = train_test_split(
        bundled.data / FULL_INK,
        bundled.target,
        test_size=HELD_OUT,
        random_state=SEED,
        stratify=bundled.target,
    )
    return learned, held_out, learned_truths, truths


if __name__ == "__main__":
    main()
