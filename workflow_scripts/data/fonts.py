"""Font files as a source of labelled glyphs: which of them hold an alphabet, and which belong to one family.

The rules compare drawn glyphs, because names and character maps of font files are often wrong. A face is left out if
- a character is blank or drawn as the font's missing glyph,
- two classes share a glyph, or most lowercase letters are drawn as their capitals,
- all its glyphs equal those of an earlier face, or
- few of its glyphs resemble the characters that they stand for (dingbats, ciphers, other scripts).
Faces belong to one family if their files say so or if nearly all of their ink is equal (Arial has many copies).
"""

import collections
import hashlib
import itertools
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from core.files import UserError, sha256_file
from data import processes

SUFFIXES = (".ttf", ".otf")
REMEDY = "`make fonts`, or correct `drawing.fonts` in config.yaml"  # where fonts are missing
EM = 96  # pixels of the em
SHAPE = 16  # glyphs are compared at SHAPE x SHAPE pixels
LEGIBLE = 0.3  # least share of a face's glyphs that are nearest to the mean of their own character over all faces
SAME = 0.9  # least correlation of a capital and a lowercase letter that are one drawing
ALIKE = 0.96  # least correlation of the glyphs of two faces of one family

Face = collections.namedtuple("Face", "path name family style sha256 digest shapes")
# name: path below the font folder; digest: of all glyphs; shapes: uint8 [characters, SHAPE, SHAPE]


def load(path: str) -> ImageFont.FreeTypeFont:
    """Return the Pillow font in `path` with an em of EM pixels."""
    return ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)


def glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """Return a character as an image (L, 255 is ink) cropped to its ink, or None if it is blank."""
    mask = font.getmask(character, mode="L")
    box = mask.getbbox()
    return box and Image.frombytes("L", mask.size, bytes(mask)).crop(box)


def revision(path: str) -> float | None:
    """Return a font file's version (fontRevision of OpenType's table `head`), or None."""
    with open(path, "rb") as stream:
        content = stream.read()
    for number in range(struct.unpack_from(">4xH", content)[0]):
        tag, offset = struct.unpack_from(">4s4xI", content, 12 + 16 * number)
        if tag == b"head":
            return round(struct.unpack_from(">i", content, offset + 4)[0] / 65536, 3)
    return None


def find(folder: str, classes: list[str]) -> list[list[Face]]:
    """Return the families below `folder` whose faces draw the characters of all classes, in a fixed order.

    classes: the characters of each class. Raises UserError if the folder does not exist.
    """
    if not os.path.isdir(folder):
        raise UserError(f"font folder {folder} does not exist: {REMEDY}")
    names = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    faces = processes.imap(_inspect, [(folder, name, classes) for name in names], "read fonts", "font")
    different = list({face.digest: face for face in reversed(list(faces)) if face}.values())  # the first of equal ones
    return _families(_legible(different[::-1]))


def _inspect(task):
    """Return the Face in a file, or None if it cannot be read or its glyphs cannot be told apart."""
    folder, name, classes = task
    path = os.path.join(folder, name)
    try:
        font = load(path)
        missing = _ink(glyph(font, "\U0010ffff"))
        images = {character: glyph(font, character) for text in classes for character in text}
    except (OSError, ValueError):
        return None
    inks = {character: _ink(image) for character, image in images.items()}
    if None in inks.values() or missing in inks.values():
        return None
    shapes = np.stack([np.asarray(image.resize((SHAPE, SHAPE), Image.BOX)) for image in images.values() if image])
    if _shared(inks, classes) or _one_case(dict(zip(images, _unit(shapes))), classes):
        return None
    digest = hashlib.sha256(b"".join(inks.values())).hexdigest()
    family, style = font.getname()
    return Face(path, name, family or "", style or "", sha256_file(path), digest, shapes)


def _ink(image):
    return image and repr(image.size).encode() + image.tobytes()


def _shared(inks, classes):
    """Return whether two classes share a glyph."""
    sets = [{inks[character] for character in text} for text in classes]
    return any(one & other for one, other in itertools.combinations(sets, 2))


def _one_case(units, classes):
    """Return whether most lowercase letters with a class of their own are drawn as their capitals."""
    apart = [text for text in classes if len(text) == 1 and text.isupper()]
    same = [units[text] @ units[text.lower()] >= SAME for text in apart]
    return 2 * sum(same) > len(apart)


def _legible(faces):
    """Return the faces with enough glyphs that are nearest to the mean of their own character."""
    if not faces:
        return []
    means = _unit(np.mean([face.shapes for face in faces], axis=0, dtype=np.float32))
    places = np.arange(len(means))
    return [face for face in faces if np.mean((_unit(face.shapes) @ means.T).argmax(axis=1) == places) >= LEGIBLE]


def _unit(arrays):
    """Return [N, ...] as float32 [N, K], rows of mean 0 and length 1, so that dot products are correlations."""
    flat = np.asarray(arrays, dtype=np.float32).reshape(len(arrays), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _families(faces):
    """Return the faces in groups: the connected components of nearness."""
    if not faces:
        return []
    inks = _unit([_unit(face.shapes) for face in faces])
    names = np.unique([face.family.casefold() for face in faces], return_inverse=True)[1]
    near = (inks @ inks.T >= ALIKE) | (names[:, None] == names[None, :])
    group, last = np.arange(len(faces)), None
    while last is None or (group != last).any():  # each face takes the least number among its neighbours
        group, last = np.where(near, group[None, :], len(faces)).min(axis=1), group
    together = collections.defaultdict(list)
    for face, number in zip(faces, group):
        together[number].append(face)
    return list(together.values())
