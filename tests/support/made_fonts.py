"""Font files for tests: the Aileron that Pillow carries, its outlines bent, with the faults that fonts have."""

import copy
import io
import math
import random

from fontTools.ttLib import TTFont
from fontTools.ttLib.tables._g_l_y_f import Glyph
from PIL import ImageFont

TEXT = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SMALL = 0.7  # of a capital, where it stands for its small letter


def write(path, family, *faults, bend=None, nudge=0):
    """Write a font file; bend: seed of how its outlines are bent; nudge: units that they are moved; faults: below."""
    font = TTFont(io.BytesIO(ImageFont.load_default(64).font_bytes), recalcTimestamp=False)
    _move(font, _bent(random.Random(bend)) if bend is not None else lambda x, y: (x, y), nudge)
    for record in font["name"].names:
        if record.nameID == 1:
            record.string = family
    for fault in faults:
        fault(font)
    font.save(path)


def families(folder, count):
    """Write `count` fonts of different families into a folder and return it."""
    folder.mkdir(parents=True)
    for number in range(count):
        write(folder / f"{number:02d}.ttf", f"Bent {number}", bend=number)
    return folder


def _bent(rng):
    wide, slant = rng.uniform(0.8, 1.2), rng.uniform(-0.35, 0.35)
    waves = [(rng.uniform(20, 60), rng.uniform(90, 220), rng.uniform(0, 6)) for _ in range(2)]

    def bend(x, y):
        swings = [depth * math.sin(at / length + phase) for (depth, length, phase), at in zip(waves, (y, x))]
        return wide * x + slant * y + swings[0], y + swings[1]

    return bend


def _move(font, function, nudge):
    for name in font.getGlyphOrder():
        glyph = font["glyf"][name]
        if glyph.numberOfContours > 0:
            for place, (x, y) in enumerate(glyph.coordinates):
                x, y = function(x, y)
                glyph.coordinates[place] = (round(x + nudge * (place % 3)), round(y))


# Faults


def without_q(font):
    for table in font["cmap"].tables:
        table.cmap.pop(ord("Q"), None)


def blank_q(font):
    font["glyf"][font.getBestCmap()[ord("Q")]] = Glyph()


def eight_as_b(font):
    for table in font["cmap"].tables:
        table.cmap[ord("B")] = table.cmap[ord("8")]


def small_capitals(font):
    names = font.getBestCmap()
    for letter in TEXT[10:36]:
        glyph = copy.deepcopy(font["glyf"][names[ord(letter)]])
        for place, (x, y) in enumerate(glyph.coordinates):
            glyph.coordinates[place] = (round(SMALL * x), round(SMALL * y))
        font["glyf"][names[ord(letter.lower())]] = glyph


def cipher(font):
    for table in font["cmap"].tables:
        before = dict(table.cmap)
        for place, character in enumerate(TEXT):
            table.cmap[ord(character)] = before[ord(TEXT[(place + 7) % len(TEXT)])]
