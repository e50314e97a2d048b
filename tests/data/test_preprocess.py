"""The one preprocessing equals timm's evaluation transform to within one level, and the arrays kept in golden/."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from core.files import UserError
from data import preprocess
from described import USUAL
from model import training

ROW = USUAL
GOLDEN = ROOT / "tests" / "golden" / "preprocess.npz"


def picture(width, height, mode="RGB"):
    """Return an image with edges, slopes and texture, the same everywhere."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [(x * 7 + y * 3) % 256, (x * y) % 256, 255 * ((x // 3 + y // 5) % 2)]
    image = Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(((x + y) % 256).astype(np.uint8)))
        return image
    return image.convert(mode)


def timm_transform(size, crop, interpolation, crop_mode="center"):
    from timm.data import create_transform

    return create_transform(
        (3, size, size),
        is_training=False,
        interpolation=interpolation,
        crop_pct=crop,
        crop_mode=crop_mode,
        mean=ROW["mean"],
        std=ROW["std"],
    )


SIZES = [(640, 480), (333, 500), (8, 8), (1, 1), (3, 7), (248, 248), (249, 999), (225, 224)]
MODES = ["L", "RGBA", "P", "1", "CMYK", "LA"]


@pytest.mark.parametrize(
    ("width", "height", "mode"), [(*size, "RGB") for size in SIZES] + [(333, 501, mode) for mode in MODES]
)
def test_equal_to_timm_within_one_level(tmp_path, width, height, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    picture(width, height, mode).save(path)
    pixels = preprocess.prepare(preprocess.load(path), ROW)
    ours = preprocess.normalize(pixels[None], ROW["mean"], ROW["std"])[0]
    assert pixels.shape == (224, 224, 3) and pixels.dtype == np.uint8
    assert levels_apart(path, ours) <= 1.01


def levels_apart(path, ours):
    """Return the largest distance, in uint8 levels, of a normalized image from what timm's pipeline makes of a file."""
    theirs = timm_transform(224, ROW["crop"], "bicubic")(Image.open(path).convert("RGB")).numpy()
    return (np.abs(ours - theirs) * np.array(ROW["std"], dtype=np.float32).reshape(3, 1, 1) * 255).max()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: neither timm nor we turn it
    return exif


def ramp(kind):
    return Image.fromarray((np.arange(333 * 251).reshape(251, 333) % 65536).astype(kind))


def palette():
    return picture(333, 251).quantize(64)


ODD = {
    "cmyk.jpg": lambda path: picture(333, 251, "CMYK").save(path),
    "gray.jpg": lambda path: picture(333, 251, "L").save(path),
    "turned.jpg": lambda path: picture(333, 251).save(path, exif=turned()),
    "jpeg_inside.png": lambda path: picture(333, 251).save(path, "JPEG"),
    "png_inside.JPEG": lambda path: picture(333, 251).save(path, "PNG"),
    "progressive.jpg": lambda path: picture(333, 251).save(path, progressive=True),
    "palette.png": lambda path: palette().save(path),
    "palette_of_transparencies.png": lambda path: palette().save(path, transparency=bytes(range(64))),
    "palette_with_a_hole.png": lambda path: palette().save(path, transparency=3),
    "gray_with_a_hole.png": lambda path: picture(333, 251, "L").save(path, transparency=9),
    "16_bit.png": lambda path: ramp(np.uint16).save(path),
    "16_bit.tif": lambda path: ramp(np.uint16).save(path),
    "float.tif": lambda path: ramp(np.float32).save(path),
    "tall.png": lambda path: picture(1, 1200).save(path),
    "wide.png": lambda path: picture(1200, 1).save(path),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_what_timm_makes_of_them(tmp_path, name):
    ODD[name](tmp_path / name)
    pixels = preprocess.prepare(preprocess.load(tmp_path / name), ROW)
    assert levels_apart(tmp_path / name, preprocess.normalize(pixels[None], ROW["mean"], ROW["std"])[0]) <= 1.01


def test_a_very_long_image_needs_little_memory(tmp_path):
    """timm would make 248 x 992,000 pixels of it."""
    picture(1, 4000).save(tmp_path / "long.png")
    program = "import sys; sys.path.insert(0, 'workflow_scripts'); from data import preprocess\n"
    program += f"preprocess.prepare(preprocess.load({str(tmp_path / 'long.png')!r}), {ROW!r})\n"
    program += "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # the most that was in memory
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200_000  # KiB


@pytest.mark.parametrize(("size", "crop"), [(64, 0.9), (224, 0.875), (224, 1.0), (384, 0.95), (33, 0.77)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_other_rows_equal_timm_too(tmp_path, size, crop, interpolation):
    for width, height in [(301, 200), (199, 402)]:
        image = picture(width, height)
        pixels = preprocess.prepare(
            image, {"size": size, "crop": crop, "crop_mode": "center", "interpolation": interpolation}
        )
        theirs = timm_transform(size, crop, interpolation)(image)
        spread, center = torch.tensor(ROW["std"]).view(3, 1, 1), torch.tensor(ROW["mean"]).view(3, 1, 1)
        levels = ((theirs * spread + center) * 255).permute(1, 2, 0).numpy()
        assert np.abs(levels - pixels).max() <= 1.01


def test_squashed_and_padded_images_equal_timms(tmp_path):
    """Of a crop above 1, which pads, and of images that become square."""
    for crop_mode, crop in (("squash", 1.0), ("squash", 0.9), ("center", 1.15), ("squash", 1.15)):
        for width, height, size in ((301, 200, 64), (199, 402, 65), (90, 91, 224)):
            geometry = {"size": size, "crop": crop, "crop_mode": crop_mode, "interpolation": "bicubic"}
            theirs = timm_transform(size, crop, "bicubic", crop_mode)(picture(width, height))
            pixels = preprocess.prepare(picture(width, height), geometry)
            apart = (
                np.abs(preprocess.normalize(pixels[None], ROW["mean"], ROW["std"])[0] - theirs.numpy())
                * np.float32(ROW["std"]).reshape(3, 1, 1)
                * 255
            )
            assert apart.max() <= 1.01, (crop_mode, crop, width, height)


def golden_cases():
    geometry = {"size": 32, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"}
    yield "wide", picture(61, 40), geometry
    yield "tall_gray", picture(23, 57, "L"), geometry
    yield "tiny", picture(5, 4), geometry
    yield "bilinear", picture(61, 40), dict(geometry, interpolation="bilinear")


def test_golden_arrays():
    golden = np.load(GOLDEN)
    for name, image, geometry in golden_cases():
        difference = preprocess.prepare(image, geometry).astype(int) - golden[name]
        assert np.abs(difference).max() <= 1, name
    scaled = preprocess.normalize(golden["wide"][None], ROW["mean"], ROW["std"])
    np.testing.assert_allclose(scaled, golden["wide_normalized"], rtol=0, atol=1e-6)


def test_normalize_is_contiguous_float32_and_torch_agrees_to_the_bit():
    batch = np.random.RandomState(0).randint(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    scaled = preprocess.normalize(batch, ROW["mean"], ROW["std"])
    assert scaled.shape == (2, 3, 5, 6) and scaled.dtype == np.float32 and scaled.flags.c_contiguous
    there = training.to_input(torch.from_numpy(batch), ROW["mean"], ROW["std"], torch.device("cpu"))
    assert torch.equal(there, torch.from_numpy(scaled)) and there.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_an_unreadable_image_is_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(UserError, match=r"image .*bad.png cannot be read \(.*\): replace or remove it"):
        preprocess.load(tmp_path / "bad.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_cut_short_is_named(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    picture(200, 200).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"image .*cut.{suffix} cannot be read"):
        preprocess.load(path)


def test_a_missing_image_and_an_unknown_filter_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.png is in the index but does not exist"):
        preprocess.load(tmp_path / "none.png")
    with pytest.raises(UserError, match=r"interpolation 'cubic' is unknown: bicubic or bilinear"):
        preprocess.prepare(picture(9, 9), {"size": 8, "crop": 1.0, "crop_mode": "center", "interpolation": "cubic"})


if __name__ == "__main__":  # writes golden/preprocess.npz anew
    arrays = {name: preprocess.prepare(image, geometry) for name, image, geometry in golden_cases()}
    arrays["wide_normalized"] = preprocess.normalize(arrays["wide"][None], ROW["mean"], ROW["std"])
    np.savez_compressed(GOLDEN, **arrays)
