"""Letters and digits of open fonts as an ImageFolder tree of PNG files; no font family is in both halves.

The classes are the 47 of EMNIST's split "by merge" (Cohen et al. 2017, arXiv 1702.05373): ten digits, 26 capitals
(those shaped like their lowercase letters stand for both) and the other lowercase letters. The hash of an image's name
seeds its drawing: a glyph rotated, slanted, scaled, shifted and blurred, lighter or darker than a textured paper, under
noise.
"""

import hashlib
import math

import numpy as np
from PIL import Image, ImageFilter

from core.files import UserError
from data import fonts, image_folder, processes

PIXELS = 48  # an image's width and height
LEVELS = 16  # gray levels; finer noise would only enlarge the files
VAL = 0.25  # share of the families in validation
FEWEST = 8  # families needed for a dataset

BOTH = "CIJKLMOPSUVWXYZ"
APART = "ABDEFGHNQRT"
CLASSES = {
    **{f"digit_{digit}": digit for digit in "0123456789"},
    **{f"letter_{letter}": letter + letter.lower() for letter in BOTH},
    **{f"capital_{letter}": letter for letter in APART},
    **{f"small_{letter.lower()}": letter.lower() for letter in APART},
}


def write_tree(root: str, row: dict) -> dict:
    """Write root/{train,val}/{class}/{number}.png in place of an earlier tree; return {"fonts": records of the faces}.

    row: {drawing: {fonts: folder, train and val: images per class, families: at most (absent: all)}}.
    Raises UserError if the folder holds fewer than FEWEST families.
    """
    if "drawing" not in row:
        raise UserError("datasets: builtin glyphs needs `drawing: {fonts, train, val}` in config.yaml")
    drawing = row["drawing"]
    halves = _halves(drawing)
    tasks = []
    with image_folder.replacing(root, CLASSES) as partial:
        for half, families in halves.items():
            tasks += [(partial, *task) for task in sorted(_plan(families, half, drawing[half]).items())]
        list(processes.imap(_draw_all, tasks, "draw glyphs", "font"))
    return {"fonts": [_described(face, half) for half in halves for faces in halves[half] for face in faces]}


def _halves(drawing):
    """Return {half: [[Face]]}: the families in the order of their first file's hash."""
    families = sorted(fonts.find(drawing["fonts"], list(CLASSES.values())), key=lambda faces: faces[0].sha256)
    if len(families) < FEWEST:
        counts = f"{len(families)} usable families, at least {FEWEST} are needed"
        raise UserError(f"font folder {drawing['fonts']} holds {counts}: {fonts.REMEDY}")
    families = families[: drawing.get("families")]
    count = max(1, round(VAL * len(families)))
    return {"val": families[:count], "train": families[count:]}


def _described(face, half):
    record = {"file": face.name, "family": face.family, "style": face.style, "sha256": face.sha256, "half": half}
    return {**record, "version": fonts.revision(face.path)}


def _plan(families, half, count):
    """Return {font file: [(image name, character)]}: `count` images for each class, families in turn."""
    plan = {}
    for place, (name, text) in enumerate(CLASSES.items()):
        for number in range(count):
            turn, family = divmod(number + place, len(families))
            face = families[family][turn % len(families[family])]
            image = f"{half}/{name}/{number:05d}"
            plan.setdefault(face.path, []).append((image, text[_hash(image)[0] % len(text)]))
    return plan


def _draw_all(task):
    """Draw the images of one font file."""
    root, path, images = task
    font = fonts.load(path)
    for name, character in images:
        rng = np.random.RandomState(np.frombuffer(_hash(name), dtype=np.uint32))  # RandomState's numbers never change
        draw(fonts.glyph(font, character), rng).save(root / f"{name}.png", compress_level=0)


def _hash(text):
    return hashlib.sha256(text.encode()).digest()


def draw(glyph: Image.Image, rng: np.random.RandomState) -> Image.Image:
    """Return a cropped glyph (L, 255 is ink) as a gray image of PIXELS x PIXELS on a random background."""
    placed = place(glyph, rng).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.3)))
    ink = np.asarray(placed, dtype=np.float32) / 255
    paper, color = _tones(rng)
    surface = paper + _texture(rng, rng.uniform(0, 0.2) * abs(color - paper))
    image = surface + (color - surface) * ink
    image += rng.normal(0, rng.uniform(1, 14), image.shape)
    levels = np.clip(np.round(image / (256 // LEVELS)), 0, LEVELS - 1)
    return Image.fromarray((levels * (255 / (LEVELS - 1))).astype(np.uint8))


def place(glyph: Image.Image, rng: np.random.RandomState) -> Image.Image:
    """Return the glyph randomly rotated, slanted, scaled and shifted: the ink of an image of PIXELS x PIXELS."""
    angle, slant = math.radians(rng.uniform(-18, 18)), rng.uniform(-0.3, 0.3)
    scale, stretch = rng.uniform(0.42, 0.8) * 2 * PIXELS / max(glyph.size), rng.uniform(-0.12, 0.12, 2)
    wide, high = (scale * math.exp(share) for share in stretch.tolist())
    x, y = (PIXELS + 2 * PIXELS * share for share in rng.uniform(-0.12, 0.12, 2).tolist())
    cos, sin = math.cos(angle), math.sin(angle)
    # Pillow takes the inverse transform, from the pixels of the image (twice as many, then reduced) to the glyph's
    a, b = (cos + slant * sin) / wide, (sin - slant * cos) / wide
    c, d = -sin / high, cos / high
    shift = (glyph.width / 2 - a * x - b * y, glyph.height / 2 - c * x - d * y)
    matrix = (a, b, shift[0], c, d, shift[1])
    return glyph.transform((2 * PIXELS, 2 * PIXELS), Image.AFFINE, matrix, Image.BICUBIC).reduce(2)


def _tones(rng):
    """Return the gray levels of paper and ink, at least 70 apart, either one darker."""
    apart = rng.uniform(70, 230)
    dark = rng.uniform(0, 255 - apart)
    return (dark, dark + apart) if rng.rand() < 0.5 else (dark + apart, dark)


def _texture(rng, strength):
    """Return smooth random gray [PIXELS, PIXELS] of 3 to 12 knots a side and a standard deviation near `strength`."""
    knots = rng.normal(0, strength, (rng.randint(3, 13),) * 2).astype(np.float32)
    return np.asarray(Image.fromarray(knots).resize((PIXELS, PIXELS), Image.BICUBIC))
